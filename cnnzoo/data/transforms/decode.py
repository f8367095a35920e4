"""From the bytes of a file to pixels: JPEG by libjpeg-turbo, everything else by Pillow; both give the same pixels."""

import io
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]
ByteBuffer = bytes | memoryview

MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**30)  # what Pillow, too, refuses as a decompression bomb
JPEG, PNG, GIF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8"
END_MARKERS = {JPEG: b"\xff\xd9", PNG: b"IEND\xaeB`\x82", GIF: b";"}
"""How a whole file ends, by how it begins."""

ORIENTATION_TAG = 0x0112  # the tag

EXIF_TRANSPOSES: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels.transpose(1, 0, 2)[:, ::-1],
    7: lambda pixels: pixels.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda pixels: pixels.transpose(1, 0, 2)[::-1],
}
"""What brings an image upright, by its EXIF orientation; 1 is upright."""


@dataclass(frozen=True)
class BadFile:
    """A file that cannot be decoded, and why: one line."""

    path: str
    reason: str


def read_file(path: str) -> bytes:
    """The file's bytes."""
    with open(path, "rb", buffering=0) as file:
        return file.read()


def decode_file(path: str, channels: int) -> Pixels:
    """`decoded` of a file's bytes."""
    return decode_bytes(read_file(path), channels)


def decode_bytes(data: ByteBuffer, channels: int) -> Pixels:
    """The (first) image in a file's bytes, uint8 (H, W, channels), upright as its EXIF orientation says.

    Raises whatever the decoders raise; `why` puts that into words. A JPEG that is damaged anywhere raises, too.
    """
    _check_not_empty(data)
    if data[:3] != JPEG:
        with _open_image(data) as image:
            return pil_to_array(image, channels)
    colours = _jpeg_header(data)[2]
    if colours not in ("Gray", "YCbCr", "RGB"):  # CMYK: Pillow knows how it is printed
        with _open_image(data) as image:
            return pil_to_array(image, channels)
    pixels = simplejpeg.decode_jpeg(data, "GRAY" if colours == "Gray" else "RGB")
    turn = EXIF_TRANSPOSES.get(_jpeg_orientation(data))
    if turn is not None:
        pixels = np.ascontiguousarray(turn(pixels))
    return convert_channels(pixels, channels)


def check_header(data: ByteBuffer) -> tuple[int, int]:
    """(height, width), upright, of the image in a file's bytes, once its header and its end have been looked at.

    What ends in an unusual way is decoded in full to see whether it can be. Raises as `decoded` does.
    """
    _check_not_empty(data)
    ends = [end for begin, end in END_MARKERS.items() if bytes(data[: len(begin)]) == begin]
    if not ends or bytes(data[-len(ends[0]) :]) != ends[0]:
        height, width = decode_bytes(data, 3).shape[:2]
        return height, width
    if data[:3] == JPEG:
        height, width, _, _ = _jpeg_header(data)
        return (width, height) if _jpeg_orientation(data) >= 5 else (height, width)
    with _open_image(data) as image:
        sideways = image.getexif().get(ORIENTATION_TAG, 1) >= 5
        return (image.width, image.height) if sideways else (image.height, image.width)


def verify_jpeg(data: ByteBuffer) -> bool:
    """Whether the file's bytes, `checked` before, are a JPEG of grey or colour, which every decoder decodes alike.

    A JPEG is read from end to end, strictly, as `decoded` reads it, in about half of the time. Raises as it does.
    """
    if data[:3] != JPEG or _jpeg_header(data)[2] not in ("Gray", "YCbCr", "RGB"):
        return False
    simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8)
    return True


def pil_to_array(image: Image.Image, channels: int) -> Pixels:
    """Any Pillow image as uint8 (H, W, channels), upright. What is transparent is laid on white.

    Raises ValueError for floating-point pixels, whose range nobody knows.
    """
    image.load()  # before EXIF is looked at: a PNG may carry it behind its pixels
    image = _apply_exif_orientation(image)
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


def convert_channels(pixels: Pixels, channels: int) -> Pixels:
    """Pixels (..., C) as grey (1) or colour (3): grey repeated, colour weighed as Pillow weighs it (ITU-R 601-2)."""
    if pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    weighed = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighed + 0x8000) >> 16).astype(np.uint8)[..., None]


def error_reason(error: Exception) -> str:
    """What was wrong with a file, in a few words, its path not repeated."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of a format that Pillow does not know"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = re.sub(r"^tj\w+\(\): ", "", " ".join(str(error).split()))  # libjpeg-turbo names its function first
    return said or type(error).__name__


def _check_not_empty(data: ByteBuffer) -> None:
    if not len(data):
        raise ValueError("an empty file")


def _open_image(data: ByteBuffer) -> Image.Image:
    return Image.open(io.BytesIO(data))


def _jpeg_header(data: ByteBuffer) -> tuple[int, int, str, str]:
    height, width, colours, sampling = simplejpeg.decode_jpeg_header(data)
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are more than the {MAX_PIXELS:,} that are decoded")
    return height, width, colours, sampling


def _jpeg_orientation(data: ByteBuffer) -> int:
    """1 to 8, by the EXIF segment; Pillow is asked where it may stand elsewhere, as asking takes 300 microseconds."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xE1:
            segment = bytes(data[at + 4 : end])
            found = _tiff_orientation(segment[6:]) if segment[:6] == b"Exif\0\0" else 0
            if found:
                return found
            if b"rientation" in segment:  # XMP has it in words
                with suppress(*_EXIF_ERRORS), _open_image(data) as image:
                    return int(image.getexif().get(ORIENTATION_TAG, 1))
        if 0xC0 <= marker <= 0xCF or marker == 0xDA:  # the frame begins
            return 1
        at = end
    return 1


def _tiff_orientation(tiff: bytes) -> int:
    """The orientation in the first directory of a TIFF header (TIFF 6.0, section 2); 0 where it has none."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 0
    with suppress(struct.error):
        (first,) = struct.unpack_from(f"{order}L", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, first)
        for at in range(first + 2, first + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHLH", tiff, at)
            if tag == ORIENTATION_TAG and kind == 3:  # an unsigned number of 16 bits
                return value if 1 <= value <= 8 else 1
    return 0


_EXIF_ERRORS = (struct.error, SyntaxError, ValueError, TypeError, KeyError, OSError)


def _apply_exif_orientation(image: Image.Image) -> Image.Image:
    with suppress(*_EXIF_ERRORS):  # EXIF that cannot be parsed says nothing about the pixels, which are there
        ImageOps.exif_transpose(image, in_place=True)
    return image
