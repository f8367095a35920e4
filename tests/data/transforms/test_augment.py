"""What is drawn: which values are taken, on what they depend, how they are distributed."""

import numpy as np
import pytest

from cnnzoo.data.transforms.augment import Augment, shorter_side_to
from cnnzoo.errors import UserError

COUNT = 10_000


def sizes(height, width, count=COUNT):
    return np.tile(np.array([height, width], np.int64), (count, 1))


def drawn(augment, height, width, image_size, count=COUNT):
    return augment.sample(0, 0, np.arange(count), sizes(height, width, count), image_size)


def test_lists_from_yaml_become_tuples():
    augment = Augment(crop="random_resized", scale=[0.5, 1], ratio=[1, 2], mean=[0.5], std=[1])
    assert (augment.scale, augment.ratio, augment.mean, augment.std) == ((0.5, 1.0), (1.0, 2.0), (0.5,), (1.0,))
    assert augment == Augment(crop="random_resized", scale=(0.5, 1.0), ratio=(1.0, 2.0), mean=(0.5,), std=(1.0,))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"crop": "middle"}, "augment.crop=middle: it can be center, padded, random_resized"),
        ({"flip": 1.5}, "augment.flip=1.5: it must be a number from 0 to 1"),
        ({"flip": "yes"}, "augment.flip=yes"),
        ({"padding": -0.1}, "augment.padding=-0.1"),
        ({"eval_resize": 0.9}, "augment.eval_resize=0.9: it must be a number from 1"),
        ({"scale": [0.5]}, r"augment.scale=\[0.5\]: wanted are two numbers"),
        ({"scale": [0.9, 0.5]}, "augment.scale=.*the smaller first"),
        ({"scale": [0.5, 1.5]}, "augment.scale=.*at most 1"),
        ({"ratio": [0, 1]}, "augment.ratio=.*above 0"),
        ({"ratio": 3}, "augment.ratio=3: wanted is a list of numbers"),
        ({"mean": "grey"}, "augment.mean=grey: wanted is a list of numbers"),
        ({"std": [0.5, 0, 0.5]}, "augment.std=.*every number must be above 0"),
    ],
)
def test_values_that_cannot_be(arguments, words):
    with pytest.raises(UserError, match=words):
        Augment(**arguments)


@pytest.mark.parametrize("crop", ["padded", "random_resized"])
def test_a_draw_depends_on_seed_epoch_and_index_alone(crop):
    augment = Augment(crop=crop, flip=0.5)
    mixed = np.array([[30, 40], [64, 50], [33, 33], [80, 31]], np.int64)
    together = augment.sample(3, 1, np.array([11, 5, 800, 2]), mixed, 24)
    alone = augment.sample(3, 1, np.array([800]), mixed[2:3], 24)
    for ours, theirs in zip(vars(together.select(np.array([2]))).values(), vars(alone).values(), strict=True):
        assert np.array_equal(ours, theirs)
    first = drawn(augment, 40, 40, 24)
    for seed, epoch in ((1, 0), (0, 1)):
        other = augment.sample(seed, epoch, np.arange(COUNT), sizes(40, 40), 24)
        assert (first.crops == other.crops).all(1).mean() < 0.1
        assert 0.47 < (first.flips == other.flips).mean() < 0.53


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_flips_come_as_often_as_asked(share):
    assert drawn(Augment(flip=share), 8, 8, 8).flips.mean() == pytest.approx(share, abs=0.02)


def test_padded_windows_lie_everywhere_alike():
    params = drawn(Augment(crop="padded", padding=0.125), 32, 32, 32)
    assert (params.resize_to == 32).all()
    assert (params.crops[:, 2:] == 32).all()
    for corner in params.crops[:, :2].T:
        counts = np.bincount(corner + 4, minlength=9)
        assert len(counts) == 9  # -4 to 4
        assert np.abs(counts / (COUNT / 9) - 1).max() < 0.15
    assert abs(np.corrcoef(params.crops[:, 0], params.crops[:, 1])[0, 1]) < 0.05


def test_padded_windows_of_a_wide_image_cover_all_of_it():
    params = drawn(Augment(crop="padded", padding=0.125), 16, 48, 32)
    assert params.resize_to[0].tolist() == [32, 96]
    assert (params.crops[:, 0].min(), params.crops[:, 0].max()) == (-4, 4)
    assert (params.crops[:, 1].min(), params.crops[:, 1].max()) == (-4, 68)


def test_random_resized_windows_have_the_law_they_claim():
    params = drawn(Augment(crop="random_resized", scale=(0.1, 0.4)), 400, 400, 224)
    top, left, height, width = params.crops.T
    assert (params.resize_to == 400).all()
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 400
    area, aspect = height * width / 400**2, np.log(width / height) / np.log(4 / 3)
    assert np.abs(np.histogram(area, 6, (0.1, 0.4))[0] / (COUNT / 6) - 1).max() < 0.1
    assert np.abs(np.histogram(aspect, 6, (-1, 1))[0] / (COUNT / 6) - 1).max() < 0.1
    for place in (top / (400 - height), left / (400 - width)):
        assert np.abs(np.histogram(place, 10, (0, 1))[0] / (COUNT / 10) - 1).max() < 0.15


def test_random_resized_windows_are_like_torchvisions():
    import torch
    from torchvision.transforms import v2

    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(64)
    image = torch.empty(3, 90, 160)
    theirs = [transform.make_params([image]) for _ in range(4000)]
    ours = drawn(Augment(crop="random_resized"), 90, 160, 64, 4000).crops.T
    for column, name in zip(ours, ("top", "left", "height", "width"), strict=True):
        others = np.array([params[name] for params in theirs])
        quantiles = [0.1, 0.3, 0.5, 0.7, 0.9]
        assert np.quantile(column, quantiles) == pytest.approx(np.quantile(others, quantiles), abs=5)


@pytest.mark.parametrize(
    ("size", "window"), [((10, 100), [0, 43, 10, 13]), ((100, 10), [43, 0, 13, 10]), ((1, 50), [0, 24, 1, 1])]
)
def test_where_no_window_fits_it_is_the_largest_in_the_middle(size, window):
    """As torchvision falls back: here the whole image's area is asked for, which no allowed aspect has."""
    params = drawn(Augment(crop="random_resized", scale=(1.0, 1.0)), *size, 8, 50)
    assert (params.crops == window).all()


def test_center_trains_as_it_evaluates():
    augment = Augment(eval_resize=256 / 224)
    both = (drawn(augment, 300, 401, 224, 1), augment.eval_params(sizes(300, 401, 1), 224))
    for params in both:
        assert params.resize_to.tolist() == [[256, 342]]
        assert params.crops.tolist() == [[16, 59, 224, 224]]


@pytest.mark.parametrize("size", [(35, 32), (37, 33), (32, 39), (33, 41)])
def test_the_centre_is_rounded_as_torchvision_does(size):
    from torchvision.transforms.v2.functional._geometry import _center_crop_compute_crop_anchor

    params = Augment(eval_resize=min(size) / 32).eval_params(sizes(*size, 1), 32)
    assert params.resize_to.tolist() == [list(size)]
    assert tuple(params.crops[0, :2]) == _center_crop_compute_crop_anchor(32, 32, *size)


def test_evaluation_leaves_nothing_to_chance():
    params = Augment(crop="random_resized", flip=1.0).eval_params(sizes(50, 40, 3), 32)
    assert not params.flips.any()
    assert params.resize_to.tolist() == [[46, 37]] * 3  # the shorter side at 256/224 of 32
    assert params.crops.tolist() == [[7, 2, 32, 32]] * 3


@pytest.mark.parametrize("size", [(37, 91), (91, 37), (50, 50), (224, 225), (3, 1000)])
@pytest.mark.parametrize("side", [8, 37, 256])
def test_the_longer_side_is_rounded_as_torchvision_does(size, side):
    from torchvision.transforms.functional import _compute_resized_output_size

    assert shorter_side_to(np.array([size]), side)[0].tolist() == _compute_resized_output_size(size, [side])
