"""What is done beside crop and flip equals torchvision v2's functions: within a mean of 1 of 255 per image."""

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
from cnnzoo.data.transforms import color as module
from cnnzoo.data.transforms.augment import Augment, AugmentParams
from cnnzoo.data.transforms.color import OP_FUNCTIONS, apply_ops
from cnnzoo.data.transforms.preprocess import normalize
from cnnzoo.data.transforms.sampling import AUTO_OPS, OPS
from tests.helpers.images import pixels_of

AFFINE = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}


def sheared(image, x=0.0, y=0.0):
    degrees = [float(np.degrees(np.arctan(tangent))) for tangent in (x, y)]
    return tv.affine(image, **{**AFFINE, "shear": degrees}, center=[0, 0])


# Torchvision's functions of an image and an amount.
THEIRS = {
    "shear_x": lambda image, amount: sheared(image, x=amount),
    "shear_y": lambda image, amount: sheared(image, y=amount),
    "translate_x": lambda image, amount: tv.affine(image, **{**AFFINE, "translate": [amount, 0]}),
    "translate_y": lambda image, amount: tv.affine(image, **{**AFFINE, "translate": [0, amount]}),
    "rotate": tv.rotate,
    "brightness": tv.adjust_brightness,
    "saturation": tv.adjust_saturation,
    "contrast": tv.adjust_contrast,
    "sharpness": tv.adjust_sharpness,
    "posterize": lambda image, amount: tv.posterize(image, int(amount)),
    "solarize": tv.solarize,
    "autocontrast": lambda image, _: tv.autocontrast(image),
    "equalize": lambda image, _: tv.equalize(image),
    "hue": tv.adjust_hue,
}
FACTORS = [0.0, 0.1, 0.73, 1.0, 1.31, 1.99]
AMOUNTS = {  # shears of 0.12, 0.2 and 0.5 ask for places half-way between two pixels
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


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A function: six images (6, channels, side, side), out of JPEG files: shapes in light and shade, under grain.

    Some are turned by their EXIF entry, one is dark and one of few colours.
    """
    root = tmp_path_factory.mktemp("photographs")
    for number, orientation in enumerate([1, 3, 6, 8, 1, 6]):
        chance = np.random.default_rng(number)
        y, x = np.mgrid[:90, :120] / 100
        scene = np.zeros((90, 120, 3))
        for _ in range(12):
            height, width, top, left = chance.uniform(0.1, 0.5, 4)
            inside = ((y - top - 0.2) / height) ** 2 + ((x - left - 0.4) / width) ** 2 < 1
            scene[inside] = (chance.uniform(20, 235, 3) * (0.6 + 0.4 * x[..., None]))[inside]
        scene += chance.normal(0, 6, scene.shape)
        scene = {4: scene / 5, 5: scene // 60 * 60}.get(number, scene)
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = root / "train" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.clip(0, 255).astype(np.uint8)).save(path, quality=92, exif=exif)
    (root / "val" / "a").mkdir(parents=True)
    (root / "val" / "a" / "0.jpg").write_bytes(path.read_bytes())
    split = ImageFolder(str(root)).split("train")

    def images(channels=3, side=64, **options):
        sampler = EpochSampler(6, 6, seed=0, train=True)
        options = {"augment": Augment(**options), "image_size": side, "channels": channels, "seed": 0}
        return next(iter(TorchLoader(split, sampler, train=True, workers=0, **options)))[0]

    return images


def draw_of(operations, amounts, image_size, **options):
    count = len(operations)
    windows = np.tile(np.array([0, 0, image_size, image_size]), (count, 1))
    return AugmentParams(windows[:, 2:], windows, np.zeros(count, bool), image_size, operations, amounts, **options)


def operated(images, name, amounts):
    operations = np.full((len(images), 1), OPS.index(name))
    made = images.clone()
    return apply_ops(made, draw_of(operations, np.array(amounts, float)[:, None], images.shape[-1]))


def assert_close(ours, theirs):
    assert ours.dtype == torch.uint8
    for one, other in zip(ours, theirs, strict=True):
        assert (one.float() - other.float()).abs().mean() <= 1


def test_there_is_a_function_for_each_operation():
    assert set(OP_FUNCTIONS) == set(AMOUNTS) == set(THEIRS) == set(OPS) - {"identity"}


@pytest.mark.parametrize("side", [32, 63])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OP_FUNCTIONS)
def test_each_operation_is_torchvisions(photographs, name, channels, side):
    images = photographs(channels, side)
    assert images.float().std() > 40
    for turn in range(6):  # each image with each amount
        amounts = np.roll(AMOUNTS[name], turn)
        theirs = [THEIRS[name](image, amount) for image, amount in zip(images, amounts.tolist(), strict=True)]
        assert_close(operated(images, name, amounts), theirs)


@pytest.mark.parametrize("name", OP_FUNCTIONS)
def test_each_operation_changes_something(photographs, name):
    images = photographs()
    assert (operated(images, name, AMOUNTS[name]) != images).float().mean() > 0.1


@pytest.mark.parametrize("name", OP_FUNCTIONS)
@pytest.mark.parametrize("value", [0, 128, 255])
def test_images_of_one_colour_and_of_one_pixel(name, value):
    for side in (1, 2, 8):
        images = torch.full((6, 3, side, side), value, dtype=torch.uint8)
        theirs = [THEIRS[name](image, amount) for image, amount in zip(images, AMOUNTS[name], strict=True)]
        assert_close(operated(images, name, AMOUNTS[name]), theirs)


@pytest.mark.parametrize("name", ["saturation", "hue"])
def test_grey_images_have_no_colour_to_change(photographs, name):
    images = photographs(1)
    assert torch.equal(operated(images, name, AMOUNTS[name]), images)


def test_jitter_is_torchvisions_in_the_drawn_order(photographs):
    images = photographs()
    params = Augment(color_jitter=(0.4, 0.4, 0.4, 0.1)).sample(0, 0, np.arange(6), np.full((6, 2), 64), 64)
    theirs = []
    for image, codes, amounts in zip(images, params.ops, params.magnitudes, strict=True):
        names = [OPS[code] for code in codes]
        factors = {f"{name}_factor": amount for name, amount in zip(names, amounts.tolist(), strict=True)}
        sampler = [["brightness", "contrast", "saturation", "hue"].index(name) for name in names]
        theirs.append(v2.ColorJitter().transform(image, {"fn_idx": sampler, **factors}))
    ours = apply_ops(images.clone(), params)
    assert_close(ours, theirs)
    backwards = draw_of(params.ops[:, ::-1], params.magnitudes[:, ::-1], 64)
    assert not torch.equal(apply_ops(images.clone(), backwards), ours)


@pytest.mark.parametrize("auto", ["randaugment", "trivialaugment"])
@pytest.mark.parametrize("channels", [1, 3])
def test_automatic_operations_are_torchvisions(photographs, auto, channels):
    images = torch.cat([photographs(channels)] * 20)
    params = Augment(auto_augment=auto).sample(0, 0, np.arange(120), np.full((120, 2), 64), 64)
    assert len(np.unique(params.ops)) == len(AUTO_OPS)
    theirs = []
    for image, codes, amounts in zip(images, params.ops, params.magnitudes.tolist(), strict=True):
        for code, amount in zip(codes, amounts, strict=True):
            image = THEIRS[OPS[code]](image, amount) if code else image
        theirs.append(image)
    assert_close(apply_ops(images.clone(), params), theirs)


def test_erasing_is_torchvisions_and_comes_last(photographs):
    images = photographs()
    augment = Augment(color_jitter=(0.4,) * 4, random_erase=0.7, mean=(0.485, 0.456, 0.406))
    params = augment.sample(0, 0, np.arange(6), np.full((6, 2), 64), 64)
    assert 0 < (params.erase_boxes[:, 2] > 0).sum() < 6
    fill = torch.tensor(params.erase_fill, dtype=torch.uint8)[:, None, None]
    jittered = apply_ops(images.clone(), draw_of(params.ops, params.magnitudes, 64))
    theirs = [
        tv.erase(image, *window, fill) for image, window in zip(jittered, params.erase_boxes.tolist(), strict=True)
    ]
    assert torch.equal(apply_ops(images, params), torch.stack(theirs))


def test_what_is_erased_is_nothing_to_the_net(tree):
    """After normalizing, by the data set's mean where the augmentation has none of its own."""
    data = DataModule(
        ImageFolder,
        root=str(tree({"train/a": 4, "train/b": 4, "val/a": 1})),
        batch_size=8,
        image_size=16,
        augment=Augment(random_erase=1.0, erase_scale=(0.2, 0.3)),
    )
    data.setup()
    erased, _ = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert data.augment.mean is None
    assert all(0.15 < (image.abs() < 0.01).all(0).float().mean() < 0.35 for image in erased)
    whole = normalize(next(iter(data.val_dataloader()))[0], data.resolved_mean, data.resolved_std)
    assert not (whole.abs() < 0.01).all(1).any()


EVERYTHING = {"auto_augment": "randaugment", "num_ops": 3, "color_jitter": (0.4, 0.4, 0.4, 0.1), "random_erase": 0.5}


@pytest.mark.parametrize("crop", ["padded", "random_resized"])
def test_the_order_is_crop_and_flip_then_the_rest(photographs, crop):
    cut = photographs(crop=crop, flip=0.5)
    sampler = next(iter(EpochSampler(6, 6, seed=0, train=True)))
    params = Augment(**EVERYTHING).sample(0, 0, sampler, np.full((6, 2), 64), 64)
    assert torch.equal(photographs(crop=crop, flip=0.5, **EVERYTHING), apply_ops(cut, params))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_is_its_images_one_by_one_in_any_memory(channels, monkeypatch):
    pixels = np.stack([pixels_of(str(n), 48, 48, channels) for n in range(40)])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # channels last
    params = Augment(**EVERYTHING).sample(0, 0, np.arange(40), np.full((40, 2), 48), 48)
    together = apply_ops(images.clone(), params)
    assert together.is_contiguous(memory_format=torch.channels_last)
    one_by_one = [apply_ops(images[n : n + 1].clone(), params.select(np.array([n]))) for n in range(40)]
    assert torch.equal(torch.cat(one_by_one), together)
    monkeypatch.setattr(module, "CHUNK_VALUES", 2**24)
    assert torch.equal(apply_ops(images.contiguous(), params), together)


def test_threads_change_nothing(photographs):
    images, threads = torch.cat([photographs(side=96)] * 10), torch.get_num_threads()
    params = Augment(**EVERYTHING).sample(0, 0, np.arange(60), np.full((60, 2), 96), 96)
    made = []
    for count in (1, 3):
        torch.set_num_threads(count)
        made.append(apply_ops(images.clone(), params))
    torch.set_num_threads(threads)
    assert torch.equal(*made)


@pytest.mark.parametrize("files", [True, False])
def test_the_same_bytes_with_any_number_of_workers(tree, files):
    if files:
        split = ImageFolder(str(tree({"train/a": 6, "train/b": 6, "val/a": 1}))).split("train")
    else:
        split = Synthetic(images=60, image_size=16).split("train")
    augment = Augment(crop="random_resized", flip=0.5, **EVERYTHING)
    epochs = []
    for workers in (0, 2):
        sampler = EpochSampler(len(split), 4, seed=0, train=True)
        make = partial(TorchLoader, split, sampler, augment=augment, train=True, image_size=16, channels=3, seed=0)
        loader = make(workers=workers)
        epochs.append(torch.cat([images for images, _ in loader]))
        loader.close()
    assert torch.equal(*epochs)


def test_nothing_asked_for_is_nothing_done(photographs):
    images = photographs()
    params = Augment().sample(0, 0, np.arange(6), np.full((6, 2), 64), 64)
    before = images.clone()
    assert apply_ops(images, params) is images
    assert torch.equal(images, before)


def test_no_images():
    params = Augment(**EVERYTHING).sample(0, 0, np.arange(0), np.zeros((0, 2), np.int64), 8)
    assert apply_ops(torch.empty(0, 3, 8, 8, dtype=torch.uint8), params).shape == (0, 3, 8, 8)
