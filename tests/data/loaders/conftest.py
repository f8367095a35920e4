"""Fixtures: image files of the kinds that loaders may decode differently."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.images import make_pixels, make_split

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """Fifteen JPEGs: three sizes, gray and color, every subsampling and EXIF orientation, some progressive."""
    root = tmp_path_factory.mktemp("jpegs")
    paths = []
    for number in range(15):
        path = root / f"{number}.jpg"
        pixels = make_pixels(path.name, 50 + 11 * (number % 3), 64, 1 if number % 5 == 4 else 3)
        exif = Image.Exif()
        exif[ORIENTATION] = number % 8 + 1
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        image.save(path, exif=exif, subsampling=number % 3, progressive=number % 4 == 1, quality=90)
        paths.append(path)
    return make_split(paths)


@pytest.fixture(scope="module")
def file_formats(tmp_path_factory):
    """A split of one file per format: those that DALI decodes differently or not at all, and some JPEGs."""
    root = tmp_path_factory.mktemp("formats")
    pixels = make_pixels("gray", 50, 66, 1)[..., 0]
    color, gray = Image.fromarray(make_pixels("color", 48, 70)), Image.fromarray(pixels)
    alpha = color.copy()
    alpha.putalpha(Image.fromarray(make_pixels("alpha", 48, 70, 1)[..., 0]))
    images = {
        "color.jpg": (color, {}),
        "rgb.jpg": (color, {"keep_rgb": True}),
        "gray.jpg": (gray, {}),
        "cmyk.jpg": (color.convert("CMYK"), {}),
        "color.png": (color, {}),
        "gray.png": (gray, {}),
        "palette.png": (color.quantize(16), {}),
        "alpha.png": (alpha, {}),
        "16bit.png": (Image.fromarray(pixels.astype(np.uint16) * 257), {}),
        "gray.tif": (gray, {}),
        "color.bmp": (color, {}),
        "color.gif": (color, {}),
        "alpha.webp": (alpha, {"lossless": True}),
    }
    for name, (image, options) in images.items():
        image.save(root / name, **options)
    return make_split([root / name for name in images])
