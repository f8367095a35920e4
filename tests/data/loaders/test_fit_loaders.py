"""Rectangular images and `data.fit` through every loader: the batches equal those of the simplest one."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.datasets.folder import ImageFolder
from cnnzoo.data.loaders.progressive import grow_images
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.errors import UserError
from tests.helpers.images import make_pixels, make_split
from tests.helpers.loaders import (
    DALI,
    GPU_DATASET,
    NO_WORKERS,
    equal_batches,
    load_epoch,
    loader_params,
    reference_options,
    similar_batches,
)

SIZES = [(40, 160), (160, 40), (30, 30), (25, 64), (90, 45), (12, 20)]
LOADERS = [{"workers": 2, "kind": "threads"}, {"workers": 2, "kind": "processes"}, DALI, GPU_DATASET]
parametrize_fits = pytest.mark.parametrize(
    ("fit", "crop"), [("crop", "random_resized"), ("crop", "padded"), ("pad", "padded"), ("squash", "padded")]
)


@pytest.fixture(scope="module")
def wide_files(tmp_path_factory):
    """JPEGs and PNGs of several aspect ratios."""
    root, paths = tmp_path_factory.mktemp("wide"), []
    for n, size in enumerate(SIZES * 2):
        paths.append(root / f"{n}.{'jpg' if n % 3 else 'png'}")
        Image.fromarray(make_pixels(f"{n}", *size)).save(paths[-1], quality=95)
    return make_split(paths)


@parametrize_fits
@pytest.mark.parametrize("loader_options", loader_params(LOADERS))
def test_rectangles_of_every_loader_are_equal(make_loader, wide_files, loader_options, fit, crop):
    is_torch = "loader" not in loader_options
    for train in (True, False):
        augment = Augment(crop=crop, fit=fit, flip=0.5, random_erase=0.5, mean=(0.3, 0.4, 0.5))
        options = {"augment": augment, "train": train, "image_size": (24, 40)}
        expected = load_epoch(make_loader(wide_files, 5, **options, **NO_WORKERS), 1)
        assert {images.shape[1:] for images, _ in expected} == {(3, 24, 40)}
        batches = load_epoch(make_loader(wide_files, 5, **options, **loader_options), 1)
        assert (equal_batches if is_torch else similar_batches)(batches, expected)


@pytest.mark.parametrize("loader_options", loader_params([NO_WORKERS, DALI, GPU_DATASET]))
def test_pad_of_every_loader_shows_all_of_a_wide_image(make_loader, tmp_path, loader_options):
    """A 4:1 image with a red and a blue end: both are there, above and below is black."""
    pixels = np.full((50, 200, 3), 255, np.uint8)
    pixels[:, :25], pixels[:, -25:] = (255, 0, 0), (0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    options = {"augment": Augment(fit="pad"), "train": False, "image_size": 64}
    ((images, _),) = load_epoch(make_loader(make_split([tmp_path / "wide.png"]), 1, **options, **loader_options))
    image = images[0].float()
    assert not image[:, :24].any()
    assert not image[:, 40:].any()
    assert (image[:, 24:40, 9:55] > 250).float().mean() > 0.98
    assert (image[:, 25:39, :7].mean((1, 2)) - torch.tensor([255.0, 0, 0])).abs().max() < 3
    assert (image[:, 25:39, -7:].mean((1, 2)) - torch.tensor([0, 0, 255.0])).abs().max() < 3


@pytest.mark.parametrize("loader_options", loader_params([{"workers": 2, "kind": "processes"}, DALI]))
def test_growing_rectangles_equal_loaders_of_each_size(make_loader, wide_files, loader_options):
    augment = Augment(fit="pad", crop="padded")
    loader = make_loader(wide_files, 4, image_size=(24, 40), augment=augment, **loader_options)
    grow_images(loader, start=12, epochs=4)
    sizes = [(12, 20), (16, 27), (20, 33), (24, 40)]
    for epoch, size in enumerate(sizes):
        batches = [(images.clone(), labels) for images, labels in loader]
        assert loader.image_size == size
        options = {"image_size": size, "augment": augment, **reference_options(loader_options)}
        assert equal_batches(batches, load_epoch(make_loader(wide_files, 4, **options), epoch))


@pytest.fixture
def wide_folder(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for n in range(10):
            Image.fromarray(make_pixels(f"{name}{n}", 20, 80)).save(tmp_path / name / f"{n}.png")
    return partial(DataModule, ImageFolder, root=str(tmp_path), loader=partial(TorchLoader, workers=0), batch_size=4)


def test_data_module_fit_and_rectangle(wide_folder):
    data = wide_folder(image_size=[24, 40], fit="pad", augment=Augment(crop="padded", padding=0), start_size=12)
    data.setup()
    data.set_input(image_size=(24, 40), channels=3, eval_resize=1.143)  # as with pretrained weights
    assert data.resolved_image_size == (24, 40)
    assert {key: data.preprocess[key] for key in ("image_size", "eval_resize", "fit")} == {
        "image_size": [24, 40], "eval_resize": 1.0, "fit": "pad",
    }  # fmt: skip
    for loader in (data.train_dataloader(), data.val_dataloader()):
        images, _ = next(iter(loader))
        assert images.shape[1:] == (3, 24, 40)
        assert images[:, :, 7:17].float().mean((1, 2, 3)).min() > 20
        assert not images[:, :, :7].any()


def test_data_module_fit_is_that_of_augment_by_default(wide_folder):
    assert wide_folder(augment=Augment(fit="squash")).augment.fit == "squash"
    assert wide_folder(fit="pad", augment=Augment(fit="squash")).augment.fit == "pad"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fit": "fill"}, "data.fit=fill: expected crop, pad or squash"),
        (
            {"fit": "pad", "augment": Augment(crop="random_resized")},
            "data.fit=pad: augment.crop=random_resized",
        ),
        ({"fit": "squash", "augment": Augment(eval_resize=1.2)}, "augment.eval_resize=1.2: cuts off the border"),
        ({"image_size": [24, 40, 3]}, r"data.image_size=\[24, 40, 3\]: expected two numbers, \[height,width\]"),
        ({"image_size": [24, "wide"]}, "data.image_size=wide: expected a whole number"),
        ({"start_size": [12, 20]}, r"data.start_size=\[12, 20\]: expected a whole number >= 1 \(the shorter side\)"),
    ],
)
def test_data_module_of_an_unsuitable_fit_raises(wide_folder, arguments, message):
    with pytest.raises(UserError, match=message):
        wide_folder(**arguments)


def test_start_size_above_the_shorter_side_raises(wide_folder):
    with pytest.raises(UserError, match=r"data.start_size=30: the image size is \[24,40\]; type a smaller"):
        wide_folder(image_size=[24, 40], start_size=30).setup()
