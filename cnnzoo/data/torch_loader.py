"""The loader on PyTorch: small sets gathered a batch at a time in this process, files by threads or processes."""

import logging
import os
import time
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from cnnzoo.data.augment import Augment
from cnnzoo.data.batches import Batches, Key, Made
from cnnzoo.data.crew import Crew, Processes, Threads
from cnnzoo.data.device import Resident, fits, one_ahead
from cnnzoo.data.order import Order
from cnnzoo.data.split import Split
from cnnzoo.errors import UserError

MOST_WORKERS = 8
KINDS = ("auto", "threads", "processes")
ON_BAD_FILE = ("error", "skip")
Batch = tuple[Tensor, Tensor]

log = logging.getLogger(__name__)


class TorchLoader:
    """Batches of `split` in `order`: uint8 (N, channels, image_size, image_size), and int64 labels (N,).

    The images are channels last in memory. It can be iterated any number of times, broken off anywhere, and gives the
    same bytes with any number of workers of either kind.

    workers: who makes batches ahead, 0 for nobody; "auto" is 0 for pixels in memory and one per usable core, at most 8,
        for files. They start with the first batch and live until `close`.
    kind: "processes", or "threads" of this process, which take turns with the training loop at running Python, and slow
        it down; "auto" is processes.
    on_bad_file: "error" raises UserError, from the iteration, for a file that cannot be decoded; "skip" names it once
        in the log and goes on with the next image of the batch (evaluation: without it).
    device: a GPU, to which batches are brought one ahead, from pinned memory; a set of pixels for which there is room
        lies there, and is gathered, cropped and flipped there. None: batches in ordinary memory.

    `wait_seconds` is how long its consumer has waited for batches, in all.
    """

    batch_sampler = None  # Lightning asks for it where there is a `sampler`
    _crew: Crew | None = None
    _resident: Resident | None = None

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
        kind: Literal["auto", "threads", "processes"] = "auto",
        on_bad_file: Literal["error", "skip"] = "error",
        device: torch.device | None = None,
    ) -> None:
        if kind not in KINDS:
            raise UserError(f"loader.kind={kind}: it can be {', '.join(KINDS)}")
        self.split, self.sampler = split, order
        self.workers = count_workers(workers, split)
        self.kind = "threads" if kind == "threads" else "processes"
        self.on_bad_file = on_bad_file
        self.device = device
        self.wait_seconds = 0.0
        self._batches = Batches(split, augment, train, image_size, channels, seed)
        self._turn = 0
        self._named: set[str] = set()

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: nothing happens before the first batch is asked for, and the epoch is the one set by then.
        self._turn = turn = self._turn + 1
        batches = self._made()
        while True:
            if turn != self._turn:
                raise RuntimeError("this iteration was broken off: another one of the same loader has begun since")
            start = time.perf_counter()
            made = next(batches, None)
            self.wait_seconds += time.perf_counter() - start
            if made is None:
                return
            yield self._without_bad(made)

    def close(self) -> None:
        """End the workers. The next iteration starts new ones."""
        crew, self._crew, self._resident = self._crew, None, None
        if crew is not None:
            crew.close()

    def __del__(self) -> None:
        self.close()

    def _made(self) -> Iterator[Made]:
        keys = _Keys(self.sampler)
        if self.device is not None and self._resident is None and fits(self._batches, self.device):
            self._resident = Resident(self._batches, self.device)
        if self._resident is not None:
            return self._resident.make(keys)
        made = self._by_crew(keys)
        return made if self.device is None else one_ahead(made, self.device)

    def _by_crew(self, keys: "_Keys") -> Iterator[Made]:
        if not self.workers:
            return map(self._batches.make, keys)
        if self._crew is None and self.kind == "threads":
            self._crew = Threads(self._batches, self.workers)
        elif self._crew is None:
            self._crew = Processes(self._batches, self.workers, self.sampler.batch_size)
        return self._crew.make(keys)

    def _without_bad(self, made: Made) -> Batch:
        images, labels, bad = made
        for file in bad:
            if self.on_bad_file == "error":
                raise UserError(
                    f"{file.path}: cannot be read: {file.reason}; mend the file, remove it, or type "
                    "data.on_bad_file=skip"
                )
            if file.path not in self._named:
                self._named.add(file.path)
                log.warning("bad file, skipped: %s: %s", file.path, file.reason)
        if bad and not len(labels):
            raise UserError(f"no file of a whole batch can be read, {bad[0].path} for one: {bad[0].reason}")
        return images, labels


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


def count_workers(workers: int | str, split: Split) -> int:
    """`loader.workers` as a number. Raises UserError for what is none."""
    if workers == "auto":
        return 0 if split.paths is None else min(MOST_WORKERS, usable_cores())
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise UserError(f"loader.workers={workers}: it can be auto, or a number from 0")
    return workers


def usable_cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
