"""Vertical flips, turns by 90 degrees and rotations equal torchvision v2's."""

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.transforms.geometry import augment_batch, augment_images
from cnnzoo.data.transforms.sampling import turns_as_flips
from cnnzoo.errors import UserError
from tests.helpers.images import make_pixels

COUNT = 16
ALL_TURNS = {"flip": 0.5, "vertical_flip": 0.5, "rotate90": True, "rotation": 20}


def make_batch(size, channels=3):
    return np.stack([make_pixels(f"{size} {n}", *size, channels) for n in range(COUNT)])


def sample(augment, size, image_size):
    sizes = np.tile(np.array(size, np.int64), (COUNT, 1))
    return augment.sample(0, 0, np.arange(COUNT), sizes, image_size)


def transform(augment, size, image_size, channels=3):
    """The transformed images, and those without turns, both (N, C, H, W), and the parameters."""
    pixels = make_batch(size, channels)
    params = sample(augment, size, image_size)
    plain = augment_batch(pixels, sample(Augment(crop=augment.crop), size, image_size))
    return augment_batch(pixels, params), plain, params


def mean_differences(images, expected):
    return (images.float() - torch.stack(expected).float()).abs().mean((1, 2, 3))


@pytest.mark.parametrize("size", [(32, 32), (40, 61), (180, 75)])
def test_vertical_flip_equals_torchvision(size):
    images, plain, params = transform(Augment(crop="random_resized", vertical_flip=0.5), size, (24, 40))
    assert 0 < params.vertical_flips.sum() < COUNT
    flips = params.vertical_flips
    expected = [tv.vertical_flip(image) if flip else image for image, flip in zip(plain, flips, strict=True)]
    assert torch.equal(images, torch.stack(expected))


@pytest.mark.parametrize("crop", ["center", "padded", "random_resized"])
def test_rotate90_turns_squares_of_wide_images(crop):
    augment = Augment(crop=crop, flip=0.5, vertical_flip=0.5)
    flipped, _, params = transform(augment, (40, 61), (32, 32))
    images, _, turned = transform(Augment(crop=crop, flip=0.5, vertical_flip=0.5, rotate90=True), (40, 61), (32, 32))
    rotated = [
        [torch.equal(a, torch.rot90(b, k, (1, 2))) for k in range(4)] for a, b in zip(images, flipped, strict=True)
    ]
    assert [sum(row) for row in rotated] == [1] * COUNT
    assert set(np.array(rotated).argmax(1)) == {0, 1, 2, 3}
    assert np.array_equal(turned.crops, params.crops)


@pytest.mark.parametrize("quarters", range(4))
def test_turns_as_flips_equals_rot90(quarters):
    image = np.arange(9).reshape(3, 3)
    for flip in (False, True):
        for vertical_flip in (False, True):
            expected = image[:, ::-1] if flip else image
            expected = np.rot90(expected[::-1] if vertical_flip else expected, quarters)
            h, v, transpose = (
                bool(value[0])
                for value in turns_as_flips(np.array([quarters]), np.array([flip]), np.array([vertical_flip]))
            )
            actual = image[:, ::-1] if h else image
            actual = actual[::-1] if v else actual
            assert np.array_equal(actual.T if transpose else actual, expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_size", [(32, 32), (24, 40), (33, 17)])
def test_rotation_equals_torchvision(image_size, channels):
    images, plain, params = transform(Augment(crop="random_resized", rotation=30), (40, 61), image_size, channels)
    assert -30 < params.angles.min() < -10
    assert 10 < params.angles.max() < 30
    bilinear = InterpolationMode.BILINEAR
    expected = [tv.rotate(image, angle, bilinear) for image, angle in zip(plain, params.angles.tolist(), strict=True)]
    assert mean_differences(images, expected).max() < 0.05


def test_turns_leave_other_parameters_unchanged():
    settings = {"crop": "random_resized", "random_erase": 0.5, "auto_augment": "randaugment"}
    plain, turned = (
        sample(Augment(flip=0.5, **settings, **turns), (40, 61), (32, 32))
        for turns in ({}, {"vertical_flip": 0.5, "rotation": 20})
    )
    for name in ("crops", "flips", "ops", "magnitudes", "erase_boxes"):
        assert np.array_equal(getattr(plain, name), getattr(turned, name))
    assert plain.vertical_flips is plain.transposes is plain.angles is None


def test_turned_batch_equals_single_images():
    pixels = make_batch((40, 61))
    params = sample(Augment(crop="padded", **ALL_TURNS), (40, 61), (32, 32))
    batch = augment_batch(pixels, params)
    rows = [np.array([n]) for n in range(COUNT)]
    single = [augment_images([pixels[n]], params.select(row), 3)[0] for n, row in enumerate(rows)]
    assert torch.equal(batch, torch.stack(single))


def test_evaluation_is_not_turned():
    params = Augment(**ALL_TURNS).eval_params(np.array([[40, 61]]), (32, 32))
    assert params.vertical_flips is params.transposes is params.angles is None


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("vertical_flip", 1.5, r"augment\.vertical_flip=1\.5: expected a number >= 0 and <= 1"),
        ("rotate90", "yes", r"augment\.rotate90=yes: expected true or false"),
        ("rotation", -5, r"augment\.rotation=-5: expected a number >= 0 and <= 180"),
        ("rotation", 181, r"augment\.rotation=181: expected"),
    ],
)
def test_turn_setting_out_of_range_raises(field, value, message):
    with pytest.raises(UserError, match=message):
        Augment(**{field: value})
