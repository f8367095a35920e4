"""Decoding of image files: JPEG by libjpeg-turbo, CMYK JPEG and most other formats by Pillow, the rest by `arrays.py`.

All return pixels, uint8 or uint16, that are rotated as the EXIF orientation says. For JPEG they agree within rounding.
"""

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

from cnnzoo.data.transforms.arrays import ArrayHeader, ByteBuffer, array_header, is_tiff, tiff_header
from cnnzoo.data.transforms.pixel_format import PLAIN_CHANNELS, check_format, convert_pixels

Pixels = npt.NDArray[np.uint8]  # uint16 if 16 bits are asked for

MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**30)  # Pillow's limit for a decompression bomb
MAX_ASPECT = 1000  # longer by shorter side: resizing a longer image before it is cropped would fill the memory
JPEG, PNG, GIF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8"
END_MARKERS = {JPEG: b"\xff\xd9", PNG: b"IEND\xaeB`\x82", GIF: b";"}
"""The last bytes of a complete file, by its first bytes."""

UNVERIFIED, PLAIN_JPEG, OTHER_FORMAT = range(3)
"""What is known about a file: its header is valid; it is a JPEG that `verify_jpeg` accepts; or it is any other file."""

PLAIN_COLORSPACES = ("Gray", "YCbCr")
RGB_COLORSPACES = (*PLAIN_COLORSPACES, "RGB")
"""Color spaces of a JPEG that libjpeg-turbo decodes; only Pillow converts CMYK correctly."""

ORIENTATION_TAG = 0x0112
EXIF_TRANSPOSES: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels.transpose(1, 0, 2)[:, ::-1],
    7: lambda pixels: pixels.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda pixels: pixels.transpose(1, 0, 2)[::-1],
}
"""The function that makes an image upright, by its EXIF orientation; 1 is upright."""

EXIF_ERRORS = (struct.error, SyntaxError, ValueError, TypeError, KeyError, OSError)
"""The errors that Pillow raises for invalid EXIF data."""


@dataclass(frozen=True)
class BadFile:
    """A file that cannot be decoded, and the reason in one line."""

    path: str
    reason: str


def read_file(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


def decode_file(path: str, channels: int, bits: int = 8) -> Pixels:
    """Read and decode a file; see `decode_bytes`."""
    return decode_bytes(read_file(path), channels, bits)


def decode_bytes(data: ByteBuffer, channels: int, bits: int = 8) -> Pixels:
    """Decode a file's content to uint8, or uint16 for 16 bits, (H, W, channels), upright.

    Of an animation it is the first frame. The pages of a TIFF are channels if they have 16 bits or if `channels` is
    neither 1 nor 3; otherwise it is the first page.

    Raises the decoder's exceptions, which `error_reason` describes, and ValueError for another number of channels or
    bits. Any damage in a JPEG raises.
    """
    _check_not_empty(data)
    colorspace = _jpeg_header(data)[2] if data[:3] == JPEG else None
    if colorspace in RGB_COLORSPACES:
        pixels = simplejpeg.decode_jpeg(data, "GRAY" if colorspace == "Gray" else "RGB")
        orientation = _jpeg_orientation(data)
    elif (header := _array_header(data, channels, bits)) is not None:
        check_format(header.channels, header.dtype, channels, bits)
        pixels, orientation = header.read(), header.orientation
    else:
        with _open_image(data) as image:
            return pil_to_array(image, channels, bits)
    transpose = EXIF_TRANSPOSES.get(orientation)
    if transpose is not None:
        pixels = np.ascontiguousarray(transpose(pixels))
    return convert_pixels(pixels, channels, bits)


def check_header(data: ByteBuffer, channels: int = 3, bits: int = 8) -> tuple[int, int]:
    """Check the header and the last bytes of a file's content; returns (height, width) of the upright image.

    If the file does not end as its format requires, it is decoded completely. Raises as `decode_bytes` does, and for an
    image that is longer than `MAX_ASPECT` times its shorter side.
    """
    height, width = _read_header(data, channels, bits)
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ValueError(f"{width} x {height} pixels: one side is more than {MAX_ASPECT:,} times the other")
    return height, width


def _read_header(data: ByteBuffer, channels: int, bits: int) -> tuple[int, int]:
    _check_not_empty(data)
    array = None if data[:3] == JPEG else _array_header(data, channels, bits)
    if array is not None:
        check_format(array.channels, array.dtype, channels, bits)
        return (array.width, array.height) if array.orientation >= 5 else (array.height, array.width)
    end = next((end for start, end in END_MARKERS.items() if bytes(data[: len(start)]) == start), None)
    if end is None or bytes(data[-len(end) :]) != end:
        height, width = decode_bytes(data, channels, bits).shape[:2]
        return height, width
    if data[:3] == JPEG and channels in PLAIN_CHANNELS:
        height, width, _, _ = _jpeg_header(data)
        return (width, height) if _jpeg_orientation(data) >= 5 else (height, width)
    with _open_image(data) as image:
        if channels not in PLAIN_CHANNELS:
            check_format(len(_natural_mode(image)), np.dtype(np.uint8), channels, bits)
        transposed = image.getexif().get(ORIENTATION_TAG, 1) >= 5
        return (image.width, image.height) if transposed else (image.height, image.width)


def header_size(data: ByteBuffer) -> tuple[int, int]:
    """The (height, width) in the header of a file's content, before a rotation. Raises for files without a header."""
    header = _array_header(data, 3, 8)
    if header is not None:
        return header.height, header.width
    with _open_image(data) as image:
        return image.height, image.width


def verify_jpeg(data: ByteBuffer) -> bool:
    """Whether a file's content is a JPEG in grayscale or YCbCr, which all decoders decode alike.

    They convert CMYK differently, and decoders on a GPU take RGB for YCbCr.

    `check_header` must have accepted it. The whole JPEG is read, as strictly as by `decode_bytes` but at 1/8 of its
    size, in about half of the time. Raises as `decode_bytes` does.
    """
    if data[:3] != JPEG or _jpeg_header(data)[2] not in PLAIN_COLORSPACES:
        return False
    simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8)
    return True


def pil_to_array(image: Image.Image, channels: int, bits: int = 8) -> Pixels:
    """Convert a Pillow image to uint8, or uint16 for 16 bits, (H, W, channels), upright.

    For 1 and 3 channels, transparent pixels are blended with white; otherwise alpha is a channel. Raises ValueError for
    another number of channels, and for floating-point pixels, because their range is unknown.
    """
    image.load()  # a PNG may store its EXIF data after the pixels
    image = _apply_exif_orientation(image)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of an unknown range")
    if image.mode.startswith("I"):  # 16 bits per pixel: Pillow's own conversion clips at 255
        gray = np.asarray(image).astype(np.int64).clip(0, 65535)
        if bits == 16:
            return convert_pixels(gray.astype(np.uint16)[..., None], channels, bits)
        image = Image.fromarray(np.rint(gray / 257).astype(np.uint8))
    if channels not in PLAIN_CHANNELS:
        mode = _natural_mode(image)
        pixels = np.asarray(image.convert("".join(mode)))
        return convert_pixels(pixels.reshape(*pixels.shape[:2], len(mode)), channels, bits)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return convert_pixels(pixels.reshape(*pixels.shape[:2], channels), channels, bits)


def _natural_mode(image: Image.Image) -> tuple[str, ...]:
    """The channels of a Pillow image with 8 bits, such as ("R", "G", "B", "A"); those of its colors for a palette."""
    if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return tuple(image.mode)
    if image.mode in ("1", "I") or image.mode.startswith("I;"):
        return ("L",)
    return tuple("RGBA" if image.has_transparency_data else "RGB")


def _array_header(data: ByteBuffer, channels: int, bits: int) -> ArrayHeader | None:
    """`array_header`, also of a TIFF that only Pillow could read but does not; checks the number of pixels."""
    header = array_header(data, channels, bits)
    if header is None and is_tiff(data):
        try:
            _open_image(data).close()
        except UnidentifiedImageError:
            header = tiff_header(data)
    if header is not None and header.height * header.width > MAX_PIXELS:
        raise ValueError(f"{header.width} x {header.height} pixels are more than the limit of {MAX_PIXELS:,}")
    return header


def error_reason(error: Exception) -> str:
    """Why a file could not be read or decoded, in one line without its path."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or in a format that Pillow does not support"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    message = re.sub(r"^tj\w+\(\): ", "", " ".join(str(error).split()))  # drop the name of libjpeg-turbo's function
    return message or type(error).__name__


def _check_not_empty(data: ByteBuffer) -> None:
    if not len(data):
        raise ValueError("an empty file")


def _open_image(data: ByteBuffer) -> Image.Image:
    return Image.open(io.BytesIO(data))


def _jpeg_header(data: ByteBuffer) -> tuple[int, int, str, str]:
    """Height, width, color space and chroma subsampling, before the EXIF rotation."""
    height, width, colorspace, subsampling = simplejpeg.decode_jpeg_header(data)
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are more than the limit of {MAX_PIXELS:,}")
    return height, width, colorspace, subsampling


def _jpeg_orientation(data: ByteBuffer) -> int:
    """The EXIF orientation of a JPEG, 1 to 8.

    Pillow needs 300 microseconds to read it. It is used only if the orientation may be in XMP data.
    """
    offset = 2
    while offset + 4 <= len(data) and data[offset] == 0xFF:
        marker, end = data[offset + 1], offset + 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
        if marker == 0xE1:
            segment = bytes(data[offset + 4 : end])
            orientation = _tiff_orientation(segment[6:]) if segment[:6] == b"Exif\0\0" else 0
            if orientation:
                return orientation
            if b"rientation" in segment:  # XMP stores it as text
                with suppress(*EXIF_ERRORS), _open_image(data) as image:
                    return int(image.getexif().get(ORIENTATION_TAG, 1))
        if 0xC0 <= marker <= 0xCF or marker == 0xDA:  # start of the frame: no EXIF data follows
            return 1
        offset = end
    return 1


def _tiff_orientation(tiff: bytes) -> int:
    """The orientation in the first directory of a TIFF header (TIFF 6.0, section 2); 0 if there is none."""
    byte_order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if byte_order is None:
        return 0
    with suppress(struct.error):
        (directory,) = struct.unpack_from(f"{byte_order}L", tiff, 4)
        (count,) = struct.unpack_from(f"{byte_order}H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, field_type, _, value = struct.unpack_from(f"{byte_order}HHLH", tiff, entry)
            if tag == ORIENTATION_TAG and field_type == 3:  # 3 is an unsigned 16-bit integer
                return value if 1 <= value <= 8 else 1
    return 0


def _apply_exif_orientation(image: Image.Image) -> Image.Image:
    with suppress(*EXIF_ERRORS):  # invalid EXIF data does not affect the pixels
        ImageOps.exif_transpose(image, in_place=True)
    return image
