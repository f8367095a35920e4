"""The last stretch to a GPU: batches put there one ahead, or small sets that lie there and never travel."""

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from cnnzoo.data.batches import Batches, Indices, Key, Made, sizes_of
from cnnzoo.data.decode import to_channels
from cnnzoo.data.execute import resized

SHARE = 0.25  # of the GPU's free memory: what a set that lies there may take
PIXELS = 2**24  # resized at a time

Moved = tuple[Made, torch.cuda.Event]


def one_ahead(made: Iterator[Made], device: torch.device) -> Generator[Made, None, None]:
    """Batches on `device`: while one is used, the next one is waited for, pinned and on its way there.

    It has to be closed before anything else is made of what `made` uses, as a thread may be waiting for it.
    """
    stream = torch.cuda.Stream(device)

    def move() -> Moved | None:
        batch = next(made, None)
        if batch is None:
            return None
        images, labels, bad = batch
        with torch.cuda.stream(stream):
            images = images.pin_memory().to(device, non_blocking=True)
            labels = labels.pin_memory().to(device, non_blocking=True)
            return (images, labels, bad), stream.record_event()

    with ThreadPoolExecutor(1, thread_name_prefix="cnnzoo-loader-device") as mover:
        moving: Future[Moved | None] = mover.submit(move)
        while (moved := moving.result()) is not None:
            moving = mover.submit(move)
            batch, arrived = moved
            now = torch.cuda.current_stream(device)
            now.wait_event(arrived)
            for tensor in batch[:2]:
                tensor.record_stream(now)  # its memory is not used again before this stream is done with it
            yield batch


class Resident:
    """A small set that lies on a device as uint8: gathered, cropped and flipped there, the same bytes as `Batches`."""

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self.batches, self.device = batches, device
        assert batches.split.pixels is not None
        pixels = batches.split.pixels
        height, width, self.margin = _room(batches)
        wide = (len(pixels), height + 2 * self.margin, width + 2 * self.margin, batches.channels)
        self.pixels = torch.zeros(wide, dtype=torch.uint8, device=device)
        inside = self.pixels[:, self.margin : self.margin + height, self.margin : self.margin + width]
        step = max(1, PIXELS // (height * width))
        for start in range(0, len(pixels), step):
            part = to_channels(pixels[start : start + step], batches.channels)
            inside[start : start + step] = torch.from_numpy(resized(part, height, width)).to(device)
        self.labels = torch.from_numpy(batches.split.labels).to(device)

    @staticmethod
    def can(batches: Batches) -> bool:
        """Whether these batches need nothing but what is done here."""
        augment = batches.augment
        if batches.split.pixels is None:
            return False
        if not batches.train:
            return True
        more = augment.auto is not None or augment.erase > 0 or any(augment.color_jitter or ())
        return augment.crop != "random_resized" and not more

    @staticmethod
    def bytes(batches: Batches) -> int:
        """How much memory it takes."""
        height, width, margin = _room(batches)
        return len(batches.split) * (height + 2 * margin) * (width + 2 * margin) * batches.channels

    def make(self, keys: Iterable[Key]) -> Iterator[Made]:
        """The batches for `keys`, on the device."""
        return (self._one(epoch, indices) for epoch, indices in keys)

    def _one(self, epoch: int, indices: Indices) -> Made:
        side = self.batches.image_size
        draw = self.batches.draw(epoch, indices, sizes_of(self.batches.split, len(indices)))
        numbers = torch.from_numpy(np.stack([indices, *(draw.windows[:, :2].T + self.margin), draw.flips]))
        if self.device.type == "cuda":
            numbers = numbers.pin_memory()
        which, top, left, flip = numbers.to(self.device, non_blocking=True)
        steps = torch.arange(side, device=self.device)
        rows = top[:, None] + steps
        columns = left[:, None] + torch.where(flip[:, None] > 0, side - 1 - steps, steps)
        images = self.pixels[which[:, None, None], rows[:, :, None], columns[:, None, :]]  # (N, side, side, C)
        return images.permute(0, 3, 1, 2), self.labels[which], []


def _room(batches: Batches) -> tuple[int, int, int]:
    """(height, width) of the images as crops are taken from them, and the black margin that crops may reach into."""
    height, width = batches.draw(0, np.zeros(1, np.int64), sizes_of(batches.split, 1)).resized[0].tolist()
    augment = batches.augment
    return height, width, augment.margin(batches.image_size) if batches.train and augment.crop == "padded" else 0


def fits(batches: Batches, device: torch.device) -> bool:
    """Whether these batches can be made from a set that lies on the GPU, and the GPU has room for it."""
    return Resident.can(batches) and Resident.bytes(batches) <= SHARE * torch.cuda.mem_get_info(device)[0]
