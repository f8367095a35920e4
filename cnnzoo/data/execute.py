"""Doing on the CPU what a `Draw` says, to pixels as uint8; equal to torchvision v2's antialiased operations."""

import warnings
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnzoo.data.augment import Draw
from cnnzoo.data.operate import operate

Pixels = npt.NDArray[np.uint8]

# The cache's memory is mapped read-only, and nothing here writes to what it is given.
warnings.filterwarnings("ignore", "The given NumPy array is not writable")


def execute(frames: Pixels, draw: Draw) -> Tensor:
    """N images of one size, uint8 (N, H, W, C), to a new uint8 tensor (N, C, image_size, image_size), channels last.

    All are done at once where their windows are of one size.
    """
    if not (draw.windows[:, 2:] == draw.image_size).all():
        return execute_each(frames, draw, frames.shape[-1])
    images = torch.from_numpy(_cut(resized(frames, *draw.resized[0]), draw.windows[:, :2], draw.image_size))
    images = images.permute(0, 3, 1, 2)
    if draw.flips.any():
        which = torch.from_numpy(np.flatnonzero(draw.flips))
        images[which] = images[which].flip(3)
    return operate(images, draw)


def execute_each(frames: Iterable[Pixels | None], draw: Draw, channels: int) -> Tensor:
    """Images (H, W, C) of any sizes, in turn, as `execute`; where there is None, a row of the tensor means nothing."""
    side, count = draw.image_size, len(draw.flips)
    images = torch.empty(count, side, side, channels, dtype=torch.uint8).permute(0, 3, 1, 2)
    shapes, windows, flips = draw.resized.tolist(), draw.windows.tolist(), draw.flips.tolist()
    for n, frame in enumerate(frames):
        if frame is None:
            continue
        whole = resized(frame[None], *shapes[n])
        top, left, height, width = windows[n]
        if height == width == side:
            window = _cut(whole, draw.windows[n : n + 1, :2], side)
        else:
            window = resized(whole[:, top : top + height, left : left + width], side, side)
        image = torch.from_numpy(window).permute(0, 3, 1, 2)
        images[n : n + 1] = image.flip(3) if flips[n] else image
    return operate(images, draw)


def _cut(frames: Pixels, corners: npt.NDArray[np.int64], side: int) -> Pixels:
    """Square windows of `side` out of (N, H, W, C), black outside it: (N, side, side, C), gathered in one go."""
    count, _, _, channels = frames.shape
    margin = max(0, -int(corners.min()), int((corners + side - frames.shape[1:3]).max()))
    if margin:
        frames = np.pad(frames, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    rows = np.ascontiguousarray(frames).reshape(count, frames.shape[1], -1)  # (N, H, W * C)
    views = np.lib.stride_tricks.sliding_window_view(rows, (side, side * channels), axis=(1, 2))
    top, left = corners.T + margin
    return views[np.arange(count), top, left * channels].reshape(count, side, side, channels)


def resized(frames: Pixels, height: int, width: int) -> Pixels:
    """(N, H, W, C) to (N, height, width, C), bilinear, antialiased."""
    if frames.shape[1:3] == (height, width):
        return frames
    images = torch.from_numpy(frames).permute(0, 3, 1, 2)
    images = F.interpolate(images, (int(height), int(width)), mode="bilinear", antialias=True, align_corners=False)
    return images.permute(0, 2, 3, 1).numpy()
