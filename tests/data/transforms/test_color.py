"""Operations and erasing equal torchvision v2's functions, within a mean of 1 of 255 per image."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.datasets.builtin import Synthetic
from cnnzoo.data.datasets.folder import ImageFolder
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.transforms import color
from cnnzoo.data.transforms.augment import Augment, AugmentParams
from cnnzoo.data.transforms.color import OP_FUNCTIONS, apply_ops
from cnnzoo.data.transforms.preprocess import normalize
from cnnzoo.data.transforms.sampling import AUTO_OPS, OPS
from tests.helpers.images import make_pixels

NO_AFFINE = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}


def shear(image, x=0.0, y=0.0):
    degrees = [float(np.degrees(np.arctan(tangent))) for tangent in (x, y)]
    return tv.affine(image, **{**NO_AFFINE, "shear": degrees}, center=[0, 0])


# Torchvision's function of an image and a magnitude for each operation.
TORCHVISION_FUNCTIONS = {
    "shear_x": lambda image, magnitude: shear(image, x=magnitude),
    "shear_y": lambda image, magnitude: shear(image, y=magnitude),
    "translate_x": lambda image, magnitude: tv.affine(image, **{**NO_AFFINE, "translate": [magnitude, 0]}),
    "translate_y": lambda image, magnitude: tv.affine(image, **{**NO_AFFINE, "translate": [0, magnitude]}),
    "rotate": tv.rotate,
    "brightness": tv.adjust_brightness,
    "saturation": tv.adjust_saturation,
    "contrast": tv.adjust_contrast,
    "sharpness": tv.adjust_sharpness,
    "posterize": lambda image, magnitude: tv.posterize(image, int(magnitude)),
    "solarize": tv.solarize,
    "autocontrast": lambda image, _: tv.autocontrast(image),
    "equalize": lambda image, _: tv.equalize(image),
    "hue": tv.adjust_hue,
}
FACTORS = [0.0, 0.1, 0.73, 1.0, 1.31, 1.99]
MAGNITUDES = {  # shears of 0.12, 0.2 and 0.5 give coordinates half-way between two pixels
    "shear_x": [0.0, 0.12, -0.2, 0.3, 0.5, -0.99],
    "shear_y": [0.0, 0.12, -0.2, 0.3, 0.5, -0.99],
    "translate_x": [0, 1, -7, 16, -32, 100],
    "translate_y": [0, 1, -7, 16, -32, 100],
    "rotate": [0.0, 9.0, -30.0, 45.0, 90.0, -135.0],
    "brightness": FACTORS,
    "saturation": FACTORS,
    "contrast": FACTORS,
    "sharpness": FACTORS,
    "posterize": [8, 7, 5, 4, 2, 0],
    "solarize": [0.0, 25.5, 102.0, 178.5, 200.3, 255.0],
    "autocontrast": [0.0] * 6,
    "equalize": [0.0] * 6,
    "hue": [-0.5, -0.31, -0.1, 0.0, 0.07, 0.5],
}
ALL_OPS = {"auto_augment": "randaugment", "num_ops": 3, "color_jitter": (0.4, 0.4, 0.4, 0.1), "random_erase": 0.5}


@pytest.fixture(scope="module")
def load_photos(tmp_path_factory):
    """A function that returns six images (6, channels, side, side), loaded from JPEG files.

    They show shaded ellipses with noise. Some have an EXIF orientation, one is dark, and one has few colors.
    """
    root = tmp_path_factory.mktemp("photographs")
    for number, orientation in enumerate([1, 3, 6, 8, 1, 6]):
        rng = np.random.default_rng(number)
        y, x = np.mgrid[:90, :120] / 100
        scene = np.zeros((90, 120, 3))
        for _ in range(12):
            height, width, top, left = rng.uniform(0.1, 0.5, 4)
            inside = ((y - top - 0.2) / height) ** 2 + ((x - left - 0.4) / width) ** 2 < 1
            scene[inside] = (rng.uniform(20, 235, 3) * (0.6 + 0.4 * x[..., None]))[inside]
        scene += rng.normal(0, 6, scene.shape)
        scene = {4: scene / 5, 5: scene // 60 * 60}.get(number, scene)
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = root / "train" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.clip(0, 255).astype(np.uint8)).save(path, quality=92, exif=exif)
    (root / "val" / "a").mkdir(parents=True)
    (root / "val" / "a" / "0.jpg").write_bytes(path.read_bytes())
    split = ImageFolder(str(root)).split("train")

    def load(channels=3, side=64, **options):
        sampler = EpochSampler(6, 6, seed=0, train=True)
        arguments = {"augment": Augment(**options), "image_size": side, "channels": channels, "seed": 0}
        return next(iter(TorchLoader(split, sampler, train=True, workers=0, **arguments)))[0]

    return load


def make_params(ops, magnitudes, image_size):
    """Parameters that apply `ops` to images of the result's size, without crop or flip."""
    count = len(ops)
    crops = np.tile(np.array([0, 0, image_size, image_size]), (count, 1))
    return AugmentParams(crops[:, 2:], crops, np.zeros(count, bool), (image_size, image_size), ops, magnitudes)


def sample_params(image_size, count=6, **options):
    return Augment(**options).sample(0, 0, np.arange(count), np.full((count, 2), image_size), image_size)


def apply_op(images, name, magnitudes):
    ops = np.full((len(images), 1), OPS.index(name))
    return apply_ops(images.clone(), make_params(ops, np.array(magnitudes, float)[:, None], images.shape[-1]))


def assert_close(actual, expected):
    assert actual.dtype == torch.uint8
    for image, reference in zip(actual, expected, strict=True):
        assert (image.float() - reference.float()).abs().mean() <= 1


def test_op_functions_include_all_operations():
    assert set(OP_FUNCTIONS) == set(MAGNITUDES) == set(TORCHVISION_FUNCTIONS) == set(OPS) - {"identity"}


@pytest.mark.parametrize("side", [32, 63])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OP_FUNCTIONS)
def test_operation_equals_torchvision(load_photos, name, channels, side):
    images = load_photos(channels, side)
    assert images.float().std() > 40
    function = TORCHVISION_FUNCTIONS[name]
    for shift in range(6):  # each image with each magnitude
        magnitudes = np.roll(MAGNITUDES[name], shift)
        expected = [function(image, magnitude) for image, magnitude in zip(images, magnitudes.tolist(), strict=True)]
        assert_close(apply_op(images, name, magnitudes), expected)


@pytest.mark.parametrize("name", OP_FUNCTIONS)
def test_operation_changes_images(load_photos, name):
    images = load_photos()
    assert (apply_op(images, name, MAGNITUDES[name]) != images).float().mean() > 0.1


@pytest.mark.parametrize("name", OP_FUNCTIONS)
@pytest.mark.parametrize("value", [0, 128, 255])
def test_operation_on_constant_or_tiny_images(name, value):
    function = TORCHVISION_FUNCTIONS[name]
    for side in (1, 2, 8):
        images = torch.full((6, 3, side, side), value, dtype=torch.uint8)
        expected = [function(image, magnitude) for image, magnitude in zip(images, MAGNITUDES[name], strict=True)]
        assert_close(apply_op(images, name, MAGNITUDES[name]), expected)


@pytest.mark.parametrize("name", ["saturation", "hue"])
def test_color_operation_leaves_grayscale_unchanged(load_photos, name):
    images = load_photos(1)
    assert torch.equal(apply_op(images, name, MAGNITUDES[name]), images)


def test_color_jitter_equals_torchvision_in_sampled_order(load_photos):
    images = load_photos()
    params = sample_params(64, color_jitter=(0.4, 0.4, 0.4, 0.1))
    expected = []
    for image, codes, magnitudes in zip(images, params.ops, params.magnitudes, strict=True):
        names = [OPS[code] for code in codes]
        factors = {f"{name}_factor": magnitude for name, magnitude in zip(names, magnitudes.tolist(), strict=True)}
        order = [["brightness", "contrast", "saturation", "hue"].index(name) for name in names]
        expected.append(v2.ColorJitter().transform(image, {"fn_idx": order, **factors}))
    actual = apply_ops(images.clone(), params)
    assert_close(actual, expected)
    reverse = make_params(params.ops[:, ::-1], params.magnitudes[:, ::-1], 64)
    assert not torch.equal(apply_ops(images.clone(), reverse), actual)


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
@pytest.mark.parametrize("channels", [1, 3])
def test_auto_augment_equals_torchvision(load_photos, policy, channels):
    images = torch.cat([load_photos(channels)] * 20)
    params = sample_params(64, 120, auto_augment=policy)
    assert len(np.unique(params.ops)) == len(AUTO_OPS)
    expected = []
    for image, codes, magnitudes in zip(images, params.ops, params.magnitudes.tolist(), strict=True):
        for code, magnitude in zip(codes, magnitudes, strict=True):
            image = TORCHVISION_FUNCTIONS[OPS[code]](image, magnitude) if code else image
        expected.append(image)
    assert_close(apply_ops(images.clone(), params), expected)


def test_random_erase_equals_torchvision_and_is_last(load_photos):
    images = load_photos()
    params = sample_params(64, color_jitter=(0.4,) * 4, random_erase=0.7, mean=(0.485, 0.456, 0.406))
    assert 0 < (params.erase_boxes[:, 2] > 0).sum() < 6
    fill = torch.tensor(params.erase_fill, dtype=torch.uint8)[:, None, None]
    jittered = apply_ops(images.clone(), make_params(params.ops, params.magnitudes, 64))
    boxes = params.erase_boxes.tolist()
    expected = [tv.erase(image, *box, fill) for image, box in zip(jittered, boxes, strict=True)]
    assert torch.equal(apply_ops(images, params), torch.stack(expected))


def test_erased_pixels_are_zero_after_normalization(tree):
    """The fill value is the data set's mean if the augmentation has no mean."""
    data = DataModule(
        ImageFolder,
        root=str(tree({"train/a": 4, "train/b": 4, "val/a": 1})),
        batch_size=8,
        image_size=16,
        augment=Augment(random_erase=1.0, erase_scale=(0.2, 0.3)),
    )
    data.setup()
    images, _ = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert data.augment.mean is None
    assert all(0.15 < (image.abs() < 0.01).all(0).float().mean() < 0.35 for image in images)
    not_erased = normalize(next(iter(data.val_dataloader()))[0], data.resolved_mean, data.resolved_std)
    assert not (not_erased.abs() < 0.01).all(1).any()


@pytest.mark.parametrize("crop", ["padded", "random_resized"])
def test_loader_applies_operations_after_crop_and_flip(load_photos, crop):
    images = load_photos(crop=crop, flip=0.5)
    indices = next(iter(EpochSampler(6, 6, seed=0, train=True)))
    params = Augment(**ALL_OPS).sample(0, 0, indices, np.full((6, 2), 64), 64)
    assert torch.equal(load_photos(crop=crop, flip=0.5, **ALL_OPS), apply_ops(images, params))


@pytest.mark.parametrize("channels", [1, 3])
def test_apply_ops_equals_single_images(channels, monkeypatch):
    """Neither the batch nor the chunk size nor the memory format changes the result."""
    pixels = np.stack([make_pixels(str(n), 48, 48, channels) for n in range(40)])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # channels last
    params = sample_params(48, 40, **ALL_OPS)
    batch = apply_ops(images.clone(), params)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    singles = [apply_ops(images[n : n + 1].clone(), params.select(np.array([n]))) for n in range(40)]
    assert torch.equal(torch.cat(singles), batch)
    monkeypatch.setattr(color, "CHUNK_VALUES", 2**24)
    assert torch.equal(apply_ops(images.contiguous(), params), batch)


def test_apply_ops_does_not_depend_on_threads(load_photos):
    images, num_threads = torch.cat([load_photos(side=96)] * 10), torch.get_num_threads()
    params = sample_params(96, 60, **ALL_OPS)
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(apply_ops(images.clone(), params))
    torch.set_num_threads(num_threads)
    assert torch.equal(*results)


@pytest.mark.parametrize("files", [True, False])
def test_loader_images_do_not_depend_on_workers(tree, files):
    if files:
        split = ImageFolder(str(tree({"train/a": 6, "train/b": 6, "val/a": 1}))).split("train")
    else:
        split = Synthetic(images=60, image_size=16).split("train")
    augment = Augment(crop="random_resized", flip=0.5, **ALL_OPS)
    epochs = []
    for workers in (0, 2):
        sampler = EpochSampler(len(split), 4, seed=0, train=True)
        create = partial(TorchLoader, split, sampler, augment=augment, train=True, image_size=16, channels=3, seed=0)
        loader = create(workers=workers)
        epochs.append(torch.cat([images for images, _ in loader]))
        loader.close()
    assert torch.equal(*epochs)


def test_apply_ops_without_operations_changes_nothing(load_photos):
    images = load_photos()
    before = images.clone()
    assert apply_ops(images, sample_params(64)) is images
    assert torch.equal(images, before)


def test_apply_ops_accepts_empty_batch():
    params = Augment(**ALL_OPS).sample(0, 0, np.arange(0), np.zeros((0, 2), np.int64), 8)
    assert apply_ops(torch.empty(0, 3, 8, 8, dtype=torch.uint8), params).shape == (0, 3, 8, 8)
