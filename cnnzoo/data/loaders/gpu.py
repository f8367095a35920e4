"""Batches built on a GPU from a small data set in the GPU's memory."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from cnnzoo.data.loaders.batch_builder import Batch, BatchBuilder, BatchRequest, Indices, image_sizes
from cnnzoo.data.transforms.decode import convert_channels
from cnnzoo.data.transforms.geometry import resize

MAX_MEMORY_FRACTION = 0.25  # of the GPU's free memory: the limit for a data set in the GPU's memory
MAX_RESIZE_PIXELS = 2**24  # pixels resized at a time


class GpuDataset:
    """A small data set in a device's memory as uint8, whose batches are gathered, cropped and flipped on the device.

    The batches have the same bytes as those of the `BatchBuilder`.
    """

    def __init__(self, builder: BatchBuilder, device: torch.device) -> None:
        self.builder, self.device = builder, device
        assert builder.split.pixels is not None
        pixels = builder.split.pixels
        height, width, self.margin = _padded_size(builder)
        padded_shape = (len(pixels), height + 2 * self.margin, width + 2 * self.margin, builder.channels)
        self.pixels = torch.zeros(padded_shape, dtype=torch.uint8, device=device)
        inner = self.pixels[:, self.margin : self.margin + height, self.margin : self.margin + width]
        step = max(1, MAX_RESIZE_PIXELS // (height * width))
        for start in range(0, len(pixels), step):
            chunk = convert_channels(pixels[start : start + step], builder.channels)
            inner[start : start + step] = torch.from_numpy(resize(chunk, height, width)).to(device)
        self.labels = torch.from_numpy(builder.split.labels).to(device)

    @staticmethod
    def supports(builder: BatchBuilder) -> bool:
        """Whether the images are pixels in memory, and their augmentation is only what this class implements."""
        augment = builder.augment
        if builder.split.pixels is None:
            return False
        if not builder.train:
            return True
        has_ops = augment.auto_augment is not None or augment.random_erase > 0 or any(augment.color_jitter or ())
        return augment.crop != "random_resized" and not has_ops

    @staticmethod
    def required_bytes(builder: BatchBuilder) -> int:
        """Bytes of device memory that the images need."""
        height, width, margin = _padded_size(builder)
        return len(builder.split) * (height + 2 * margin) * (width + 2 * margin) * builder.channels

    def build_batches(self, requests: Iterable[BatchRequest]) -> Iterator[Batch]:
        """Iterate over the batches of the requests, on the device."""
        return (self._build(epoch, indices) for epoch, indices in requests)

    def _build(self, epoch: int, indices: Indices) -> Batch:
        side = self.builder.image_size
        params = self.builder.params_for(epoch, indices, image_sizes(self.builder.split, len(indices)))
        numbers = torch.from_numpy(np.stack([indices, *(params.crops[:, :2].T + self.margin), params.flips]))
        if self.device.type == "cuda":
            numbers = numbers.pin_memory()
        index, top, left, flip = numbers.to(self.device, non_blocking=True)
        steps = torch.arange(side, device=self.device)
        rows = top[:, None] + steps
        columns = left[:, None] + torch.where(flip[:, None] > 0, side - 1 - steps, steps)
        images = self.pixels[index[:, None, None], rows[:, :, None], columns[:, None, :]]  # (N, side, side, C)
        return Batch(images.permute(0, 3, 1, 2), self.labels[index], [])


def _padded_size(builder: BatchBuilder) -> tuple[int, int, int]:
    """(height, width) that all images are resized to, and the width of the black margin that crops may reach into."""
    height, width = builder.params_for(0, np.zeros(1, np.int64), image_sizes(builder.split, 1)).resize_to[0].tolist()
    augment = builder.augment
    return height, width, augment.margin(builder.image_size) if builder.train and augment.crop == "padded" else 0


def fits_on_gpu(builder: BatchBuilder, device: torch.device) -> bool:
    """Whether `GpuDataset` supports these batches and the GPU has enough free memory for the images."""
    return (
        GpuDataset.supports(builder)
        and GpuDataset.required_bytes(builder) <= MAX_MEMORY_FRACTION * torch.cuda.mem_get_info(device)[0]
    )
