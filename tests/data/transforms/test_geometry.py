"""Resize, crop and flip equal torchvision v2's antialiased functions, within a mean of 1 of 255 per image."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as tv

from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.transforms.geometry import augment_batch
from cnnzoo.data.transforms.pixel_format import convert_channels
from tests.helpers.images import make_pixels

SIZES = [(32, 32), (61, 40), (40, 61), (8, 8), (180, 75)]


def make_batch(size, channels, count=6):
    return np.stack([make_pixels(f"{size} {n}", *size, channels) for n in range(count)])


def to_tensor(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def assert_close(actual, expected):
    assert actual.dtype == torch.uint8
    assert actual.is_contiguous(memory_format=torch.channels_last)
    for image, reference in zip(actual, expected, strict=True):
        assert (image.float() - reference.float()).abs().mean() <= 1


def sample_params(augment, pixels, image_size):
    sizes = np.tile(np.array(pixels.shape[1:3], np.int64), (len(pixels), 1))
    return augment.sample(0, 0, np.arange(len(pixels)), sizes, image_size)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_eval_transform_equals_torchvision(size, channels):
    pixels = make_batch(size, channels)
    sizes = np.tile(np.array(size, np.int64), (len(pixels), 1))
    actual = augment_batch(pixels, Augment(eval_resize=1.15).eval_params(sizes, 28))
    reference = v2.Compose([v2.Resize(32, antialias=True), v2.CenterCrop(28)])
    assert_close(actual, [reference(to_tensor(image)) for image in pixels])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_padded_crop_equals_torchvision(size, channels):
    pixels = make_batch(size, channels)
    params = sample_params(Augment(crop="padded", padding=0.25, flip=0.5), pixels, 32)
    assert 0 < params.flips.sum() < len(pixels)
    expected = []
    for image, (top, left, height, width), flip in zip(pixels, params.crops, params.flips, strict=True):
        reference = tv.pad(tv.resize(to_tensor(image), [32], antialias=True), [8])
        reference = tv.crop(reference, top + 8, left + 8, height, width)
        expected.append(tv.horizontal_flip(reference) if flip else reference)
    assert_close(augment_batch(pixels, params), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("image_size", [16, 48])
def test_random_resized_crop_equals_torchvision(size, channels, image_size):
    pixels = make_batch(size, channels)
    params = sample_params(Augment(crop="random_resized", flip=0.5), pixels, image_size)
    assert 0 < params.flips.sum() < len(pixels)
    expected = []
    for image, crop, flip in zip(pixels, params.crops.tolist(), params.flips, strict=True):
        output_size, mode = [image_size] * 2, InterpolationMode.BILINEAR
        reference = tv.resized_crop(to_tensor(image), *crop, output_size, mode, antialias=True)
        expected.append(tv.horizontal_flip(reference) if flip else reference)
    assert_close(augment_batch(pixels, params), expected)


@pytest.mark.parametrize("crop", ["center", "padded", "random_resized"])
def test_augment_batch_equals_single_images(crop):
    pixels = make_batch((40, 61), 3)
    params = sample_params(Augment(crop=crop, flip=0.5), pixels, 32)
    singles = [augment_batch(pixels[n : n + 1], params.select(np.array([n]))) for n in range(len(pixels))]
    assert torch.equal(augment_batch(pixels, params), torch.cat(singles))


@pytest.mark.parametrize("crop", ["center", "padded", "random_resized"])
def test_augment_batch_leaves_input_unchanged(crop):
    """Writing to the result does not change the input either: they share no memory."""
    pixels = make_batch((32, 32), 1)
    before = pixels.copy()
    params = sample_params(Augment(crop=crop, flip=0.5, scale=(1.0, 1.0), ratio=(1.0, 1.0)), pixels, 32)
    augment_batch(pixels, params).zero_()
    assert np.array_equal(pixels, before)


def test_augment_batch_read_only_input_does_not_warn(recwarn):
    pixels = make_batch((40, 40), 3)
    pixels.flags.writeable = False
    augment_batch(pixels, sample_params(Augment(), pixels, 32))
    assert not recwarn.list


def test_convert_channels_equals_pillow():
    color = make_batch((10, 12), 3)
    gray = convert_channels(color, 1)
    assert np.array_equal(gray[0, ..., 0], np.asarray(Image.fromarray(color[0]).convert("L")))
    assert np.array_equal(convert_channels(gray, 3), np.concatenate([gray] * 3, -1))
    assert convert_channels(color, 3) is color
