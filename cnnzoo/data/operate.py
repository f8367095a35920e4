"""Doing on the CPU what a `Draw` says beside crop and flip, to whole batches of uint8; equal to torchvision v2's functions.

Nothing depends on which images are worked on together, nor on the number of threads: sums are of whole numbers, and a
product and a sum are rounded one after the other. Grey images have no saturation or hue to change, and stay as they are.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnzoo.data.augment import Draw
from cnnzoo.data.operations import OPERATIONS

AT_ONCE = 2**18  # pixels: what is worked on together stays in a core's cache
GREY = (0.2989, 0.587, 0.114)  # torchvision's; Pillow's differ in the fourth digit


def operate(images: Tensor, draw: Draw) -> Tensor:
    """Contiguous uint8 images (N, C, S, S) after the draw's operations, in turn, and with its windows erased, in place."""
    if draw.operations is not None and draw.amounts is not None:
        at_once = max(1, AT_ONCE // images[0].numel())
        for codes, amounts in zip(draw.operations.T, draw.amounts.T, strict=True):
            for code in np.unique(codes[codes > 0]):
                same = np.flatnonzero(codes == code)
                for start in range(0, len(same), at_once):
                    some = torch.from_numpy(same[start : start + at_once])
                    images[some] = OPERATE[OPERATIONS[code]](images[some], torch.from_numpy(amounts[some.numpy()]))
    if draw.erased is not None:
        for image, (top, left, height, width) in zip(images.numpy(), draw.erased.tolist(), strict=True):
            image[:, top : top + height, left : left + width] = np.array(draw.fill, np.uint8)[:, None, None]
    return images


def _warp(images: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Each pixel from the nearest to where `across` and `down` (n, 3) say, black where that is outside.

    The place is `(x, y, 1) @ across` and `(x, y, 1) @ down`, from the image's centre. It is rounded as torchvision's
    matrix product rounds it (fused multiply and add), so that places half-way between two pixels go the same way.
    """
    side = images.shape[-1]
    x = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
    grids = []
    for place in (across, down):
        a, b, c = (place.float() / (side / 2)).T[:, :, None, None]  # (n, 1, 1) each
        first = (x * a).double()  # (n, 1, side)
        grids.append((first + x.double()[:, None] * b.double()).float() + c)
    floats = F.grid_sample(images.float(), torch.stack(grids, -1), "nearest", "zeros", align_corners=False)
    return floats.to(torch.uint8)


def _shear_x(images: Tensor, tangents: Tensor) -> Tensor:
    one, zero = torch.ones_like(tangents), torch.zeros_like(tangents)
    half = tangents * (images.shape[-1] / 2)  # it is the upper edge that stays
    return _warp(images, torch.stack([one, tangents, half], 1), torch.stack([zero, one, zero], 1))


def _shear_y(images: Tensor, tangents: Tensor) -> Tensor:
    return _shear_x(images.transpose(-1, -2), tangents).transpose(-1, -2)


def _translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    moved = torch.zeros_like(images)
    side = images.shape[-1]
    for target, image, right in zip(moved, images, pixels.tolist(), strict=True):
        by = max(-side, min(side, int(right)))
        target[..., max(by, 0) : side + min(by, 0)] = image[..., max(-by, 0) : side + min(-by, 0)]
    return moved


def _translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    return _translate_x(images.transpose(-1, -2), pixels).transpose(-1, -2)


def _rotate(images: Tensor, degrees: Tensor) -> Tensor:
    angles = torch.deg2rad(degrees)
    cos, sin, zero = torch.cos(angles), torch.sin(angles), torch.zeros_like(angles)
    return _warp(images, torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1))


def _brightness(images: Tensor, factors: Tensor) -> Tensor:
    return _bytes(images * _each(factors))


def _contrast(images: Tensor, factors: Tensor) -> Tensor:
    means = _grey(images).sum((1, 2, 3), dtype=torch.float64) / images[0, 0].numel()  # exact: of whole numbers
    return _blend(images, means.float().view(-1, 1, 1, 1), factors)


def _saturation(images: Tensor, factors: Tensor) -> Tensor:
    return images if images.shape[1] == 1 else _blend(images, _grey(images), factors)


def _hue(images: Tensor, turns: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    red, green, blue = images.float().unbind(1)  # (n, S, S)
    high = torch.maximum(torch.maximum(red, green), blue)
    chroma = high - torch.minimum(torch.minimum(red, green), blue)
    over = torch.where(chroma == 0, 1.0, chroma)
    sixths = torch.where(
        high == red,
        (green - blue) / over,
        torch.where(high == green, (blue - red) / over + 2, (red - green) / over + 4),
    )
    sixths = sixths + 6 * turns.float().view(-1, 1, 1)
    made = []
    for channel in (5, 3, 1):  # how far each is from the sixth where it is weakest, at most 1: its part of the chroma
        k = torch.remainder(sixths + channel, 6)
        made.append(high - chroma * torch.minimum(k, 4 - k).clamp_(0, 1))
    return _bytes(torch.stack(made, 1) * (255.999 / 255))  # as torchvision makes floats bytes


def _sharpness(images: Tensor, factors: Tensor) -> Tensor:
    if images.shape[-1] <= 2:
        return images
    floats = images.float()
    rows = floats[:, :, :-2] + floats[:, :, 1:-1] + floats[:, :, 2:]
    inner = floats[:, :, 1:-1, 1:-1]
    smooth = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + inner * 4
    smooth = smooth.div_(13).round_()
    inner += (smooth - inner) * (1 - _each(factors))  # the edge has no neighbours, and stays
    return _bytes(floats)


def _posterize(images: Tensor, bits: Tensor) -> Tensor:
    masks = 256 - 2 ** (8 - bits.long())
    return images & masks.to(torch.uint8).view(-1, 1, 1, 1)


def _solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    return torch.where(images >= _each(thresholds), ~images, images)


def _autocontrast(images: Tensor, _: Tensor) -> Tensor:
    low, high = torch.aminmax(images.flatten(2), dim=2)
    flat = low == high
    scale = torch.where(flat, 1.0, (high - low).float() * (1 / 255))
    low = torch.where(flat, 0.0, low.float())
    return _bytes((images - low[..., None, None]) / scale[..., None, None])


def _equalize(images: Tensor, _: Tensor) -> Tensor:
    """Each channel through a table that spreads its values, by Pillow's rounding; one with too few pixels stays."""
    planes = images.numpy().reshape(-1, images[0, 0].numel())
    where = planes + 256 * np.arange(len(planes))[:, None]
    counts = np.bincount(where.reshape(-1), minlength=256 * len(planes)).reshape(-1, 256)
    most = 255 - (counts[:, ::-1] > 0).argmax(axis=1)  # the greatest value there is
    step = (planes.shape[1] - counts[np.arange(len(planes)), most])[:, None] // 255
    below = counts.cumsum(axis=1) - counts
    tables = np.where(step > 0, (below + step // 2) // np.maximum(step, 1), np.arange(256)).clip(0, 255)
    return torch.from_numpy(tables.astype(np.uint8).reshape(-1)[where]).view_as(images)


OPERATE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
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
}  # uint8 (n, C, S, S), what each does to it by its amounts, float64 (n,)


def _each(amounts: Tensor) -> Tensor:
    return amounts.float().view(-1, 1, 1, 1)


def _grey(images: Tensor) -> Tensor:
    """(n, 1, S, S) whole numbers, as floats."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.split(1, dim=1)
    return (red * GREY[0] + green * GREY[1] + blue * GREY[2]).floor_()


def _blend(images: Tensor, others: Tensor, shares: Tensor) -> Tensor:
    """`shares` of the images, the rest of the others; a share above 1 goes beyond the image."""
    share = _each(shares)
    return _bytes(images * share + others * (1 - share))


def _bytes(floats: Tensor) -> Tensor:
    """Cut to 0 to 255, and to whole numbers."""
    return floats.clamp_(0, 255).to(torch.uint8)
