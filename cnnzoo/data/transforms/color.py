"""Application of the angles, operations and erased boxes of `AugmentParams` to batches on the CPU.

Operations are for uint8 with 1 or 3 channels; the rest takes uint8 or uint16 with any number of channels.

The results equal those of torchvision v2's functions, up to rounding. They do not depend on the batch or the number of
threads: sums are over integers, and a multiplication is rounded before the addition that follows. Saturation and hue
leave grayscale images unchanged.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnzoo.data.transforms.augment import AugmentParams
from cnnzoo.data.transforms.sampling import OPS, FloatArray, IntArray

CHUNK_VALUES = 2**18  # pixel values that are processed at a time, so that they stay in a core's cache
RED_WEIGHT, GREEN_WEIGHT, BLUE_WEIGHT = np.float32(0.2989), np.float32(0.587), np.float32(0.114)  # as in torchvision
Pixels = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]
AffineRow = tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]


def apply_ops(images: Tensor, params: AugmentParams) -> Tensor:
    """Rotate by `params.angles`, apply `params.ops` in order, then erase `params.erase_boxes`.

    `images`, (N, C, H, W), is changed in place and returned.
    """
    if params.ops is not None or params.angles is not None:
        chunk_size = max(1, CHUNK_VALUES // images.shape[1:].numel())
        for start in range(0, len(images), chunk_size):
            chunk = slice(start, start + chunk_size)
            pixels = np.ascontiguousarray(images[chunk].numpy())
            if params.angles is not None:
                pixels = _rotate(pixels, params.angles[chunk], "bilinear")
            if params.ops is not None and params.magnitudes is not None:
                pixels = _apply_ops(pixels, params.ops[chunk], params.magnitudes[chunk])
            images[chunk] = torch.from_numpy(pixels)
    if params.erase_boxes is not None:
        pixels, erased = images.numpy(), np.flatnonzero(params.erase_boxes[:, 2])
        fill = np.array(params.erase_fill, pixels.dtype)[:, None, None]
        for n, (top, left, height, width) in zip(erased.tolist(), params.erase_boxes[erased].tolist(), strict=True):
            pixels[n, :, top : top + height, left : left + width] = fill
    return images


def _apply_ops(images: Pixels, ops: IntArray, magnitudes: FloatArray) -> Pixels:
    """Apply `ops` (N, K), one column at a time, to contiguous images; equal operations in a column are one call."""
    for column, codes in enumerate(ops.T):
        for code in np.unique(codes[codes > 0]):
            function, selected = OP_FUNCTIONS[OPS[code]], np.flatnonzero(codes == code)
            if len(selected) == len(images):
                images = function(images, magnitudes[:, column])
            else:
                images[selected] = function(images[selected], magnitudes[selected, column])
    return images


def _shear_x(images: Pixels, tangents: FloatArray) -> Pixels:
    offset = tangents * (images.shape[-2] / 2)  # keeps the top edge in its position
    return _affine(images, (1, tangents, offset), (0, 1, 0))


def _shear_y(images: Pixels, tangents: FloatArray) -> Pixels:
    offset = tangents * (images.shape[-1] / 2)  # keeps the left edge in its position
    return _affine(images, (1, 0, 0), (tangents, 1, offset))


def _rotate(images: Pixels, degrees: FloatArray, mode: str = "nearest") -> Pixels:
    angles = np.deg2rad(degrees)
    return _affine(images, (np.cos(angles), -np.sin(angles), 0), (np.sin(angles), np.cos(angles), 0), mode)


def _affine(images: Pixels, x_row: AffineRow, y_row: AffineRow, mode: str = "nearest") -> Pixels:
    """Copy to each pixel (x, y) the pixel nearest to (a x + b y + c, d x + e y + f); outside the image is black.

    With the mode "bilinear", the pixels around that position are interpolated instead.

    `x_row` is (a, b, c) and `y_row` is (d, e, f), each a number or an array (n,). Coordinates are measured from the
    center. They are rounded as in torchvision's matrix product, which fuses multiply and add. Coordinates half-way
    between two pixels therefore select the same pixel as in torchvision.
    """
    height, width = images.shape[-2:]
    x = np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2)
    y = np.arange(height, dtype=np.float32) - np.float32((height - 1) / 2)
    grids = np.empty((len(images), height, width, 2), np.float32)
    for axis, (row, side) in enumerate(((x_row, width), (y_row, height))):
        for n, coefficients in enumerate(np.broadcast_to(np.stack(np.broadcast_arrays(*row), -1), (len(images), 3))):
            a, b, c = coefficients.astype(np.float32) / np.float32(side / 2)
            grids[n, :, :, axis] = (x * a).astype(np.float64) + (y.astype(np.float64) * b)[:, None]
            if c:
                grids[n, :, :, axis] += c
    floats = torch.from_numpy(images).float()
    floats = F.grid_sample(floats, torch.from_numpy(grids), mode, "zeros", align_corners=False)
    return floats.round_().numpy().astype(images.dtype)


def _translate_x(images: Pixels, shifts: FloatArray) -> Pixels:
    out = np.zeros_like(images)
    for n, shift in enumerate(shifts.tolist()):
        target, source = _shift_slices(int(shift), images.shape[-1])
        out[n, :, :, target] = images[n, :, :, source]
    return out


def _translate_y(images: Pixels, shifts: FloatArray) -> Pixels:
    out = np.zeros_like(images)
    for n, shift in enumerate(shifts.tolist()):
        target, source = _shift_slices(int(shift), images.shape[-2])
        out[n, :, target] = images[n, :, source]
    return out


def _shift_slices(shift: int, side: int) -> tuple[slice, slice]:
    """Target and source slices for moving `side` pixels by `shift`; pixels that leave the image are dropped."""
    first, last = slice(max(0, side - abs(shift))), slice(min(side, abs(shift)), None)
    return (last, first) if shift > 0 else (first, last)


def _brightness(images: Pixels, factors: FloatArray) -> Pixels:
    return _to_uint8(images * _per_image(factors))


def _contrast(images: Pixels, factors: FloatArray) -> Pixels:
    # A sum of integers is exact in float64.
    means = _grayscale(images).sum(axis=(1, 2, 3), dtype=np.float64) / images[0, 0].size
    return _blend(images, _per_image(means), factors)


def _saturation(images: Pixels, factors: FloatArray) -> Pixels:
    return images if images.shape[1] == 1 else _blend(images, _grayscale(images), factors)


def _hue(images: Pixels, shifts: FloatArray) -> Pixels:
    """RGB to HSV, shift the hue, and back."""
    if images.shape[1] == 1:
        return images
    out = images.astype(np.float32)
    red, green, blue = out[:, 0], out[:, 1], out[:, 2]  # (n, H, W)
    high = out.max(axis=1)
    chroma = high - out.min(axis=1)
    divisor = np.maximum(chroma, 1)  # chroma is an integer, so this replaces only 0
    hue = (red - green) / divisor + 4  # in sixths of the color circle
    np.copyto(hue, (blue - red) / divisor + 2, where=high == green)
    np.copyto(hue, (green - blue) / divisor, where=high == red)
    hue += (6 * shifts).astype(np.float32)[:, None, None]
    for channel, offset in enumerate((5, 3, 1)):
        k = hue + offset
        k -= 6 * np.floor(k * np.float32(1 / 6))  # k modulo 6
        out[:, channel] = high - chroma * np.minimum(k, 4 - k).clip(0, 1)
    return _to_uint8(out * np.float32(255.999 / 255))  # torchvision's conversion from float to uint8


def _sharpness(images: Pixels, factors: FloatArray) -> Pixels:
    if min(images.shape[-2:]) <= 2:
        return images
    floats = images.astype(np.float32)
    rows = floats[:, :, :-2] + floats[:, :, 1:-1] + floats[:, :, 2:]
    inner = floats[:, :, 1:-1, 1:-1]
    smooth = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + inner * 4
    smooth = np.rint(smooth / 13)
    inner += (smooth - inner) * (1 - _per_image(factors))  # border pixels stay as they are
    return _to_uint8(floats)


def _posterize(images: Pixels, bits: FloatArray) -> Pixels:
    return images & (256 - 2 ** (8 - bits.astype(np.int64))).astype(np.uint8)[:, None, None, None]


def _solarize(images: Pixels, thresholds: FloatArray) -> Pixels:
    lowest = np.ceil(_per_image(thresholds)).astype(np.uint8)
    return images ^ ((images >= lowest).view(np.uint8) * np.uint8(255))


def _autocontrast(images: Pixels, _: FloatArray) -> Pixels:
    low, high = images.min(axis=(2, 3), keepdims=True), images.max(axis=(2, 3), keepdims=True)
    scale = (high - low) * np.float32(1 / 255)
    flat = low == high
    return _to_uint8((images - np.where(flat, np.float32(0), low)) / np.where(flat, np.float32(1), scale))


def _equalize(images: Pixels, _: FloatArray) -> Pixels:
    """Equalize each channel's histogram, with Pillow's rounding.

    A channel with fewer than 255 pixels below its maximum is unchanged.
    """
    out = np.empty_like(images)
    num_pixels = images[0, 0].size
    for plane, target in zip(images.reshape(-1, num_pixels), out.reshape(-1, num_pixels), strict=True):
        counts = np.bincount(plane, minlength=256)
        step = (plane.size - counts[plane.max()]) // 255
        table = ((counts.cumsum() - counts + step // 2) // step).clip(0, 255) if step else np.arange(256)
        np.take(table.astype(np.uint8), plane, out=target, mode="clip")
    return out


OP_FUNCTIONS: dict[str, Callable[[Pixels, FloatArray], Pixels]] = {
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "rotate": _rotate,
    "brightness": _brightness,
    "saturation": _saturation,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "hue": _hue,
}
"""Functions of images (n, C, H, W) and magnitudes (n,) that return images."""


def _per_image(values: FloatArray) -> Float32Array:
    return values.astype(np.float32)[:, None, None, None]


def _grayscale(images: Pixels) -> Float32Array:
    """(n, C, H, W) to (n, 1, H, W), rounded down to integers."""
    if images.shape[1] == 1:
        return images.astype(np.float32)
    gray = images[:, :1] * RED_WEIGHT
    gray += images[:, 1:2] * GREEN_WEIGHT
    gray += images[:, 2:] * BLUE_WEIGHT
    return np.floor(gray, out=gray)


def _blend(images: Pixels, others: Float32Array, factors: FloatArray) -> Pixels:
    """`factor * images + (1 - factor) * others`."""
    factor = _per_image(factors)
    blended = images * factor
    blended += others * (1 - factor)
    return _to_uint8(blended)


def _to_uint8(floats: Float32Array) -> Pixels:
    """Clip to 0 to 255 and drop the fraction; `floats` is overwritten."""
    return np.clip(floats, 0, 255, out=floats).astype(np.uint8)
