"""Decoding of what Pillow cannot read as it is: NumPy arrays, TIFF of many channels, and TIFF and PNG with 16 bits."""

import io
import math
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from cnnzoo.data.transforms.pixel_format import PLAIN_CHANNELS, PixelArray, check_dtype, is_plain

ByteBuffer = bytes | memoryview

NPY, PNG = b"\x93NUMPY", b"\x89PNG\r\n\x1a\n"
TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
PNG_DEPTH, PNG_COLOR = 24, 25  # positions of the bits per value and of the color type
PNG_COLOR_TYPES = (2, 4, 6)  # color, grey with alpha, color with alpha: Pillow reduces these to 8 bits
PAGE_ORIENTATION = 274  # the tag of a TIFF
PALETTE, MIN_IS_WHITE = 3, 0  # photometric interpretations of a TIFF


class ArrayHeader(NamedTuple):
    """What the header of a file says about its pixels."""

    height: int
    width: int
    channels: int
    dtype: np.dtype[Any]
    read: Callable[[], PixelArray]  # returns (H, W, channels), native byte order, before a rotation
    orientation: int = 1  # as in EXIF


def array_header(data: ByteBuffer, channels: int, bits: int) -> ArrayHeader | None:
    """The header of a file's content, or None if Pillow can read it as images of this format.

    Raises ValueError for a file that is cut off or that has other values than pixels. Nothing is unpickled.
    """
    start = bytes(data[:8])
    if start[:6] == NPY:
        return _npy_header(data, channels)
    if start[:4] in TIFFS and not is_plain(channels, bits):
        return tiff_header(data)
    if start == PNG and bits == 16 and data[PNG_DEPTH] == 16 and data[PNG_COLOR] in PNG_COLOR_TYPES:
        return _png_header(data, channels)
    return None


def is_tiff(data: ByteBuffer) -> bool:
    """Whether a file's content is a TIFF."""
    return bytes(data[:4]) in TIFFS


def _npy_header(data: ByteBuffer, channels: int) -> ArrayHeader:
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, is_fortran, dtype = read_header(file)
    except Exception as error:  # NumPy evaluates the header as a Python literal, which raises various exceptions
        raise ValueError("the header of this NumPy file is damaged") from error
    check_dtype(dtype)
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"its shape is {shape}, expected (height, width) or (height, width, channels)")
    count = shape[2] if len(shape) == 3 else 1
    if count != channels == shape[0] and count not in PLAIN_CHANNELS:
        raise ValueError(f"its shape is {shape}, with the channels first; expected (height, width, channels)")
    offset = file.tell()
    if len(data) - offset != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"it is cut off, or does not have the shape {shape} of its header")

    def read() -> PixelArray:
        values = np.frombuffer(data, dtype, math.prod(shape), offset).astype(dtype.newbyteorder("="), copy=False)
        return values.reshape(shape, order="F" if is_fortran else "C").reshape(shape[0], shape[1], count)

    return ArrayHeader(shape[0], shape[1], count, dtype, read)


def tiff_header(data: ByteBuffer) -> ArrayHeader | None:
    """The header of a TIFF, whose pages and samples are its channels; None for a palette or less than 8 bits."""
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise ValueError('reading such a TIFF needs tifffile: pip install "cnnzoo[tiff]"') from error
    with closing(tifffile.TiffFile(io.BytesIO(data))) as file:
        if not file.series:
            raise ValueError("has no image")
        series = file.series[0]
        page, shape, axes = series.keyframe, series.shape, series.axes
        if page.photometric == PALETTE or page.bitspersample < 8:
            return None
        check_dtype(series.dtype)
        if len(file.series) > 1:
            raise ValueError("its pages have different sizes or types")
        if series.dataoffset is not None:
            end = series.dataoffset + math.prod(shape) * series.dtype.itemsize
        else:
            pieces = [zip(page.dataoffsets, page.databytecounts, strict=False) for page in series.pages if page]
            end = max(offset + size for piece in pieces for offset, size in piece)
        if end > len(data):
            raise ValueError("it is cut off")
        y, x = axes.index("Y"), axes.index("X")
        tag = page.tags.get(PAGE_ORIENTATION)
        is_inverted, orientation = page.photometric == MIN_IS_WHITE, int(tag.value) if tag else 1
        height, width, dtype = shape[y], shape[x], series.dtype

    def read() -> PixelArray:
        with closing(tifffile.TiffFile(io.BytesIO(data))) as file:
            pixels = file.series[0].asarray()
        pixels = np.moveaxis(pixels, (y, x), (0, 1)).reshape(height, width, -1)
        return np.iinfo(pixels.dtype).max - pixels if is_inverted else pixels

    return ArrayHeader(height, width, math.prod(shape) // (height * width), dtype, read, orientation)


def _png_header(data: ByteBuffer, channels: int) -> ArrayHeader:
    """The header of a PNG with color or alpha and 16 bits, which OpenCV decodes."""
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        has_alpha = image.has_transparency_data
        count = 4 if has_alpha and channels not in PLAIN_CHANNELS else 3

    def read() -> PixelArray:
        with Image.open(io.BytesIO(data)) as image:
            image.load()  # raises for a damaged file, for which OpenCV writes to stderr
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
            raise ValueError("OpenCV cannot decode this PNG")
        rgb = pixels[..., 2::-1]
        if pixels.shape[2] == 3:
            return rgb
        if count == 4:
            return np.concatenate([rgb, pixels[..., 3:]], -1)
        alpha = pixels[..., 3:] / np.float32(65535)  # transparent pixels are blended with white, as for 8 bits
        return np.rint(rgb * alpha + 65535 * (1 - alpha)).astype(np.uint16)

    return ArrayHeader(height, width, count, np.dtype(np.uint16), read)
