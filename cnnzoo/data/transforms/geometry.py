"""Doing on the CPU what a `Draw` says, to pixels as uint8; equal to torchvision v2's antialiased operations."""

import warnings
from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnzoo.data.transforms.augment import AugmentParams
from cnnzoo.data.transforms.color import apply_ops

Pixels = npt.NDArray[np.uint8]

# Workers share the cores among themselves; and OpenCV's own threads, once started, would not survive a fork.
cv2.setNumThreads(0)

with warnings.catch_warnings():
    # The cache's memory is mapped read-only, and nothing here writes to what it is given. Torch warns of that once in a
    # process: here, where nobody hears it. A filter would be undone by whoever restores the filters of before.
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"0", np.uint8))


def augment_batch(frames: Pixels, params: AugmentParams) -> Tensor:
    """N images of one size, uint8 (N, H, W, C), to a new uint8 tensor (N, C, image_size, image_size), channels last.

    All are done at once where their windows are of one size.
    """
    if not (params.crops[:, 2:] == params.image_size).all():
        return augment_images(frames, params, frames.shape[-1])
    images = _crop(resize(frames, *params.resize_to[0]), params.crops[:, :2], params.image_size)
    turned = np.flatnonzero(params.flips)
    if len(turned):
        rows = images[turned].reshape(-1, *images.shape[2:])  # of all these images, as if of one
        images[turned] = cv2.flip(rows, 1).reshape(len(turned), *images.shape[1:])
    return apply_ops(torch.from_numpy(images).permute(0, 3, 1, 2), params)


def augment_images(
    frames: Iterable[Pixels | None], params: AugmentParams, channels: int, images: Pixels | None = None
) -> Tensor:
    """Images (H, W, C) of any sizes, in turn, as `execute`; where there is None, a row of the tensor means nothing.

    `images`, uint8 (N, image_size, image_size, C), is the tensor's memory, where there is one already.
    """
    side, count = params.image_size, len(params.flips)
    if images is None:
        images = np.empty((count, side, side, channels), np.uint8)
    shapes, windows, flips = params.resize_to.tolist(), params.crops.tolist(), params.flips.tolist()
    for n, frame in enumerate(frames):
        if frame is None:
            continue
        height, width = shapes[n]
        whole = frame if frame.shape[:2] == (height, width) else resize(frame[None], height, width)[0]
        top, left, height, width = windows[n]
        image = images[n]
        if height == width == side:
            image[...] = _crop(whole[None], params.crops[n : n + 1, :2], side)[0]
        else:
            _resize_crop(whole[top : top + height, left : left + width], image)
        if flips[n]:
            cv2.flip(image, 1, image)
    return apply_ops(torch.from_numpy(images).permute(0, 3, 1, 2), params)


def _resize_crop(window: Pixels, image: Pixels) -> None:
    """(H, W, C) into (side, side, C), as `resized` but for rounding."""
    side = len(image)
    if window.shape[0] <= side and window.shape[1] <= side:  # grows, where antialiasing changes nothing
        cv2.resize(window, (side, side), image, interpolation=cv2.INTER_LINEAR)
    else:
        images = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
        windows = torch.from_numpy(window)[None].permute(0, 3, 1, 2)
        torch.ops.aten._upsample_bilinear2d_aa.out(windows, (side, side), False, out=images)


def _crop(frames: Pixels, corners: npt.NDArray[np.int64], side: int) -> Pixels:
    """Square windows of `side` out of (N, H, W, C), black outside it: (N, side, side, C), gathered in one go."""
    count, height, width, channels = frames.shape
    margin = max(0, -int(corners.min()), int((corners + side - frames.shape[1:3]).max()))
    if margin:
        wide = np.zeros((count, height + 2 * margin, width + 2 * margin, channels), np.uint8)
        wide[:, margin : margin + height, margin : margin + width] = frames
        frames = wide
    rows = np.ascontiguousarray(frames).reshape(count, frames.shape[1], -1)  # (N, H, W * C)
    views = np.lib.stride_tricks.sliding_window_view(rows, (side, side * channels), axis=(1, 2))
    top, left = corners.T + margin
    return views[np.arange(count), top, left * channels].reshape(count, side, side, channels)


def resize(frames: Pixels, height: int, width: int) -> Pixels:
    """(N, H, W, C) to (N, height, width, C), bilinear, antialiased."""
    if frames.shape[1:3] == (height, width):
        return frames
    # NumPy's own [None] would give the axis a stride of 0, which torch does not take for channels last: 5 times slower.
    images = torch.from_numpy(frames[0])[None] if len(frames) == 1 else torch.from_numpy(frames)
    images = images.permute(0, 3, 1, 2)
    images = F.interpolate(images, (int(height), int(width)), mode="bilinear", antialias=True, align_corners=False)
    return images.permute(0, 2, 3, 1).numpy()
