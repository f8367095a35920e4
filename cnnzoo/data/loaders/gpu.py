"""The last stretch to a GPU: batches put there one ahead, or small sets that lie there and never travel."""

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from cnnzoo.data.loaders.batch_builder import Batch, BatchBuilder, BatchRequest, Indices, image_sizes
from cnnzoo.data.transforms.decode import convert_channels
from cnnzoo.data.transforms.geometry import resize

MAX_MEMORY_FRACTION = 0.25  # of the GPU's free memory: what a set that lies there may take
MAX_RESIZE_PIXELS = 2**24  # resized at a time

Transfer = tuple[Batch, torch.cuda.Event]


def prefetch_to_device(made: Iterator[Batch], device: torch.device) -> Generator[Batch, None, None]:
    """Batches on `device`: while one is used, the next one is waited for, pinned and on its way there.

    It has to be closed before anything else is made of what `made` uses, as a thread may be waiting for it.
    """
    stream = torch.cuda.Stream(device)

    def move() -> Transfer | None:
        batch = next(made, None)
        if batch is None:
            return None
        images, labels, bad = batch
        with torch.cuda.stream(stream):
            images = images.pin_memory().to(device, non_blocking=True)
            labels = labels.pin_memory().to(device, non_blocking=True)
            return (images, labels, bad), stream.record_event()

    with ThreadPoolExecutor(1, thread_name_prefix="cnnzoo-loader-device") as mover:
        moving: Future[Transfer | None] = mover.submit(move)
        while (moved := moving.result()) is not None:
            moving = mover.submit(move)
            batch, arrived = moved
            now = torch.cuda.current_stream(device)
            now.wait_event(arrived)
            for tensor in batch[:2]:
                tensor.record_stream(now)  # its memory is not used again before this stream is done with it
            yield batch


class GpuDataset:
    """A small set that lies on a device as uint8: gathered, cropped and flipped there, the same bytes as `Batches`."""

    def __init__(self, batches: BatchBuilder, device: torch.device) -> None:
        self.batches, self.device = batches, device
        assert batches.split.pixels is not None
        pixels = batches.split.pixels
        height, width, self.margin = _padded_size(batches)
        wide = (len(pixels), height + 2 * self.margin, width + 2 * self.margin, batches.channels)
        self.pixels = torch.zeros(wide, dtype=torch.uint8, device=device)
        inside = self.pixels[:, self.margin : self.margin + height, self.margin : self.margin + width]
        step = max(1, MAX_RESIZE_PIXELS // (height * width))
        for start in range(0, len(pixels), step):
            part = convert_channels(pixels[start : start + step], batches.channels)
            inside[start : start + step] = torch.from_numpy(resize(part, height, width)).to(device)
        self.labels = torch.from_numpy(batches.split.labels).to(device)

    @staticmethod
    def can(batches: BatchBuilder) -> bool:
        """Whether these batches need nothing but what is done here."""
        augment = batches.augment
        if batches.split.pixels is None:
            return False
        if not batches.train:
            return True
        more = augment.auto_augment is not None or augment.random_erase > 0 or any(augment.color_jitter or ())
        return augment.crop != "random_resized" and not more

    @staticmethod
    def bytes(batches: BatchBuilder) -> int:
        """How much memory it takes."""
        height, width, margin = _padded_size(batches)
        return len(batches.split) * (height + 2 * margin) * (width + 2 * margin) * batches.channels

    def build(self, keys: Iterable[BatchRequest]) -> Iterator[Batch]:
        """The batches for `keys`, on the device."""
        return (self._one(epoch, indices) for epoch, indices in keys)

    def _one(self, epoch: int, indices: Indices) -> Batch:
        side = self.batches.image_size
        params = self.batches.params_for(epoch, indices, image_sizes(self.batches.split, len(indices)))
        numbers = torch.from_numpy(np.stack([indices, *(params.crops[:, :2].T + self.margin), params.flips]))
        if self.device.type == "cuda":
            numbers = numbers.pin_memory()
        which, top, left, flip = numbers.to(self.device, non_blocking=True)
        steps = torch.arange(side, device=self.device)
        rows = top[:, None] + steps
        columns = left[:, None] + torch.where(flip[:, None] > 0, side - 1 - steps, steps)
        images = self.pixels[which[:, None, None], rows[:, :, None], columns[:, None, :]]  # (N, side, side, C)
        return images.permute(0, 3, 1, 2), self.labels[which], []


def _padded_size(batches: BatchBuilder) -> tuple[int, int, int]:
    """(height, width) of the images as crops are taken from them, and the black margin that crops may reach into."""
    height, width = batches.params_for(0, np.zeros(1, np.int64), image_sizes(batches.split, 1)).resize_to[0].tolist()
    augment = batches.augment
    return height, width, augment.margin(batches.image_size) if batches.train and augment.crop == "padded" else 0


def fits_on_gpu(batches: BatchBuilder, device: torch.device) -> bool:
    """Whether these batches can be made from a set that lies on the GPU, and the GPU has room for it."""
    return (
        GpuDataset.can(batches)
        and GpuDataset.bytes(batches) <= MAX_MEMORY_FRACTION * torch.cuda.mem_get_info(device)[0]
    )
