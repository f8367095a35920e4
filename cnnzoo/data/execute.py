"""Doing on the CPU what a `Draw` says, to pixels as uint8; equal to torchvision v2's antialiased operations."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnzoo.data.augment import Draw

Pixels = npt.NDArray[np.uint8]


def execute(pixels: Pixels, draw: Draw) -> Tensor:
    """N images of one size, uint8 (N, H, W, C), to a new, contiguous uint8 tensor (N, C, image_size, image_size)."""
    side = draw.image_size
    frames = _resize(pixels, *draw.resized[0])
    if (draw.windows[:, 2:] == side).all():
        images = _windows(frames, draw.windows, side)
    else:
        cut = [frames[n, None, y : y + h, x : x + w] for n, (y, x, h, w) in enumerate(draw.windows)]
        images = np.concatenate([_resize(window, side, side) for window in cut]).transpose(0, 3, 1, 2)
    images = np.ascontiguousarray(images)  # (N, C, S, S)
    if draw.flips.any():
        images[draw.flips] = images[draw.flips, :, :, ::-1]
    return torch.from_numpy(images)


def to_channels(pixels: Pixels, channels: int) -> Pixels:
    """Pixels (..., C) as grey (1) or colour (3): grey repeated, colour weighed as Pillow weighs it (ITU-R 601-2)."""
    if pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    weighed = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighed + 0x8000) >> 16).astype(np.uint8)[..., None]


def _windows(frames: Pixels, windows: npt.NDArray[np.int64], side: int) -> Pixels:
    """Square windows of `side` out of (N, H, W, C), black outside it: (N, C, side, side), gathered in one go."""
    ends = windows[:, :2] + side - frames.shape[1:3]
    margin = max(0, -int(windows[:, :2].min()), int(ends.max()))
    if margin:
        frames = np.pad(frames, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    views = np.lib.stride_tricks.sliding_window_view(frames, (side, side), axis=(1, 2))
    return views[np.arange(len(frames)), windows[:, 0] + margin, windows[:, 1] + margin]


def _resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """(N, H, W, C) to (N, height, width, C), bilinear, antialiased."""
    if pixels.shape[1:3] == (height, width):
        return pixels
    images = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(0, 3, 1, 2)
    images = F.interpolate(images, (int(height), int(width)), mode="bilinear", antialias=True, align_corners=False)
    return images.permute(0, 2, 3, 1).numpy()
