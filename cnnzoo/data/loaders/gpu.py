"""Data sets in the GPU's memory: batches are cropped, resized, flipped, turned and erased there."""

from collections.abc import Iterable, Iterator, Sequence
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor

from cnnzoo.data.loaders.batch_builder import (
    Batch,
    BatchBuilder,
    BatchRequest,
    Indices,
    batch_rows,
    chunk_requests,
    image_sizes,
)
from cnnzoo.data.loaders.gpu_table import build_table
from cnnzoo.data.transforms.decode import Pixels
from cnnzoo.data.transforms.pixel_format import convert_channels
from cnnzoo.runtime.formatting import format_bytes

STAGING_BYTES = 2**26  # pinned memory through which the images are copied to the GPU
CHECKED_IMAGES = 8  # images of the self-check
# The CPU enlarges with one rounding instead of two, which changes up to a third of the values by 1.
MAX_DIFFERENCE, MAX_MEAN_DIFFERENCE = 1, 0.5

BY_TORCH, BY_KERNEL = 1, 2  # what transforms the images


class GpuDataset:
    """The images of a split in a device's memory as uint8, and the batches that are made from them on the device.

    Each value of an image differs from that of the `BatchBuilder`'s image by at most 1. The images are pixels in memory
    or in a complete decoded cache; see `unsupported` in `gpu_placement.py`. A CPU as the device is for tests.

    level: BY_KERNEL transforms the images with the kernel of `gpu_kernel.py`, BY_TORCH with PyTorch's operations, which
        cannot resize: see `needs_resizing`.

    Raises what PyTorch raises if the images cannot be copied to the device.
    """

    def __init__(self, builder: BatchBuilder, device: torch.device, level: int = BY_KERNEL) -> None:
        self.builder, self.device, self.level = builder, device, level
        self.starts, self.sizes = _image_starts(builder), _image_sizes(builder)
        self.source = _upload(_image_bytes(builder), required_bytes(builder), device)
        multi_hot = builder.split.num_classes is not None
        self.multi_hot_labels = torch.from_numpy(builder.split.labels).to(device) if multi_hot else None
        resident_datasets.add(self)

    def build_batches(self, requests: Iterable[BatchRequest]) -> Iterator[Batch]:
        """Iterate over the batches of the requests, on the device. Nothing here waits for the device."""
        image_size, channels = self.builder.image_size, self.builder.channels
        for chunk in chunk_requests(requests):
            table, erase_fill = self._table(chunk)
            labels = table[:, -1].contiguous()
            if self.multi_hot_labels is not None:  # the table has the number of each image
                labels = self.multi_hot_labels[labels]
            for rows in batch_rows(chunk):
                shape = rows.stop - rows.start, *image_size, channels
                images = torch.empty(shape, dtype=torch.uint8, device=self.device)
                self.transform(table[rows], images, erase_fill)
                yield Batch(images.permute(0, 3, 1, 2), labels[rows], [])

    def transform(self, table: Tensor, images: Tensor, erase_fill: Sequence[int]) -> None:
        """Write the images of the rows of a table; see `gpu_kernel.transform`."""
        if self.level == BY_TORCH:
            transform_by_torch(self.source, table, images, erase_fill)
            return
        from cnnzoo.data.loaders import gpu_kernel  # here: it imports Triton, which takes 0.3 s

        gpu_kernel.transform(self.source, table, images, erase_fill)

    def _table(self, chunk: list[BatchRequest]) -> tuple[Tensor, tuple[int, ...]]:
        """The parameters of all images of the requests on the device, and the pixel value of erased boxes."""
        builder = self.builder
        indices = np.concatenate([request.indices for request in chunk])
        images = indices % len(self.starts)
        starts, sizes = self.starts[images], self.sizes[images]
        labels = builder.split.labels[images] if self.multi_hot_labels is None else images
        params = builder.params_for(chunk[0].epoch, indices, sizes)
        rows = build_table(params, starts, sizes, builder.channels, labels, len(self.source))
        table = torch.from_numpy(rows)
        if self.device.type == "cuda":  # the copy of pageable memory would wait for the GPU
            table = table.pin_memory()
        return table.to(self.device, non_blocking=True), params.erase_fill

    def describe(self) -> str:
        """Where the images are and what transforms them."""
        method = "transformed by a Triton kernel" if self.level == BY_KERNEL else "cropped by PyTorch"
        return f"in the GPU's memory ({format_bytes(len(self.source))}), {method}"

    def check(self) -> str | None:
        """Compare a few images with the CPU's; return what is wrong, in one line, or None. Waits for the device."""
        method = "the Triton kernel" if self.level == BY_KERNEL else "PyTorch"
        try:
            request = BatchRequest(0, self._images_to_check())
            (batch,) = self.build_batches([request])
            images, labels = batch.images.cpu(), batch.labels.cpu()
        except Exception as error:  # of compilers, Triton and CUDA
            return f"{method} failed: {first_line(error)}"
        expected = self.builder.build(request)
        difference = (images.float() - expected.images.float()).abs()
        largest, mean = float(difference.max()), float(difference.mean((1, 2, 3)).max())
        if largest > MAX_DIFFERENCE or mean > MAX_MEAN_DIFFERENCE or not torch.equal(labels, expected.labels):
            return f"{method} gave other images than the CPU (by up to {largest:.0f} of 255, {mean:.2f} on average)"
        return None

    def _images_to_check(self) -> Indices:
        """Images that are extreme in the whole split, then those with extreme parameters in epoch 0."""
        height, width = self.sizes.T
        extremes = [
            self.starts.argmax(),
            (height * width).argmax(),
            np.maximum(height / width, width / height).argmax(),
        ]
        indices = np.linspace(0, len(self.starts) - 1, min(1000, len(self.starts))).astype(np.int64)
        params = self.builder.params_for(0, indices, self.sizes[indices])
        areas, corners = params.crops[:, 2] * params.crops[:, 3], params.crops[:, :2].sum(axis=1)
        rows = [areas.argmin(), areas.argmax(), params.flips.argmax()]
        rows += [turned.argmax() for turned in (params.vertical_flips, params.transposes) if turned is not None]
        if params.erase_boxes is not None:
            rows.append(params.erase_boxes[:, 2].argmax())
        rows += [corners.argmin(), corners.argmax(), *range(min(CHECKED_IMAGES, len(indices)))]
        return np.array(list(dict.fromkeys([*extremes, *indices[rows]]))[:CHECKED_IMAGES])


resident_datasets: WeakSet[GpuDataset] = WeakSet()


def needs_resizing(builder: BatchBuilder) -> bool:
    """Whether an image is resized."""
    if builder.train and builder.augment.crop == "random_resized":
        return True
    sizes = _image_sizes(builder)
    return bool((builder.params_for(0, np.arange(len(sizes)), sizes).resize_to != sizes).any())


def required_bytes(builder: BatchBuilder) -> int:
    """Bytes of device memory that the images need."""
    split = builder.split
    if split.pixels is not None:
        return int(np.prod(split.pixels.shape[:3])) * builder.channels
    assert split.store is not None
    return int(split.store.index["bytes"].sum())


def transform_by_torch(source: Tensor, table: Tensor, out: Tensor, erase_fill: Sequence[int]) -> None:
    """Do the work of `gpu_kernel.transform` with PyTorch's operations, for images that are not resized."""
    _, out_height, out_width, channels = out.shape
    columns = table.T[:-1, :, None]  # (columns, N, 1)
    start, row_bytes, height, width, _, _, top, left, flip, vertical_flip, transpose, *erase_box = columns
    erase_top, erase_left, erase_height, erase_width = erase_box
    out_y, out_x = (torch.arange(side, device=out.device) for side in (out_height, out_width))
    y = top + torch.where(vertical_flip > 0, out_height - 1 - out_y, out_y)  # (N, out_height)
    x = left + torch.where(flip > 0, out_width - 1 - out_x, out_x)  # (N, out_width)
    inside_y, inside_x = (y >= 0) & (y < height), (x >= 0) & (x < width)
    rows, offsets = start + y.clamp_min(0).minimum(height - 1) * row_bytes, x.clamp_min(0).minimum(width - 1) * channels
    if out_height == out_width:  # otherwise nothing is transposed
        swap = transpose > 0  # (N, 1)
        rows, offsets = torch.where(swap, offsets, rows), torch.where(swap, rows, offsets)
        inside_y, inside_x = torch.where(swap, inside_x, inside_y), torch.where(swap, inside_y, inside_x)
    inside = inside_y[:, :, None] & inside_x[:, None]  # (N, out_height, out_width)
    pixels = (rows[:, :, None] + offsets[:, None])[..., None] + torch.arange(channels, device=out.device)
    out.copy_(source[pixels] * inside[..., None])
    erased = ((out_y >= erase_top) & (out_y < erase_top + erase_height))[:, :, None]
    erased = erased & ((out_x >= erase_left) & (out_x < erase_left + erase_width))[:, None]
    for channel in range(channels):
        out[..., channel].masked_fill_(erased, erase_fill[channel % len(erase_fill)])


def _image_sizes(builder: BatchBuilder) -> Indices:
    """(N, 2): heights and widths."""
    split = builder.split
    if split.pixels is not None:
        return image_sizes(split, len(split))
    assert split.store is not None
    return np.stack([split.store.index[name] for name in ("height", "width")], axis=1).astype(np.int64)


def _image_starts(builder: BatchBuilder) -> Indices:
    """(N,): the offset of each image in the bytes of `_image_bytes`."""
    split = builder.split
    if split.pixels is not None:
        return np.arange(len(split)) * (required_bytes(builder) // len(split))
    assert split.store is not None
    index = split.store.index
    order = np.argsort(index["start"])
    starts = np.empty(len(split), np.int64)
    starts[order] = np.cumsum(index["bytes"][order]) - index["bytes"][order]
    return starts


def _image_bytes(builder: BatchBuilder) -> Iterator[Pixels]:
    """The bytes of all images, in pieces. Those of a store are in its own order, without the gaps between them."""
    split = builder.split
    if split.pixels is not None:
        step = max(1, STAGING_BYTES * len(split) // required_bytes(builder))
        for first in range(0, len(split), step):
            yield convert_channels(split.pixels[first : first + step], builder.channels).reshape(-1)
        return
    assert split.store is not None
    order = np.argsort(split.store.index["start"])
    starts = split.store.index["start"][order]
    ends = starts + split.store.index["bytes"][order]
    gaps = np.flatnonzero(starts[1:] != ends[:-1]) + 1  # other splits have images in the same file
    for rows in np.split(np.arange(len(order)), gaps):
        yield split.store.memory[starts[rows[0]] : ends[rows[-1]]]


def _upload(pieces: Iterable[Pixels], size: int, device: torch.device) -> Tensor:
    """Copy bytes to the device through a small pinned buffer: uint8 (size,)."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    staging = torch.empty(min(size, STAGING_BYTES), dtype=torch.uint8, pin_memory=device.type == "cuda")
    position = 0
    for piece in pieces:
        for part in torch.from_numpy(piece).split(len(staging)):
            staging[: len(part)] = part
            source[position : position + len(part)] = staging[: len(part)]  # waits, so the buffer can be used again
            position += len(part)
    assert position == size
    return source


def first_line(error: Exception) -> str:
    """The type and the first line of an error's message, at most 120 characters."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:120].rstrip(": ")
