"""What is done equals torchvision v2's, antialiased: within a mean of 1 of 255 per image."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as tv

from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.transforms.decode import convert_channels
from cnnzoo.data.transforms.geometry import augment_batch
from tests.helpers.images import pixels_of

SIZES = [(32, 32), (61, 40), (40, 61), (8, 8), (180, 75)]


def images_of(size, channels, count=6):
    return np.stack([pixels_of(f"{size} {n}", *size, channels) for n in range(count)])


def as_tensor(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def assert_close(ours, theirs):
    assert ours.dtype == torch.uint8
    assert ours.is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.float() - other.float()).abs().mean() <= 1


def draw_of(augment, pixels, image_size):
    sizes = np.tile(np.array(pixels.shape[1:3], np.int64), (len(pixels), 1))
    return augment.sample(0, 0, np.arange(len(pixels)), sizes, image_size)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_evaluation(size, channels):
    pixels = images_of(size, channels)
    sizes = np.tile(np.array(size, np.int64), (len(pixels), 1))
    ours = augment_batch(pixels, Augment(eval_resize=1.15).eval_params(sizes, 28))
    evaluate = v2.Compose([v2.Resize(32, antialias=True), v2.CenterCrop(28)])
    assert_close(ours, [evaluate(as_tensor(image)) for image in pixels])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_padded(size, channels):
    pixels = images_of(size, channels)
    params = draw_of(Augment(crop="padded", padding=0.25, flip=0.5), pixels, 32)
    assert 0 < params.flips.sum() < len(pixels)
    theirs = []
    for image, (top, left, height, width), flip in zip(pixels, params.crops, params.flips, strict=True):
        made = tv.pad(tv.resize(as_tensor(image), [32], antialias=True), [8])
        made = tv.crop(made, top + 8, left + 8, height, width)
        theirs.append(tv.horizontal_flip(made) if flip else made)
    assert_close(augment_batch(pixels, params), theirs)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("image_size", [16, 48])
def test_random_resized(size, channels, image_size):
    pixels = images_of(size, channels)
    params = draw_of(Augment(crop="random_resized", flip=0.5), pixels, image_size)
    assert 0 < params.flips.sum() < len(pixels)
    theirs = []
    for image, window, flip in zip(pixels, params.crops.tolist(), params.flips, strict=True):
        made = tv.resized_crop(as_tensor(image), *window, [image_size] * 2, InterpolationMode.BILINEAR, antialias=True)
        theirs.append(tv.horizontal_flip(made) if flip else made)
    assert_close(augment_batch(pixels, params), theirs)


@pytest.mark.parametrize("crop", ["center", "padded", "random_resized"])
def test_a_batch_is_its_images_one_by_one(crop):
    pixels = images_of((40, 61), 3)
    params = draw_of(Augment(crop=crop, flip=0.5), pixels, 32)
    one_by_one = [augment_batch(pixels[n : n + 1], params.select(np.array([n]))) for n in range(len(pixels))]
    assert torch.equal(augment_batch(pixels, params), torch.cat(one_by_one))


@pytest.mark.parametrize("crop", ["center", "padded", "random_resized"])
def test_the_source_stays_as_it_was_and_nothing_is_shared_with_it(crop):
    pixels = images_of((32, 32), 1)
    before = pixels.copy()
    params = draw_of(Augment(crop=crop, flip=0.5, scale=(1.0, 1.0), ratio=(1.0, 1.0)), pixels, 32)
    augment_batch(pixels, params).zero_()
    assert np.array_equal(pixels, before)


def test_read_only_pixels_are_taken_without_a_warning(recwarn):
    pixels = images_of((40, 40), 3)
    pixels.flags.writeable = False
    augment_batch(pixels, draw_of(Augment(), pixels, 32))
    assert not recwarn.list


def test_grey_and_colour():
    colour = images_of((10, 12), 3)
    grey = convert_channels(colour, 1)
    assert np.array_equal(grey[0, ..., 0], np.asarray(Image.fromarray(colour[0]).convert("L")))
    assert np.array_equal(convert_channels(grey, 3), np.concatenate([grey] * 3, -1))
    assert convert_channels(colour, 3) is colour
