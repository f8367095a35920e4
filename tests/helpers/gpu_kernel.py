"""The kernel of `gpu_kernel.py` in tests, which have no GPU.

For tensors on the CPU, `gpu_kernel.transform` runs in Triton's interpreter, in any process. `kernel_problem` of the CPU
is None if the environment variable TRITON_INTERPRET is 1 (`monkeypatch.setenv`). An image takes 50 ms or more.
`transform_by_interpolate` has the same arguments and gives the same bytes in a fraction of a millisecond. Tests of the
code around the kernel replace it by this function.
"""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
from packaging.version import Version
from torch import Tensor
from torch.nn import functional as F

from cnnzoo.data.loaders import gpu_kernel
from cnnzoo.data.loaders.gpu_table import COLUMNS


def interpreter_is_broken() -> bool:
    """Whether Triton's interpreter converts arrays to numbers in a way that this NumPy no longer allows."""
    try:
        return Version(version("triton")) < Version("3.7") and Version(version("numpy")) >= Version("2.4")
    except PackageNotFoundError:  # other tests skip builds of torch without Triton
        return False


needs_interpreter = pytest.mark.skipif(interpreter_is_broken(), reason="Triton's interpreter fails with this NumPy")


def transform_or_skip(source: Tensor, table: Tensor, out: Tensor, erase_fill: Sequence[int]) -> None:
    """Call `gpu_kernel.transform`; skips the test if that needs the interpreter and it is broken."""
    if not source.is_cuda and interpreter_is_broken():
        pytest.skip("Triton's interpreter fails with this NumPy")
    gpu_kernel.transform(source, table, out, erase_fill)


def transform_by_interpolate(source: Tensor, table: Tensor, out: Tensor, erase_fill: Sequence[int]) -> None:
    """Do what `gpu_kernel.transform` does with torch's antialiased resize."""
    _, out_height, out_width, channels = out.shape
    fill = torch.tensor(erase_fill, dtype=torch.uint8)
    for values, image in zip(table.tolist(), out, strict=True):
        row = dict(zip(COLUMNS, values, strict=True))
        shape, strides = (row["box_height"], row["box_width"], channels), (row["row_bytes"], channels, 1)
        box = source.as_strided(shape, strides, source.storage_offset() + row["start"])
        height, width, top, left = (row[name] for name in ("resized_height", "resized_width", "top", "left"))
        resized = F.interpolate(box.permute(2, 0, 1)[None], (height, width), mode="bilinear", antialias=True)[0]
        # Padding of negative width crops, and zeros are black.
        window = F.pad(resized, (-left, left + out_width - width, -top, top + out_height - height))
        window = window.permute(1, 2, 0)
        window = window.flip(1) if row["flip"] else window
        window = window.flip(0) if row["vertical_flip"] else window
        image.copy_(window.transpose(0, 1) if row["transpose"] else window)
        y, x = row["erase_top"], row["erase_left"]
        image[y : y + row["erase_height"], x : x + row["erase_width"]] = fill
