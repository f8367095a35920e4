"""A Triton kernel that crops, resizes, flips, turns and erases the images of a batch on the GPU.

The parameters of each image are a row of the table of `gpu_table.py`. Only this module imports Triton.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cnnzoo.data.loaders.gpu_table import COLUMNS

try:
    import triton.language as tl
except ImportError:  # builds of torch without a GPU come without Triton
    tl = None

MIN_CAPABILITY = (7, 5)  # the oldest GPUs that Triton compiles for
TILE = (8, 32)  # height and width of the part of an image that one program computes, two pixels per thread
COMPILE_OPTIONS = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}

_interpreter_lock = threading.Lock()


def kernel_problem(device: torch.device) -> str | None:
    """Return why the kernel cannot be used on `device`, in one line; None if it can.

    On the CPU, it runs in Triton's interpreter, which is only for tests: TRITON_INTERPRET=1 must be set.
    """
    if tl is None:
        return "Triton is not installed"
    if device.type == "cpu":
        interpret = os.environ.get("TRITON_INTERPRET") == "1"
        return None if interpret else "on a CPU, Triton runs only in its interpreter (TRITON_INTERPRET=1)"
    if device.type != "cuda":
        return f"Triton does not support the device {device.type}"
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        return "compute capability {}.{} of the GPU is below {}.{}".format(*capability, *MIN_CAPABILITY)
    return None


def transform(source: Tensor, table: Tensor, out: Tensor, erase_fill: Sequence[int]) -> None:
    """Transform the images that the rows of `table` describe, and write them to `out`.

    On a GPU, the kernel starts on the current stream, and the call does not wait for it. The first call compiles the
    kernel and raises what Triton raises if that fails.

    source: uint8 (bytes,), the pixels of all images.
    table: int64 (N, len(COLUMNS)) on the same device, from `build_table`, which has checked its bounds.
    out: uint8 (N, H, W, C), contiguous, with 1 or 3 channels.
    erase_fill: pixel value of erased windows: one per channel, or one for all.
    """
    count, height, width, channels = out.shape
    assert source.dtype == out.dtype == torch.uint8
    assert table.dtype == torch.int64
    assert table.shape == (count, len(COLUMNS))
    assert source.is_contiguous()
    assert table.is_contiguous()
    assert out.is_contiguous()
    assert source.device == table.device == out.device
    assert channels in (1, 3)
    if not count:
        return
    fills = [int(erase_fill[channel % len(erase_fill)]) for channel in range(3)]
    if out.device.type == "cpu":
        with _interpreter_lock:  # it patches triton.language while it runs
            # One tile: the interpreter is slow per tile, not per pixel.
            tile = 1 << (height - 1).bit_length(), 1 << (width - 1).bit_length()
            _interpreted()[(count,)](source, table, out, *fills, **_constants(height, width, channels, tile))
        return
    constants = _constants(height, width, channels, TILE)
    with torch.cuda.device(out.device):
        _compiled()[(count * constants["TILES"],)](source, table, out, *fills, **constants, **COMPILE_OPTIONS)


def _constants(height: int, width: int, channels: int, tile: tuple[int, int]) -> dict[str, int]:
    """The arguments that are constants of the compiled kernel: other values compile it again."""
    tiles_per_row = -(-width // tile[1])
    return {
        "HEIGHT": height,
        "WIDTH": width,
        "CHANNELS": channels,
        "TILE_HEIGHT": tile[0],
        "TILE_WIDTH": tile[1],
        "TILES_PER_ROW": tiles_per_row,
        "TILES": tiles_per_row * -(-height // tile[0]),
        "NUM_COLUMNS": len(COLUMNS),
    }


def _transform_kernel(  # type: ignore[no-untyped-def]
    source,
    table,
    out,
    fill_0,
    fill_1,
    fill_2,
    HEIGHT: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
    TILE_HEIGHT: tl.constexpr,  # noqa: N803
    TILE_WIDTH: tl.constexpr,  # noqa: N803
    TILES_PER_ROW: tl.constexpr,  # noqa: N803
    TILES: tl.constexpr,  # noqa: N803
    NUM_COLUMNS: tl.constexpr,  # noqa: N803
):
    """Compute one tile of one image.

    The kernel uses only builtins of `tl`, because a function of its own could not be compiled and interpreted in the
    same process. So the code for y is repeated for x.
    """
    image = tl.program_id(0) // TILES
    tile = tl.program_id(0) % TILES
    y = tile // TILES_PER_ROW * TILE_HEIGHT + tl.arange(0, TILE_HEIGHT)
    x = tile % TILES_PER_ROW * TILE_WIDTH + tl.arange(0, TILE_WIDTH)

    # The columns of the table, in its order. Only the address of the box needs 64 bits.
    table += image * NUM_COLUMNS
    box = source + tl.load(table)
    row_bytes = tl.load(table + 1).to(tl.int32)
    box_height = tl.load(table + 2).to(tl.int32)
    box_width = tl.load(table + 3).to(tl.int32)
    resized_height = tl.load(table + 4).to(tl.int32)
    resized_width = tl.load(table + 5).to(tl.int32)
    top = tl.load(table + 6).to(tl.int32)
    left = tl.load(table + 7).to(tl.int32)

    # The tile's rows and columns in the resized box. Those outside it take the place of its border and become black in
    # the end, so no address is ever outside the box.
    resized_y = tl.minimum(tl.maximum(top + y, 0), resized_height - 1)
    resized_x = tl.minimum(tl.maximum(left + x, 0), resized_width - 1)

    # Their centers in the box, (resized_y + 0.5) * box_height / resized_height, as `whole` + `fraction`. A position as
    # one float32 would be too inexact in a wide image, so only `whole` is rounded, and the rest is an exact integer.
    scale_y = box_height / resized_height
    scale_x = box_width / resized_width
    whole_y = ((resized_y + 0.5) * scale_y).to(tl.int32)
    whole_x = ((resized_x + 0.5) * scale_x).to(tl.int32)
    rest_y = (2 * resized_y + 1).to(tl.int64) * box_height - whole_y.to(tl.int64) * (2 * resized_height)
    rest_x = (2 * resized_x + 1).to(tl.int64) * box_width - whole_x.to(tl.int64) * (2 * resized_width)
    fraction_y = rest_y.to(tl.int32) / (2 * resized_height)
    fraction_x = rest_x.to(tl.int32) / (2 * resized_width)

    # The taps of a center are the pixels at a distance below `support`, at which the weight, a triangle, becomes 0.
    support_y = tl.maximum(scale_y, 1.0)
    support_x = tl.maximum(scale_x, 1.0)
    taps_y = tl.ceil(2 * support_y).to(tl.int32)
    taps_x = tl.ceil(2 * support_x).to(tl.int32)
    offset_y = tl.floor(fraction_y - support_y + 0.5)
    offset_x = tl.floor(fraction_x - support_x + 0.5)
    first_y = whole_y + offset_y.to(tl.int32)
    first_x = whole_x + offset_x.to(tl.int32)
    distance_y = offset_y + 0.5 - fraction_y
    distance_x = offset_x + 0.5 - fraction_x
    slope_y = 1 / support_y
    slope_x = 1 / support_x
    sum_y = tl.full((TILE_HEIGHT,), 0.0, tl.float32)
    sum_x = tl.full((TILE_WIDTH,), 0.0, tl.float32)
    for v in range(taps_y):
        weight_y = tl.maximum(1 - tl.abs(distance_y + v) * slope_y, 0.0)
        sum_y += tl.where((first_y + v >= 0) & (first_y + v < box_height), weight_y, 0.0)
    for h in range(taps_x):
        weight_x = tl.maximum(1 - tl.abs(distance_x + h) * slope_x, 0.0)
        sum_x += tl.where((first_x + h >= 0) & (first_x + h < box_width), weight_x, 0.0)

    # As in torch, weights are integers, of about 15 bits each, and the rows are rounded to 8 bits before the columns
    # are added up. With other roundings, every tenth value would differ from torch's by 1.
    bits_y = tl.minimum(14 + tl.ceil(tl.log2(support_y)).to(tl.int32), 22)
    bits_x = tl.minimum(14 + tl.ceil(tl.log2(support_x)).to(tl.int32), 22)
    unit_y = (1 << bits_y).to(tl.float32) / sum_y
    unit_x = (1 << bits_x).to(tl.float32) / sum_x
    zeros = tl.full((TILE_HEIGHT, TILE_WIDTH), 0, tl.int32)
    half_y = zeros + (1 << (bits_y - 1))
    half_x = zeros + (1 << (bits_x - 1))
    result_0, result_1, result_2 = half_y, half_y, half_y
    for v in range(taps_y):
        weight_y = tl.maximum(1 - tl.abs(distance_y + v) * slope_y, 0.0) * unit_y + 0.5
        weight_y = tl.where((first_y + v >= 0) & (first_y + v < box_height), weight_y, 0.0).to(tl.int32)[:, None]
        row = (tl.minimum(tl.maximum(first_y + v, 0), box_height - 1) * row_bytes)[:, None]
        sum_0, sum_1, sum_2 = half_x, half_x, half_x
        for h in range(taps_x):
            weight_x = tl.maximum(1 - tl.abs(distance_x + h) * slope_x, 0.0) * unit_x + 0.5
            weight_x = tl.where((first_x + h >= 0) & (first_x + h < box_width), weight_x, 0.0).to(tl.int32)[None, :]
            column = (tl.minimum(tl.maximum(first_x + h, 0), box_width - 1) * CHANNELS)[None, :]
            pixel = box + (row + column)
            sum_0 += tl.load(pixel).to(tl.int32) * weight_x
            if CHANNELS == 3:
                sum_1 += tl.load(pixel + 1).to(tl.int32) * weight_x
                sum_2 += tl.load(pixel + 2).to(tl.int32) * weight_x
        result_0 += (sum_0 >> bits_x) * weight_y
        if CHANNELS == 3:
            result_1 += (sum_1 >> bits_x) * weight_y
            result_2 += (sum_2 >> bits_x) * weight_y

    # The flips change the positions of rows and columns. The transpose, for which HEIGHT equals WIDTH, exchanges the
    # distances in memory between rows and between columns, and the sides of the erased box.
    transpose = tl.load(table + 10).to(tl.int32)
    out_y = tl.where(tl.load(table + 9) != 0, HEIGHT - 1 - y, y)
    out_x = tl.where(tl.load(table + 8) != 0, WIDTH - 1 - x, x)
    erase_y = out_y - tl.load(table + 11 + transpose).to(tl.int32)
    erase_x = out_x - tl.load(table + 12 - transpose).to(tl.int32)
    erased_y = (erase_y >= 0) & (erase_y < tl.load(table + 13 + transpose).to(tl.int32))
    erased_x = (erase_x >= 0) & (erase_x < tl.load(table + 14 - transpose).to(tl.int32))
    erased = erased_y[:, None] & erased_x[None, :]
    stride_y = tl.where(transpose != 0, CHANNELS, WIDTH * CHANNELS)
    stride_x = tl.where(transpose != 0, WIDTH * CHANNELS, CHANNELS)
    inside = (resized_y == top + y)[:, None] & (resized_x == left + x)[None, :]
    exists = (y < HEIGHT)[:, None] & (x < WIDTH)[None, :]
    pixel = out + image.to(tl.int64) * (HEIGHT * WIDTH * CHANNELS)
    pixel += (out_y * stride_y)[:, None] + (out_x * stride_x)[None, :]
    result_0 = tl.where(erased, fill_0, tl.where(inside, result_0 >> bits_y, 0))
    tl.store(pixel, result_0.to(tl.uint8), mask=exists)
    if CHANNELS == 3:
        result_1 = tl.where(erased, fill_1, tl.where(inside, result_1 >> bits_y, 0))
        result_2 = tl.where(erased, fill_2, tl.where(inside, result_2 >> bits_y, 0))
        tl.store(pixel + 1, result_1.to(tl.uint8), mask=exists)
        tl.store(pixel + 2, result_2.to(tl.uint8), mask=exists)


@functools.cache
def _compiled() -> Any:
    from triton.runtime import JITFunction

    # By default, the kernel would be compiled once more for aligned pointers and for special values of integers.
    integers, pointers = ["fill_0", "fill_1", "fill_2"], ["source", "table", "out"]
    return JITFunction(_transform_kernel, do_not_specialize=integers, do_not_specialize_on_alignment=pointers)


@functools.cache
def _interpreted() -> Any:
    from triton.runtime.interpreter import InterpretedFunction

    return InterpretedFunction(_transform_kernel)
