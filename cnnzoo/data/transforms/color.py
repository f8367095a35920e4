"""Doing on the CPU what a `Draw` says beside crop and flip, to batches of uint8; equal to torchvision v2's functions.

Nothing depends on which images are worked on together, nor on the number of threads: sums are of whole numbers, and a
product and a sum are rounded one after the other. Saturation and hue leave grey images as they are.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnzoo.data.transforms.augment import AugmentParams
from cnnzoo.data.transforms.sampling import OPS, Floats, Ints

CHUNK_VALUES = 2**18  # values: what is worked on together stays in a core's cache
RED, GREEN, BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)  # torchvision's weights of grey
Pixels = npt.NDArray[np.uint8]
Float32s = npt.NDArray[np.float32]


def apply_ops(images: Tensor, params: AugmentParams) -> Tensor:
    """`images`, uint8 (N, C, S, S), after the draw's operations, in turn, and with its windows erased; in place."""
    if params.ops is not None and params.magnitudes is not None:
        at_once = max(1, CHUNK_VALUES // images.shape[1:].numel())
        for start in range(0, len(images), at_once):
            part = slice(start, start + at_once)
            planes = np.ascontiguousarray(images[part].numpy())
            images[part] = torch.from_numpy(_apply_ops(planes, params.ops[part], params.magnitudes[part]))
    if params.erase_boxes is not None:
        fill = np.array(params.erase_fill, np.uint8)[:, None, None]
        for image, (top, left, height, width) in zip(images.numpy(), params.erase_boxes.tolist(), strict=True):
            image[:, top : top + height, left : left + width] = fill
    return images


def _apply_ops(images: Pixels, operations: Ints, amounts: Floats) -> Pixels:
    """Images, contiguous, after what each row of `operations` (N, K) names; those with the same turn go together."""
    for turn, codes in enumerate(operations.T):
        for code in np.unique(codes[codes > 0]):
            operation, same = OP_FUNCTIONS[OPS[code]], np.flatnonzero(codes == code)
            if len(same) == len(images):
                images = operation(images, amounts[:, turn])
            else:
                images[same] = operation(images[same], amounts[same, turn])
    return images


def _shear_x(images: Pixels, tangents: Floats) -> Pixels:
    half = tangents * (images.shape[-1] / 2)  # it is the upper edge that stays
    return _warp(images, (1, tangents, half), (0, 1, 0))


def _shear_y(images: Pixels, tangents: Floats) -> Pixels:
    half = tangents * (images.shape[-1] / 2)
    return _warp(images, (1, 0, 0), (tangents, 1, half))


def _rotate(images: Pixels, degrees: Floats) -> Pixels:
    angles = np.deg2rad(degrees)
    return _warp(images, (np.cos(angles), -np.sin(angles), 0), (np.sin(angles), np.cos(angles), 0))


def _warp(images: Pixels, across: tuple[npt.ArrayLike, ...], down: tuple[npt.ArrayLike, ...]) -> Pixels:
    """To each pixel (x, y), counted from the centre, the one nearest to (a x + b y + c, d x + e y + f), black outside.

    `across` is a, b, c and `down` d, e, f: numbers, or arrays (n,). The place is rounded as in torchvision's product of
    matrices (multiply and add fused), so that places half-way between two pixels go the same way.
    """
    side = images.shape[-1]
    x = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
    grids = np.empty((len(images), side, side, 2), np.float32)
    for axis, place in enumerate((across, down)):
        for n, factors in enumerate(np.broadcast_to(np.stack(np.broadcast_arrays(*place), -1), (len(images), 3))):
            a, b, c = factors.astype(np.float32) / np.float32(side / 2)
            grids[n, :, :, axis] = (x * a).astype(np.float64) + (x.astype(np.float64) * b)[:, None]
            if c:
                grids[n, :, :, axis] += c
    floats = torch.from_numpy(images).float()
    floats = F.grid_sample(floats, torch.from_numpy(grids), "nearest", "zeros", align_corners=False)
    return floats.numpy().astype(np.uint8)


def _translate_x(images: Pixels, pixels: Floats) -> Pixels:
    moved = np.zeros_like(images)
    for n, by in enumerate(pixels.tolist()):
        to, of = _overlap(int(by), images.shape[-1])
        moved[n, :, :, to] = images[n, :, :, of]
    return moved


def _translate_y(images: Pixels, pixels: Floats) -> Pixels:
    moved = np.zeros_like(images)
    for n, by in enumerate(pixels.tolist()):
        to, of = _overlap(int(by), images.shape[-1])
        moved[n, :, to] = images[n, :, of]
    return moved


def _overlap(by: int, side: int) -> tuple[slice, slice]:
    """Where the part of `side` pixels that stays inside goes to when moved `by`, and where it comes from."""
    first, last = slice(max(0, side - abs(by))), slice(min(side, abs(by)), None)
    return (last, first) if by > 0 else (first, last)


def _brightness(images: Pixels, factors: Floats) -> Pixels:
    return _to_uint8(images * _per_image(factors))


def _contrast(images: Pixels, factors: Floats) -> Pixels:
    means = _grayscale(images).sum(axis=(1, 2, 3), dtype=np.float64) / images[0, 0].size  # exact: of whole numbers
    return _blend(images, _per_image(means), factors)


def _saturation(images: Pixels, factors: Floats) -> Pixels:
    return images if images.shape[1] == 1 else _blend(images, _grayscale(images), factors)


def _hue(images: Pixels, turns: Floats) -> Pixels:
    if images.shape[1] == 1:
        return images
    colours = images.astype(np.float32)
    red, green, blue = colours[:, 0], colours[:, 1], colours[:, 2]  # (n, S, S)
    high = colours.max(axis=1)
    chroma = high - colours.min(axis=1)
    over = np.maximum(chroma, 1)  # whole numbers: this changes 0 alone
    sixths = (red - green) / over + 4
    np.copyto(sixths, (blue - red) / over + 2, where=high == green)
    np.copyto(sixths, (green - blue) / over, where=high == red)
    sixths += (6 * turns).astype(np.float32)[:, None, None]
    for channel, from_weakest in enumerate((5, 3, 1)):  # sixths of the colour circle from where it is weakest
        k = sixths + from_weakest
        k -= 6 * np.floor(k * np.float32(1 / 6))
        colours[:, channel] = high - chroma * np.minimum(k, 4 - k).clip(0, 1)
    return _to_uint8(colours * np.float32(255.999 / 255))  # as torchvision makes floats bytes


def _sharpness(images: Pixels, factors: Floats) -> Pixels:
    if images.shape[-1] <= 2:
        return images
    floats = images.astype(np.float32)
    rows = floats[:, :, :-2] + floats[:, :, 1:-1] + floats[:, :, 2:]
    inner = floats[:, :, 1:-1, 1:-1]
    smooth = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + inner * 4
    smooth = np.rint(smooth / 13)
    inner += (smooth - inner) * (1 - _per_image(factors))  # the edge has no neighbours, and stays
    return _to_uint8(floats)


def _posterize(images: Pixels, bits: Floats) -> Pixels:
    return images & (256 - 2 ** (8 - bits.astype(np.int64))).astype(np.uint8)[:, None, None, None]


def _solarize(images: Pixels, thresholds: Floats) -> Pixels:
    lowest = np.ceil(_per_image(thresholds)).astype(np.uint8)
    return images ^ ((images >= lowest).view(np.uint8) * np.uint8(255))


def _autocontrast(images: Pixels, _: Floats) -> Pixels:
    low, high = images.min(axis=(2, 3), keepdims=True), images.max(axis=(2, 3), keepdims=True)
    scale = (high - low) * np.float32(1 / 255)
    flat = low == high
    return _to_uint8((images - np.where(flat, np.float32(0), low)) / np.where(flat, np.float32(1), scale))


def _equalize(images: Pixels, _: Floats) -> Pixels:
    """Each channel through a table that spreads its values, by Pillow's rounding; one with too few pixels stays."""
    made = np.empty_like(images)
    for plane, target in zip(images.reshape(-1, images[0, 0].size), made.reshape(-1, images[0, 0].size), strict=True):
        counts = np.bincount(plane, minlength=256)
        step = (plane.size - counts[plane.max()]) // 255
        table = ((counts.cumsum() - counts + step // 2) // step).clip(0, 255) if step else np.arange(256)
        np.take(table.astype(np.uint8), plane, out=target, mode="clip")
    return made


OP_FUNCTIONS: dict[str, Callable[[Pixels, Floats], Pixels]] = {
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
}  # from (images (n, C, S, S), amounts (n,)) to images


def _per_image(amounts: Floats) -> Float32s:
    return amounts.astype(np.float32)[:, None, None, None]


def _grayscale(images: Pixels) -> Float32s:
    """(n, 1, S, S), whole numbers."""
    if images.shape[1] == 1:
        return images.astype(np.float32)
    grey = images[:, :1] * RED
    grey += images[:, 1:2] * GREEN
    grey += images[:, 2:] * BLUE
    return np.floor(grey, out=grey)


def _blend(images: Pixels, others: Float32s, shares: Floats) -> Pixels:
    """`shares` of the images, the rest of the others; a share above 1 goes beyond the image."""
    share = _per_image(shares)
    blended = images * share
    blended += others * (1 - share)
    return _to_uint8(blended)


def _to_uint8(floats: Float32s) -> Pixels:
    """Cut to 0 to 255, and to whole numbers."""
    return np.clip(floats, 0, 255, out=floats).astype(np.uint8)
