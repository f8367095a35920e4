"""From a file to pixels."""

import struct
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError


@dataclass(frozen=True)
class BadFile:
    """A file that cannot be decoded, and why: one line."""

    path: str
    reason: str


def decode(path: str, channels: int) -> npt.NDArray[np.uint8]:
    """The file's (first) image, uint8 (H, W, channels), upright as its EXIF orientation says.

    Raises whatever Pillow raises; `why` puts that into words.
    """
    with Image.open(path) as image:
        return as_pixels(image, channels)


def as_pixels(image: Image.Image, channels: int) -> npt.NDArray[np.uint8]:
    """Any Pillow image as uint8 (H, W, channels), upright. What is transparent is laid on white.

    Raises ValueError for floating-point pixels, whose range nobody knows.
    """
    image.load()  # before EXIF is looked at: a PNG may carry it behind its pixels
    image = _upright(image)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of an unknown range")
    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow's own conversion would cut off all above 255
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(np.rint(grey / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def why(error: Exception) -> str:
    """What was wrong with a file, in a few words, its path not repeated."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of a format that Pillow does not know"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    # EXIF that cannot be parsed says nothing about the pixels, which are there.
    with suppress(struct.error, SyntaxError, ValueError, TypeError, KeyError, OSError):
        ImageOps.exif_transpose(image, in_place=True)
    return image
