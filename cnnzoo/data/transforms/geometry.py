"""Application of `AugmentParams` to images on the CPU: resize, crop, flip, turn, then `color.py`.

The results equal those of torchvision v2's antialiased functions, up to rounding. All functions take uint8 or uint16
pixels of any number of channels, and return the same type.
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
from cnnzoo.sizes import Size

Pixels = npt.NDArray[np.uint8]  # or uint16
MAX_OPENCV_CHANNELS = 128  # of OpenCV 5; 512 in version 4

# The loader's workers already use all cores, and OpenCV's threads would not survive a fork.
cv2.setNumThreads(0)

with warnings.catch_warnings():
    # The cache maps its memory read-only, and this module does not write to its inputs. Torch warns about a read-only
    # array once per process, so that warning is triggered and ignored here. A permanent filter would not do: code that
    # restores earlier filters would remove it.
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"0", np.uint8))


def augment_batch(images: Pixels, params: AugmentParams) -> Tensor:
    """Transform images of one size: (N, H, W, C) to a new tensor (N, C, *image_size), channels last.

    Crops of the result's size are processed as one batch, other crops image by image.
    """
    if not (params.crops[:, 2:] == params.image_size).all():
        return augment_images(images, params, images.shape[-1], dtype=images.dtype)
    out = _crop(resize(images, *params.resize_to[0]), params.crops[:, :2], params.image_size)
    flipped = np.flatnonzero(params.flips)
    if len(flipped):
        rows = out[flipped].reshape(-1, *out.shape[2:])  # one flip of a tall image instead of one per image
        out[flipped] = cv2.flip(rows, 1).reshape(len(flipped), *out.shape[1:])
    _turn(out, params)
    return apply_ops(torch.from_numpy(out).permute(0, 3, 1, 2), params)


def augment_images(
    images: Iterable[Pixels | None],
    params: AugmentParams,
    channels: int,
    out: Pixels | None = None,
    dtype: npt.DTypeLike = np.uint8,
) -> Tensor:
    """Transform N images (H, W, C) of any sizes, as `augment_batch` does; a None leaves its row undefined.

    `out`, (N, *image_size, C), is the memory for the result. By default it is allocated as an array of `dtype`.
    """
    count = len(params.flips)
    if out is None:
        out = np.empty((count, *params.image_size, channels), dtype)
    sizes, crops, flips = params.resize_to.tolist(), params.crops.tolist(), params.flips.tolist()
    for n, image in enumerate(images):
        if image is None:
            continue
        height, width = sizes[n]
        resized = image if image.shape[:2] == (height, width) else resize(image[None], height, width)[0]
        top, left, height, width = crops[n]
        target = out[n]
        if (height, width) == params.image_size:
            target[...] = _crop(resized[None], params.crops[n : n + 1, :2], params.image_size)[0]
        else:
            _resize_into(resized[top : top + height, left : left + width], target)
        if flips[n] and channels <= MAX_OPENCV_CHANNELS:
            cv2.flip(target, 1, target)
        elif flips[n]:
            target[...] = target[:, ::-1].copy()
    _turn(out, params)
    return apply_ops(torch.from_numpy(out).permute(0, 3, 1, 2), params)


def _turn(images: Pixels, params: AugmentParams) -> None:
    """Flip (N, H, W, C) vertically and transpose, in place."""
    if params.vertical_flips is not None:
        for n in np.flatnonzero(params.vertical_flips):
            images[n] = images[n, ::-1].copy()
    if params.transposes is not None:
        for n in np.flatnonzero(params.transposes):
            images[n] = images[n].transpose(1, 0, 2).copy()


def resize(images: Pixels, height: int, width: int) -> Pixels:
    """Resize (N, H, W, C) to (N, height, width, C), bilinear and antialiased."""
    if images.shape[1:3] == (height, width):
        return images
    # NumPy's [None] gives the new axis a stride of 0. Torch does not recognize that as channels last, and is 5 times
    # slower.
    tensor = torch.from_numpy(images[0])[None] if len(images) == 1 else torch.from_numpy(images)
    tensor = tensor.permute(0, 3, 1, 2)
    if images.dtype == np.uint16:  # torch resizes only uint8 and floats
        tensor = F.interpolate(tensor.float(), (int(height), int(width)), mode="bilinear", antialias=True)
        return np.asarray(tensor.round_().permute(0, 2, 3, 1).numpy().astype(np.uint16))
    tensor = F.interpolate(tensor, (int(height), int(width)), mode="bilinear", antialias=True, align_corners=False)
    return tensor.permute(0, 2, 3, 1).numpy()


def _resize_into(image: Pixels, out: Pixels) -> None:
    """Resize (H, W, C) into `out` (height, width, C); equal to `resize`, up to rounding."""
    height, width, channels = out.shape
    is_enlarged = image.shape[0] <= height and image.shape[1] <= width  # antialiasing has no effect on this
    if is_enlarged and channels <= MAX_OPENCV_CHANNELS:
        cv2.resize(image, (width, height), out, interpolation=cv2.INTER_LINEAR)
    elif image.dtype == np.uint16:
        out[...] = resize(image[None], height, width)[0]
    else:
        source = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
        target = torch.from_numpy(out)[None].permute(0, 3, 1, 2)
        torch.ops.aten._upsample_bilinear2d_aa.out(source, (height, width), False, out=target)


def _crop(images: Pixels, corners: npt.NDArray[np.int64], size: Size) -> Pixels:
    """Crops of (N, H, W, C) at `corners` (N, 2), black outside the image: (N, *size, C)."""
    count, height, width, channels = images.shape
    crop_height, crop_width = size
    excess = np.array((crop_height - height, crop_width - width))  # of a crop at the top left
    margin = max(0, -int(corners.min()), int((corners + excess).max()))
    if margin:
        padded = np.zeros((count, height + 2 * margin, width + 2 * margin, channels), images.dtype)
        padded[:, margin : margin + height, margin : margin + width] = images
        images = padded
    images = np.ascontiguousarray(images)
    _, height, width, _ = images.shape
    row, itemsize = width * channels, images.itemsize
    views = np.ndarray(  # all possible crops; sliding_window_view does the same, but takes 25 microseconds
        (count, height - crop_height + 1, row - crop_width * channels + 1, crop_height, crop_width * channels),
        images.dtype,
        images,
        strides=(height * row * itemsize, row * itemsize, itemsize, row * itemsize, itemsize),
    )
    top, left = (corners + margin).T
    return views[np.arange(count), top, left * channels].reshape(count, *size, channels)
