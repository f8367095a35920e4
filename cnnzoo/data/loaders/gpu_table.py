"""The parameters of a batch's transforms as a table of integers for the kernel of `gpu_kernel.py`."""

import numpy as np

from cnnzoo.data.transforms.augment import AugmentParams
from cnnzoo.data.transforms.sampling import IntArray

COLUMNS = (
    "start",  # byte offset of the box's top left pixel in the source
    "row_bytes",  # bytes from a row of the image to the next one
    "box_height",
    "box_width",
    "resized_height",  # the box is resized to this size
    "resized_width",
    "top",  # position of the window in the resized box; parts outside the box are black
    "left",
    "flip",  # 1: flip the window horizontally
    "vertical_flip",  # 1: flip it vertically
    "transpose",  # 1: swap its rows and columns after the flips
    "erase_top",  # position and size of the erased box in the result
    "erase_left",
    "erase_height",
    "erase_width",
    "label",
)
# The kernel computes with 32 bits within an image.
MAX_SIDE = 2**19  # pixels
MAX_RESIZED_SIDE = 2**28  # pixels
MAX_IMAGE_BYTES = 2**31 - 1


def build_table(
    params: AugmentParams, starts: IntArray, sizes: IntArray, channels: int, labels: IntArray, source_bytes: int
) -> IntArray:
    """Return the transforms of N images as a table, int64 (N, len(COLUMNS)).

    params: parameters without `ops` and `angles`, which the kernel cannot apply.
    starts: (N,) byte offsets of the images in the source, each of which is contiguous uint8 (height, width, channels).
    sizes: (N, 2) heights and widths of the images.
    labels: (N,), copied to the table; those of a multi-label set do not fit, and are found by the number of the image.
    source_bytes: size of the source.

    Raises IndexError for a crop outside its image or an image outside the source, because the kernel would access
    foreign memory, and ValueError for parameters or sizes that the kernel does not support.
    """
    if params.ops is not None or params.angles is not None:
        raise ValueError("the GPU kernel expects params.ops=None and params.angles=None: it cannot apply them")
    out_height, out_width = params.image_size
    image_heights, image_widths = sizes.T
    resize_heights, resize_widths = params.resize_to.T
    tops, lefts, heights, widths = params.crops.T
    # As in geometry.py: a crop of the result's size is a window of the resized image, others are resized themselves.
    is_window = (heights == out_height) & (widths == out_width)
    is_resized = (resize_heights != image_heights) | (resize_widths != image_widths)
    if (is_resized & ~is_window).any():
        raise ValueError("the GPU kernel resizes an image or a crop, expected params.resize_to to be the image's size")
    row_bytes = image_widths * channels
    box_tops, box_lefts = np.where(is_window, 0, tops), np.where(is_window, 0, lefts)
    table = np.empty((len(sizes), len(COLUMNS)), np.int64)
    columns = table.T
    columns[0] = starts + box_tops * row_bytes + box_lefts * channels
    columns[1] = row_bytes
    columns[2] = np.where(is_window, image_heights, heights)
    columns[3] = np.where(is_window, image_widths, widths)
    columns[4] = np.where(is_window, resize_heights, out_height)
    columns[5] = np.where(is_window, resize_widths, out_width)
    columns[6] = tops - box_tops
    columns[7] = lefts - box_lefts
    columns[8] = params.flips
    columns[9] = 0 if params.vertical_flips is None else params.vertical_flips
    columns[10] = 0 if params.transposes is None else params.transposes
    columns[11:15] = 0 if params.erase_boxes is None else params.erase_boxes.T
    columns[15] = labels
    _check_bounds(table, np.stack([box_tops, box_lefts]), starts, sizes.T, source_bytes)
    return table


def _check_bounds(table: IntArray, corners: IntArray, starts: IntArray, sizes: IntArray, source_bytes: int) -> None:
    """Raise as `build_table` says; `corners` and `sizes` are (2, N)."""
    row_bytes, shapes, resized = table.T[1], table.T[2:4], table.T[4:6]
    image_bytes = sizes[0] * row_bytes
    crops = np.concatenate([corners, shapes - 1, sizes - corners - shapes])
    if crops.min(initial=0) < 0:
        row = np.flatnonzero(crops.min(axis=0) < 0)[0]
        crop = [*corners[:, row].tolist(), *shapes[:, row].tolist()]
        raise IndexError(f"crop {crop} is outside its image of {sizes[:, row].tolist()} pixels")
    ends = starts + image_bytes
    if starts.min(initial=0) < 0 or ends.max(initial=0) > source_bytes:
        row = np.flatnonzero((starts < 0) | (ends > source_bytes))[0]
        raise IndexError(f"image at bytes {starts[row]} to {ends[row]} is outside the source of {source_bytes} bytes")
    limits = (sizes, MAX_SIDE), (image_bytes, MAX_IMAGE_BYTES), (resized, MAX_RESIZED_SIDE)
    if any(values.max(initial=0) > limit for values, limit in limits) or resized.min(initial=1) < 1:
        raise ValueError(
            f"an image is too large for the GPU kernel, expected sides of at most {MAX_SIDE:,} pixels, at most "
            f"{MAX_IMAGE_BYTES:,} bytes, and sides of 1 to {MAX_RESIZED_SIDE:,} pixels after resizing"
        )
