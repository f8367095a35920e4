"""Fixtures: a network that is ready to use, its run directory, and image files of which some cannot be read."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from cnnzoo.data import Preprocess
from cnnzoo.models import create_model
from tests.helpers.images import make_pixels

PREPROCESS = {"image_size": 32, "eval_resize": 1.25, "channels": 3, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
CLASSES = ("cat", "dog", "guinea pig", "horse")


@pytest.fixture(scope="session")
def net():
    """A network with random weights that tells images apart: without the scale, all probabilities are nearly equal."""
    torch.manual_seed(0)
    net = create_model("lenet5", in_channels=3, num_classes=len(CLASSES)).eval()
    with torch.no_grad():
        net.output.weight.mul_(5)
    net.preprocess, net.classes = Preprocess(**PREPROCESS), CLASSES
    return net


@pytest.fixture(scope="session")
def run_dir(net, tmp_path_factory):
    """A finished run of `net`."""
    directory = tmp_path_factory.mktemp("run")
    (directory / "checkpoints").mkdir()
    metadata = {"model": dict(net.arguments), "preprocess": PREPROCESS, "classes": list(CLASSES)}
    state = {f"net.{key}": value for key, value in net.state_dict().items()}
    torch.save({"cnnzoo": metadata, "state_dict": state}, directory / "checkpoints" / "best.ckpt")
    (directory / "metrics.json").write_text("{}")
    return directory


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A directory of ten images in many formats and sizes, and five files that are none; `bad` of them by name."""
    root = tmp_path_factory.mktemp("photos")
    (root / "more é").mkdir()
    color = Image.fromarray(make_pixels("color", 60, 44))
    gray = make_pixels("gray", 40, 90, 1)[..., 0]
    alpha = color.copy()
    alpha.putalpha(Image.fromarray(make_pixels("alpha", 60, 44, 1)[..., 0]))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    color.save(root / "color.jpg")
    color.save(root / "rotated.jpeg", exif=exif)
    color.convert("CMYK").save(root / "cmyk.jpg")
    Image.fromarray(gray).save(root / "gray.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(root / "16bit.PNG")
    alpha.save(root / "more é" / "alpha.webp")
    color.quantize(8).save(root / "more é" / "palette.gif")
    color.resize((1, 1)).save(root / "more é" / "pixel.bmp")
    color.resize((300, 7)).save(root / "wide.tif")
    Image.fromarray(make_pixels("large", 500, 700)).save(root / "large.jpg")

    (root / "broken.jpg").write_bytes((root / "large.jpg").read_bytes()[:9000])
    (root / "empty.png").touch()
    (root / "folder.jpg").mkdir()
    (root / "strip.png").touch()
    color.resize((1, 5000)).save(root / "strip.png")
    (root / "text.gif").write_text("no image")
    (root / ".hidden.png").write_text("no image")
    (root / "notes.txt").write_text("no image")
    os.symlink(root / "nowhere", root / "link.png")
    return root
