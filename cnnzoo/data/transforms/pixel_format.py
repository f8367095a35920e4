"""The format of the images that a network gets: the number of channels, and 8 or 16 bits for each value.

Most code for images of 8 bits and 1 or 3 channels, which are called plain here, cannot be used for other formats.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from cnnzoo.checks import check_choice, check_int
from cnnzoo.runtime.formatting import plural

PLAIN_CHANNELS = (1, 3)
BITS = (8, 16)
PixelArray = npt.NDArray[Any]  # uint8, or uint16 for 16 bits


def check_channels(key: str, channels: Any) -> int:
    """Return the number of channels. Raises UserError unless it is a whole number >= 1."""
    return check_int(key, channels, minimum=1, note="(1 is grey, 3 is RGB)")


def check_bits(key: str, bits: Any) -> int:
    """Return the bits of each value. Raises UserError unless they are 8 or 16."""
    return int(check_choice(key, bits, BITS, note="(16 keeps 16-bit files as they are)"))


def is_plain(channels: int, bits: int) -> bool:
    """Whether the images are grey or RGB, with 8 bits."""
    return bits == 8 and channels in PLAIN_CHANNELS


def pixel_dtype(bits: int) -> npt.DTypeLike:
    """The data type of pixels with 8 or 16 bits."""
    return np.uint8 if bits == 8 else np.uint16


def format_text(channels: int, bits: int) -> str:
    """`5 channels`, `1 channel with 16 bits`."""
    return plural(channels, "channel") + (" with 16 bits" if bits == 16 else "")


def check_dtype(dtype: "np.dtype[Any] | None") -> None:
    """Raise ValueError unless the values of an image are uint8 or uint16, in any byte order."""
    if dtype is None or dtype.kind != "u" or dtype.itemsize > 2:
        raise ValueError(f"its values are {dtype}, expected uint8 or uint16")


def check_format(count: int, dtype: "np.dtype[Any]", channels: int, bits: int) -> None:
    """Raise ValueError, with what to type instead, unless `convert_pixels` can convert `count` channels."""
    check_dtype(dtype)
    expected = []
    if count != channels and not (count in PLAIN_CHANNELS and channels in PLAIN_CHANNELS):
        expected.append(f"data.channels={count}")
    if dtype.itemsize == 2 and bits == 8:
        expected.append("data.bits=16")
    if expected:
        found = format_text(count, 8 * dtype.itemsize)
        raise ValueError(f"has {found}, expected {format_text(channels, bits)}; type {' '.join(expected)}")


def convert_pixels(pixels: PixelArray, channels: int, bits: int) -> PixelArray:
    """Convert pixels (H, W, C) to uint8 or uint16 (H, W, channels).

    Grey and RGB are converted to each other. A value of 8 bits is multiplied by 257, so that 255 becomes 65535. Raises
    ValueError for other numbers of channels, and for 16 bits that would be reduced to 8.
    """
    check_format(pixels.shape[-1], pixels.dtype, channels, bits)
    pixels = convert_channels(pixels, channels)
    return pixels if pixels.dtype == pixel_dtype(bits) else pixels.astype(np.uint16) * np.uint16(257)


def convert_channels(pixels: PixelArray, channels: int) -> PixelArray:
    """Convert pixels (..., C) to grayscale (1) or color (3).

    Grayscale is repeated. Color is weighted as in Pillow (ITU-R 601-2).
    """
    if pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    weighted = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighted + 0x8000) >> 16).astype(pixels.dtype)[..., None]
