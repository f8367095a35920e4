"""Application of `AugmentParams` to uint8 images on the CPU: resize, crop, flip, then the operations of `color.py`.

The results equal those of torchvision v2's antialiased functions, up to rounding.
"""

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

# The loader's workers already use all cores, and OpenCV's threads would not survive a fork.
cv2.setNumThreads(0)

with warnings.catch_warnings():
    # The cache maps its memory read-only, and this module does not write to its inputs. Torch warns about a read-only
    # array once per process, so that warning is triggered and ignored here. A permanent filter would not do: code that
    # restores earlier filters would remove it.
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"0", np.uint8))


def augment_batch(images: Pixels, params: AugmentParams) -> Tensor:
    """Transform images of one size: uint8 (N, H, W, C) to a new uint8 (N, C, image_size, image_size), channels last.

    Crops of the result's size are processed as one batch, other crops image by image.
    """
    if not (params.crops[:, 2:] == params.image_size).all():
        return augment_images(images, params, images.shape[-1])
    out = _crop(resize(images, *params.resize_to[0]), params.crops[:, :2], params.image_size)
    flipped = np.flatnonzero(params.flips)
    if len(flipped):
        rows = out[flipped].reshape(-1, *out.shape[2:])  # one flip of a tall image instead of one per image
        out[flipped] = cv2.flip(rows, 1).reshape(len(flipped), *out.shape[1:])
    return apply_ops(torch.from_numpy(out).permute(0, 3, 1, 2), params)


def augment_images(
    images: Iterable[Pixels | None], params: AugmentParams, channels: int, out: Pixels | None = None
) -> Tensor:
    """Transform N images (H, W, C) of any sizes, as `augment_batch` does; a None leaves its row undefined.

    `out`, uint8 (N, image_size, image_size, C), is the memory for the result. By default it is allocated.
    """
    side, count = params.image_size, len(params.flips)
    if out is None:
        out = np.empty((count, side, side, channels), np.uint8)
    sizes, crops, flips = params.resize_to.tolist(), params.crops.tolist(), params.flips.tolist()
    for n, image in enumerate(images):
        if image is None:
            continue
        height, width = sizes[n]
        resized = image if image.shape[:2] == (height, width) else resize(image[None], height, width)[0]
        top, left, height, width = crops[n]
        target = out[n]
        if height == width == side:
            target[...] = _crop(resized[None], params.crops[n : n + 1, :2], side)[0]
        else:
            _resize_into(resized[top : top + height, left : left + width], target)
        if flips[n]:
            cv2.flip(target, 1, target)
    return apply_ops(torch.from_numpy(out).permute(0, 3, 1, 2), params)


def resize(images: Pixels, height: int, width: int) -> Pixels:
    """Resize (N, H, W, C) to (N, height, width, C), bilinear and antialiased."""
    if images.shape[1:3] == (height, width):
        return images
    # NumPy's [None] gives the new axis a stride of 0. Torch does not recognize that as channels last, and is 5 times
    # slower.
    tensor = torch.from_numpy(images[0])[None] if len(images) == 1 else torch.from_numpy(images)
    tensor = tensor.permute(0, 3, 1, 2)
    tensor = F.interpolate(tensor, (int(height), int(width)), mode="bilinear", antialias=True, align_corners=False)
    return tensor.permute(0, 2, 3, 1).numpy()


def _resize_into(image: Pixels, out: Pixels) -> None:
    """Resize (H, W, C) into `out` (side, side, C); equal to `resize`, up to rounding."""
    side = len(out)
    if image.shape[0] <= side and image.shape[1] <= side:  # antialiasing has no effect on an enlargement
        cv2.resize(image, (side, side), out, interpolation=cv2.INTER_LINEAR)
    else:
        source = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
        target = torch.from_numpy(out)[None].permute(0, 3, 1, 2)
        torch.ops.aten._upsample_bilinear2d_aa.out(source, (side, side), False, out=target)


def _crop(images: Pixels, corners: npt.NDArray[np.int64], side: int) -> Pixels:
    """Square crops of (N, H, W, C) at `corners` (N, 2), black outside the image: (N, side, side, C)."""
    count, height, width, channels = images.shape
    margin = max(0, -int(corners.min()), int((corners + side - images.shape[1:3]).max()))
    if margin:
        padded = np.zeros((count, height + 2 * margin, width + 2 * margin, channels), np.uint8)
        padded[:, margin : margin + height, margin : margin + width] = images
        images = padded
    images = np.ascontiguousarray(images)
    _, height, width, _ = images.shape
    row = width * channels
    views = np.ndarray(  # all possible crops; sliding_window_view does the same, but takes 25 microseconds
        (count, height - side + 1, row - side * channels + 1, side, side * channels),
        np.uint8,
        images,
        strides=(height * row, row, 1, row, 1),
    )
    top, left = (corners + margin).T
    return views[np.arange(count), top, left * channels].reshape(count, side, side, channels)
