"""The loader on PyTorch: small sets gathered a batch at a time in this process, files decoded in worker processes."""

import os
import time
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cnnzoo.data.augment import Augment, Draw
from cnnzoo.data.decode import BadFile, decode, to_channels, why
from cnnzoo.data.execute import execute
from cnnzoo.data.order import Order
from cnnzoo.data.split import Split
from cnnzoo.errors import UserError

MOST_WORKERS = 8
HELD = 32 * 2**20  # bytes of decoded images that a worker holds before it cuts them down to the image size
Pixels = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Key = tuple[int, Indices]  # (epoch, indices)
Batch = tuple[Tensor, Tensor]


class TorchLoader:
    """Batches of `split` in `order`: uint8 (N, channels, image_size, image_size), contiguous, and int64 labels (N,).

    It can be iterated any number of times, broken off anywhere, and gives the same bytes with any number of workers.
    `workers`: processes that make batches ahead, 0 for none; "auto" is 0 for pixels in memory and one per usable core,
    at most 8, for files. They start with the first batch and live until `close`. `pin`: batches in pinned memory, for a
    GPU. `wait_seconds` is how long its consumer has waited for batches, in all.

    Raises UserError, from the iteration, for a file that cannot be decoded.
    """

    batch_sampler = None  # Lightning asks for it where there is a `sampler`
    _pool: DataLoader[Any] | None = None

    def __init__(
        self,
        split: Split,
        order: Order,
        *,
        augment: Augment,
        train: bool,
        image_size: int,
        channels: int,
        seed: int,
        workers: int | Literal["auto"] = "auto",
        pin: bool = False,
    ) -> None:
        self.sampler = order
        self.workers = count_workers(workers, split)
        self.pin = pin
        self.wait_seconds = 0.0
        self._batches = _Batches(split, augment, train, image_size, channels, seed)
        self._turn = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: nothing happens before the first batch is asked for, and the epoch is the one set by then.
        self._turn = turn = self._turn + 1
        batches = self._from_workers() if self.workers else self._from_here()
        while True:
            if turn != self._turn:
                raise RuntimeError("this iteration was broken off: another one of the same loader has begun since")
            start = time.perf_counter()
            batch = next(batches, None)
            self.wait_seconds += time.perf_counter() - start
            if batch is None:
                return
            if isinstance(batch, BadFile):
                raise UserError(f"{batch.path}: cannot be read: {batch.reason}; mend the file or remove it")
            yield batch

    def close(self) -> None:
        """End the workers. The next iteration starts new ones."""
        pool, self._pool = self._pool, None
        iterator = getattr(pool, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()

    def __del__(self) -> None:
        self.close()

    def _from_here(self) -> Iterator[Batch | BadFile]:
        for key in _Keys(self.sampler):
            batch = self._batches[key]
            yield (batch[0].pin_memory(), batch[1].pin_memory()) if self.pin and isinstance(batch, tuple) else batch

    def _from_workers(self) -> Iterator[Batch | BadFile]:
        if self._pool is None:
            self._pool = DataLoader(
                self._batches,
                batch_size=None,
                sampler=_Keys(self.sampler),
                num_workers=self.workers,
                collate_fn=_unchanged,
                pin_memory=self.pin,
                persistent_workers=True,
                # Its own: the number of workers must not move the random numbers that dropout draws.
                generator=torch.Generator(),
            )
        return iter(self._pool)


class _Keys:
    """The order's batches with the epoch they are of, which travels along to the workers."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Key]:
        epoch = self.order.epoch
        for indices in self.order:
            yield epoch, indices


class _Batches(Dataset[Any]):
    """Makes the batch for a key. Workers hold a copy, of which the arrays are shared where processes are forked."""

    def __init__(self, split: Split, augment: Augment, train: bool, image_size: int, channels: int, seed: int) -> None:
        self.split, self.augment, self.train = split, augment, train
        self.image_size, self.channels, self.seed = image_size, channels, seed

    def __getitem__(self, key: Key) -> Batch | BadFile:
        epoch, indices = key
        labels = torch.from_numpy(self.split.labels[indices])
        if self.split.pixels is not None:
            pixels = to_channels(self.split.pixels[indices], self.channels)
            sizes = np.tile(np.array(pixels.shape[1:3], np.int64), (len(pixels), 1))
            return execute(pixels, self._draw(epoch, indices, sizes)), labels
        images = torch.empty(len(indices), self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        decoded: list[Pixels] = []
        held = 0
        for n, index in enumerate(indices, start=1):
            path = self.split.path(index)
            try:
                decoded.append(decode(path, self.channels))
            except Exception as error:  # whatever a broken file makes a decoder raise
                return BadFile(path, why(error))  # handed over, as an exception would arrive wrapped in a traceback
            held += decoded[-1].nbytes
            if n == len(indices) or held > HELD:
                done = slice(n - len(decoded), n)
                images[done] = self._executed(epoch, indices[done], decoded)
                decoded, held = [], 0
        return images, labels

    def _executed(self, epoch: int, indices: Indices, decoded: list[Pixels]) -> Tensor:
        """Images (H, W, C) of any sizes to (N, C, image_size, image_size); those of one size go together."""
        sizes = np.array([pixels.shape[:2] for pixels in decoded], np.int64)
        draw = self._draw(epoch, indices, sizes)
        images = torch.empty(len(decoded), self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        kinds, kind = np.unique(sizes, axis=0, return_inverse=True)
        for number in range(len(kinds)):
            same = np.flatnonzero(kind.reshape(-1) == number)
            images[torch.from_numpy(same)] = execute(np.stack([decoded[n] for n in same]), draw.of(same))
        return images

    def _draw(self, epoch: int, indices: Indices, sizes: Indices) -> Draw:
        if self.train:
            return self.augment.draw(self.seed, epoch, indices, sizes, self.image_size)
        return self.augment.for_evaluation(sizes, self.image_size)


def _unchanged(batch: Any) -> Any:
    return batch


def count_workers(workers: int | str, split: Split) -> int:
    if workers == "auto":
        return 0 if split.paths is None else min(MOST_WORKERS, _usable_cores())
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise UserError(f"loader.workers={workers}: it can be auto, or a number of processes from 0")
    return workers


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
