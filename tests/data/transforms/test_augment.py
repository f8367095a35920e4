"""Sampled crops and flips: their values, what they depend on, and their distributions."""

import numpy as np
import pytest

from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.transforms.fit import fit_sizes
from cnnzoo.errors import UserError

NUM_IMAGES = 10_000
QUANTILES = [0.1, 0.3, 0.5, 0.7, 0.9]


def repeat_size(height, width, count=NUM_IMAGES):
    return np.tile(np.array([height, width], np.int64), (count, 1))


def sample_params(augment, height, width, image_size, count=NUM_IMAGES):
    return augment.sample(0, 0, np.arange(count), repeat_size(height, width, count), image_size)


def test_augment_yaml_lists_become_tuples():
    augment = Augment(crop="random_resized", scale=[0.5, 1], ratio=[1, 2], mean=[0.5], std=[1])
    assert (augment.scale, augment.ratio, augment.mean, augment.std) == ((0.5, 1.0), (1.0, 2.0), (0.5,), (1.0,))
    assert augment == Augment(crop="random_resized", scale=(0.5, 1.0), ratio=(1.0, 2.0), mean=(0.5,), std=(1.0,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop": "middle"}, "augment.crop=middle: expected center, padded or random_resized"),
        ({"flip": 1.5}, "augment.flip=1.5: expected a number >= 0 and <= 1"),
        ({"flip": "yes"}, "augment.flip=yes"),
        ({"padding": -0.1}, "augment.padding=-0.1"),
        ({"eval_resize": 0.9}, "augment.eval_resize=0.9: expected a number >= 1"),
        ({"scale": [0.5]}, r"augment.scale=\[0.5\]: expected two numbers > 0"),
        ({"scale": [0.9, 0.5]}, "augment.scale=.*in ascending order"),
        ({"scale": [0.5, 1.5]}, "augment.scale=.*<= 1 in ascending order"),
        ({"ratio": [0, 1]}, r"augment.ratio=\[0.0, 1.0\]: expected two numbers > 0 in ascending order$"),
        ({"ratio": 3}, "augment.ratio=3: expected a list of numbers"),
        ({"mean": "grey"}, "augment.mean=grey: expected a list of numbers"),
        ({"std": [0.5, 0, 0.5]}, "augment.std=.*expected numbers > 0"),
    ],
)
def test_augment_invalid_value_raises(arguments, message):
    with pytest.raises(UserError, match=message):
        Augment(**arguments)


@pytest.mark.parametrize("crop", ["padded", "random_resized"])
def test_sample_depends_only_on_seed_epoch_and_index(crop):
    augment = Augment(crop=crop, flip=0.5)
    sizes = np.array([[30, 40], [64, 50], [33, 33], [80, 31]], np.int64)
    batch = augment.sample(3, 1, np.array([11, 5, 800, 2]), sizes, 24)
    single = augment.sample(3, 1, np.array([800]), sizes[2:3], 24)
    for in_batch, alone in zip(vars(batch.select(np.array([2]))).values(), vars(single).values(), strict=True):
        assert np.array_equal(in_batch, alone)
    first = sample_params(augment, 40, 40, 24)
    for seed, epoch in ((1, 0), (0, 1)):
        other = augment.sample(seed, epoch, np.arange(NUM_IMAGES), repeat_size(40, 40), 24)
        assert (first.crops == other.crops).all(1).mean() < 0.1
        assert 0.47 < (first.flips == other.flips).mean() < 0.53


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_flip_frequency_equals_probability(probability):
    flips = sample_params(Augment(flip=probability), 8, 8, 8).flips
    assert flips.mean() == pytest.approx(probability, abs=0.02)


def test_padded_crop_positions_are_uniform():
    params = sample_params(Augment(crop="padded", padding=0.125), 32, 32, 32)
    assert (params.resize_to == 32).all()
    assert (params.crops[:, 2:] == 32).all()
    for corner in params.crops[:, :2].T:
        counts = np.bincount(corner + 4, minlength=9)
        assert len(counts) == 9  # -4 to 4
        assert np.abs(counts / (NUM_IMAGES / 9) - 1).max() < 0.15
    assert abs(np.corrcoef(params.crops[:, 0], params.crops[:, 1])[0, 1]) < 0.05


def test_padded_crops_of_wide_image_cover_all_of_it():
    params = sample_params(Augment(crop="padded", padding=0.125), 16, 48, 32)
    assert params.resize_to[0].tolist() == [32, 96]
    assert (params.crops[:, 0].min(), params.crops[:, 0].max()) == (-4, 4)
    assert (params.crops[:, 1].min(), params.crops[:, 1].max()) == (-4, 68)


def test_random_resized_crops_are_uniform():
    params = sample_params(Augment(crop="random_resized", scale=(0.1, 0.4)), 400, 400, 224)
    top, left, height, width = params.crops.T
    assert (params.resize_to == 400).all()
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 400
    area, aspect = height * width / 400**2, np.log(width / height) / np.log(4 / 3)
    assert np.abs(np.histogram(area, 6, (0.1, 0.4))[0] / (NUM_IMAGES / 6) - 1).max() < 0.1
    assert np.abs(np.histogram(aspect, 6, (-1, 1))[0] / (NUM_IMAGES / 6) - 1).max() < 0.1
    for position in (top / (400 - height), left / (400 - width)):
        assert np.abs(np.histogram(position, 10, (0, 1))[0] / (NUM_IMAGES / 10) - 1).max() < 0.15


def test_random_resized_crops_match_torchvision_quantiles():
    import torch
    from torchvision.transforms import v2

    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(64)
    image = torch.empty(3, 90, 160)
    reference = [transform.make_params([image]) for _ in range(4000)]
    crops = sample_params(Augment(crop="random_resized"), 90, 160, 64, 4000).crops
    for column, name in zip(crops.T, ("top", "left", "height", "width"), strict=True):
        expected = np.array([params[name] for params in reference])
        assert np.quantile(column, QUANTILES) == pytest.approx(np.quantile(expected, QUANTILES), abs=5)


@pytest.mark.parametrize(
    ("size", "crop"), [((10, 100), [0, 43, 10, 13]), ((100, 10), [43, 0, 13, 10]), ((1, 50), [0, 24, 1, 1])]
)
def test_random_resized_no_fit_gives_largest_center_crop(size, crop):
    """Torchvision's fallback. No allowed aspect has the area that is requested here, the image's whole area."""
    params = sample_params(Augment(crop="random_resized", scale=(1.0, 1.0)), *size, 8, 50)
    assert (params.crops == crop).all()


def test_center_crop_is_equal_in_training_and_evaluation():
    augment = Augment(eval_resize=256 / 224)
    train_params = sample_params(augment, 300, 401, 224, 1)
    for params in (train_params, augment.eval_params(repeat_size(300, 401, 1), 224)):
        assert params.resize_to.tolist() == [[256, 342]]
        assert params.crops.tolist() == [[16, 59, 224, 224]]


@pytest.mark.parametrize("size", [(35, 32), (37, 33), (32, 39), (33, 41)])
def test_center_crop_rounds_as_torchvision(size):
    from torchvision.transforms.v2.functional._geometry import _center_crop_compute_crop_anchor

    params = Augment(eval_resize=min(size) / 32).eval_params(repeat_size(*size, 1), 32)
    assert params.resize_to.tolist() == [list(size)]
    assert tuple(params.crops[0, :2]) == _center_crop_compute_crop_anchor(32, 32, *size)


def test_eval_params_crops_are_not_random():
    params = Augment(crop="random_resized", flip=1.0).eval_params(repeat_size(50, 40, 3), 32)
    assert not params.flips.any()
    assert params.resize_to.tolist() == [[46, 37]] * 3  # the shorter side is 256/224 of 32
    assert params.crops.tolist() == [[7, 2, 32, 32]] * 3


@pytest.mark.parametrize("size", [(37, 91), (91, 37), (50, 50), (224, 225), (3, 1000)])
@pytest.mark.parametrize("side", [8, 37, 256])
def test_fit_sizes_round_as_torchvision(size, side):
    from torchvision.transforms.functional import _compute_resized_output_size

    assert fit_sizes(np.array([size]), (side, side), "crop")[0].tolist() == _compute_resized_output_size(size, [side])
