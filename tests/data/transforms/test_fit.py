"""`data.fit` and rectangular image sizes equal torchvision's resize, pad and crop, within a mean of 1 of 255."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from cnnzoo.data import Augment, Preprocess
from cnnzoo.data.transforms.augment import AugmentParams
from cnnzoo.data.transforms.color import apply_ops
from cnnzoo.data.transforms.geometry import augment_batch, augment_images
from cnnzoo.data.transforms.sampling import OPS
from cnnzoo.errors import UserError
from tests.helpers.images import make_pixels

SIZES = [(50, 200), (200, 50), (48, 48), (3, 400), (37, 61)]
TARGETS = [(32, 32), (24, 40), (40, 24), (64, 65)]


def to_tensor(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def evaluate(fit, size, target, **options):
    """The image as evaluation sees it, and the image itself."""
    pixels = make_pixels(f"{size}", *size, 3)
    params = Augment(fit=fit, **options).eval_params(np.array([size]), target)
    (image,) = augment_batch(pixels[None], params)
    assert torch.equal(image, augment_images([pixels], params, 3)[0])
    return image, to_tensor(pixels)


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    assert (actual.float() - expected.float()).abs().mean() <= 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", TARGETS)
def test_pad_equals_torchvision(size, target):
    image, original = evaluate("pad", size, target, eval_resize=1.5)
    scale = min(target[0] / size[0], target[1] / size[1])
    resized = tv.resize(original, [max(1, int(side * scale + 1e-9)) for side in size], antialias=True)
    assert_close(image, tv.center_crop(resized, list(target)))


@pytest.mark.parametrize("size", SIZES[:3])
def test_pad_to_a_square_equals_torchvision_transforms(size):
    image, original = evaluate("pad", size, (32, 32))
    assert_close(image, v2.Compose([v2.Resize(None, max_size=32, antialias=True), v2.CenterCrop(32)])(original))


def test_pad_shows_all_of_a_wide_image():
    pixels = np.full((56, 224, 3), 255, np.uint8)
    pixels[:, :8], pixels[:, -8:] = (255, 0, 0), (0, 0, 255)
    image = augment_batch(pixels[None], Augment(fit="pad").eval_params(np.array([[56, 224]]), 224))[0]
    assert torch.equal(image[:, 84:140], to_tensor(pixels))
    assert not image[:, :84].any()
    assert not image[:, 140:].any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", TARGETS)
def test_squash_equals_torchvision(size, target):
    image, original = evaluate("squash", size, target, eval_resize=1.5)
    assert_close(image, tv.resize(original, list(target), antialias=True))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", TARGETS)
def test_crop_to_a_rectangle_equals_torchvision(size, target):
    image, original = evaluate("crop", size, target, eval_resize=1.25)
    cover = [round(1.25 * side) for side in target]
    scale = max(cover[0] / size[0], cover[1] / size[1])
    resized = tv.resize(original, [int(side * scale + 1e-9) for side in size], antialias=True)
    assert_close(image, tv.center_crop(resized, list(target)))


@pytest.mark.parametrize("size", [(40, 61), (61, 40), (180, 75)])
def test_random_resized_rectangle_equals_torchvision(size):
    pixels = np.stack([make_pixels(f"{size} {n}", *size, 3) for n in range(6)])
    params = Augment(crop="random_resized", flip=0.5).sample(0, 0, np.arange(6), np.tile([size], (6, 1)), (20, 48))
    for image, source, crop, flip in zip(
        augment_batch(pixels, params), pixels, params.crops.tolist(), params.flips, strict=True
    ):
        reference = tv.resized_crop(to_tensor(source), *crop, [20, 48], antialias=True)
        assert_close(image, tv.horizontal_flip(reference) if flip else reference)


@pytest.mark.parametrize("fit", ["pad", "squash"])
@pytest.mark.parametrize("size", [(50, 200), (200, 50)])
def test_padded_crop_moves_the_fitted_image(fit, size):
    """By up to the padding in each direction; without padding, training sees what evaluation sees."""
    sizes = np.tile([size], (2000, 1))
    evaluation = Augment(fit=fit).eval_params(sizes, (24, 40))
    still = Augment(fit=fit, crop="padded", padding=0).sample(0, 0, np.arange(2000), sizes, (24, 40))
    assert np.array_equal(still.crops, evaluation.crops)
    moved = Augment(fit=fit, crop="padded", padding=0.125).sample(0, 0, np.arange(2000), sizes, (24, 40))
    assert np.array_equal(moved.resize_to, evaluation.resize_to)
    for axis, margin in enumerate((3, 5)):
        shifts = moved.crops[:, axis] - evaluation.crops[:, axis]
        assert np.array_equal(np.unique(shifts), np.arange(-margin, margin + 1))
        assert np.bincount(shifts + margin).min() > 2000 / (2 * margin + 1) * 0.7


@pytest.mark.parametrize(
    ("name", "magnitude", "reference"),
    [
        ("rotate", 25.0, lambda image: tv.rotate(image, 25.0)),
        ("shear_x", 0.3, lambda image: tv.affine(image, 0, [0, 0], 1, [np.rad2deg(np.arctan(0.3)), 0], center=[0, 0])),
        ("shear_y", 0.3, lambda image: tv.affine(image, 0, [0, 0], 1, [0, np.rad2deg(np.arctan(0.3))], center=[0, 0])),
        ("translate_x", 7.0, lambda image: tv.affine(image, 0, [7, 0], 1, [0, 0])),
        ("translate_y", -5.0, lambda image: tv.affine(image, 0, [0, -5], 1, [0, 0])),
        ("sharpness", 1.7, lambda image: tv.adjust_sharpness(image, 1.7)),
    ],
)
def test_operations_on_rectangles_equal_torchvision(name, magnitude, reference):
    pixels = make_pixels(name, 20, 33, 3)
    crops, flips = np.array([[0, 0, 20, 33]]), np.zeros(1, bool)
    operation = {"ops": np.array([[OPS.index(name)]]), "magnitudes": np.array([[magnitude]])}
    params = AugmentParams(crops[:, 2:], crops, flips, (20, 33), **operation)
    (image,) = apply_ops(to_tensor(pixels)[None].clone(), params)
    assert_close(image, reference(to_tensor(pixels)))


def test_auto_augment_translates_by_a_fraction_of_each_side():
    augment, sizes = Augment(auto_augment="randaugment", magnitude=30, num_ops=1), np.tile([[33, 66]], (400, 1))
    params = augment.sample(0, 0, np.arange(400), sizes, (33, 66))
    for name, shift in (("translate_y", 14), ("translate_x", 29)):  # 150/331 of the side
        assert set(np.abs(params.magnitudes[params.ops == OPS.index(name)])) == {shift}


def test_erased_boxes_stay_inside_rectangles():
    augment = Augment(random_erase=1, erase_scale=(0.3, 0.6))
    boxes = augment.sample(0, 0, np.arange(500), np.tile([[20, 50]], (500, 1)), (20, 50)).erase_boxes
    boxes = boxes[boxes[:, 2] > 0]
    assert len(boxes) > 400
    assert (boxes[:, :2] + boxes[:, 2:] <= (20, 50)).all()
    assert boxes[:, 3].max() > 20
    areas = boxes[:, 2] * boxes[:, 3] / (20 * 50)
    assert 0.28 < areas.min() < areas.max() < 0.62


def test_preprocess_takes_rectangles_and_fit():
    arguments = {"image_size": [24, 40], "eval_resize": 1.0, "channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3}
    preprocess = Preprocess(**arguments, fit="pad")
    assert preprocess.arguments == {**arguments, "fit": "pad"}
    assert str(preprocess) == str(Preprocess(**preprocess.arguments))
    image, _ = evaluate("pad", (50, 200), (24, 40))
    pixels = make_pixels(f"{(50, 200)}", 50, 200, 3)
    torch.testing.assert_close(preprocess(pixels), image / 255, rtol=0, atol=1e-6)


def test_preprocess_of_a_square_has_the_arguments_of_before():
    arguments = {"image_size": 24, "eval_resize": 1.25, "channels": 1, "mean": [0.5], "std": [0.5]}
    assert Preprocess(**arguments).arguments == arguments
    assert Preprocess(**{**arguments, "image_size": (24, 24)}).arguments == arguments


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": [24]}, r"image_size=\[24\]: expected two numbers, \[height,width\]; or one for a square"),
        ({"image_size": [24, 0]}, r"image_size=0: expected a whole number >= 1 in \[height,width\]"),
        ({"image_size": "24x40"}, r"image_size=24x40: expected a whole number >= 1 or \[height,width\]"),
        ({"fit": "letterbox"}, "fit=letterbox: expected crop, pad or squash"),
    ],
)
def test_preprocess_of_invalid_values_raises(changes, message):
    arguments = {"image_size": 24, "eval_resize": 1.0, "channels": 1, "mean": [0.5], "std": [0.5]}
    with pytest.raises(UserError, match=message):
        Preprocess(**{**arguments, **changes})
