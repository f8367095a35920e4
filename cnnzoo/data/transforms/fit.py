"""`data.fit`: how images of other aspect ratios than the network's input are cropped, padded or squashed to it."""

import numpy as np

from cnnzoo.data.transforms.sampling import IntArray
from cnnzoo.sizes import Size

FITS = ("crop", "pad", "squash")


def fit_sizes(sizes: IntArray, target: Size, fit: str) -> IntArray:
    """The heights and widths (N, 2) that images of `sizes` (N, 2) are resized to.

    "crop" gives the smallest size that covers `target`, "pad" the largest size inside it, both with the image's aspect
    ratio, and "squash" gives `target`. A side that is not the target's is rounded down as in torchvision, to 1 or more.
    """
    if fit == "squash":
        return np.full_like(sizes, target)
    height, width = target
    scaled = sizes * np.array([width, height])  # proportional to the sides as multiples of the target's
    limits = scaled.min(axis=1, keepdims=True) if fit == "crop" else scaled.max(axis=1, keepdims=True)
    fitted = np.where(scaled == limits, target, (scaled * np.array(target) / limits).astype(np.int64))
    return fitted if fit == "crop" else np.maximum(fitted, 1)


def center_corners(sizes: IntArray, window: Size, fit: str) -> IntArray:
    """Top and left (N, 2) of a window in the center of images of `sizes` (N, 2) from `fit_sizes`.

    They are negative where the image is smaller. The rounding is that of torchvision's `center_crop`.
    """
    corners = (sizes - np.array(window)) / 2
    return (np.rint(corners) if fit == "crop" else np.ceil(corners)).astype(np.int64)
