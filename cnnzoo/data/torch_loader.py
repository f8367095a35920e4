"""The loader on PyTorch: small sets gathered a batch at a time in this process, files by threads or processes."""

import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cnnzoo.data.augment import Augment
from cnnzoo.data.batches import Batches, Key, Made
from cnnzoo.data.order import Order
from cnnzoo.data.split import Split
from cnnzoo.errors import UserError

MOST_WORKERS = 8
AHEAD = 2  # batches that each worker makes ahead
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
    kind: "threads", which share everything and cost nothing to start, or "processes", which a training loop that keeps
        Python busy cannot slow down; "auto" is threads.
    on_bad_file: "error" raises UserError, from the iteration, for a file that cannot be decoded; "skip" names it once
        in the log and goes on with the next image of the batch (evaluation: without it).
    pin: batches in pinned memory, for a GPU.
    device: where they are wanted; they are made here, and the trainer brings them there.

    `wait_seconds` is how long its consumer has waited for batches, in all.
    """

    batch_sampler = None  # Lightning asks for it where there is a `sampler`
    _pool: "_Threads | DataLoader[Any] | None" = None

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
        pin: bool = False,
        device: torch.device | None = None,
    ) -> None:
        if kind not in KINDS:
            raise UserError(f"loader.kind={kind}: it can be {', '.join(KINDS)}")
        self.split, self.sampler = split, order
        self.workers = count_workers(workers, split)
        self.kind = "processes" if kind == "processes" else "threads"
        self.on_bad_file = on_bad_file
        self.pin = pin
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
        pool, self._pool = self._pool, None
        if isinstance(pool, _Threads):
            pool.close()
        iterator = getattr(pool, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()

    def __del__(self) -> None:
        self.close()

    def _made(self) -> Iterator[Made]:
        keys = _Keys(self.sampler)
        if not self.workers:
            return (_pinned(self._batches[key]) if self.pin else self._batches[key] for key in keys)
        if self._pool is None and self.kind == "threads":
            self._pool = _Threads(self._batches, self.workers, self.pin)
        elif self._pool is None:
            self._pool = DataLoader(
                self._batches,
                batch_size=None,
                sampler=keys,
                num_workers=self.workers,
                collate_fn=_unchanged,
                pin_memory=self.pin,
                persistent_workers=True,
                # Its own: the number of workers must not move the random numbers that dropout draws.
                generator=torch.Generator(),
            )
        return self._pool.make(keys) if isinstance(self._pool, _Threads) else iter(self._pool)

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


class _Threads:
    """Threads that make batches ahead, in turn."""

    def __init__(self, batches: Batches, workers: int, pin: bool) -> None:
        self.batches, self.pin, self.ahead = batches, pin, workers * AHEAD
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="cnnzoo-loader")
        before, started = torch.get_num_threads(), Barrier(workers + 1)

        def alone() -> None:  # torch in a worker works alone: the cores are the other workers'
            started.wait()
            torch.set_num_threads(1)
            started.wait()

        for _ in range(workers):
            self.pool.submit(alone)
        started.wait()
        started.wait()
        torch.set_num_threads(before)  # what threads that start later get

    def make(self, keys: "_Keys") -> Iterator[Made]:
        waiting: deque[Future[Made]] = deque()
        try:
            for key in keys:
                waiting.append(self.pool.submit(self._one, key))
                if len(waiting) > self.ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # broken off
            for future in waiting:
                future.cancel()

    def _one(self, key: Key) -> Made:
        return _pinned(self.batches[key]) if self.pin else self.batches[key]

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)


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


def _unchanged(batch: Any) -> Any:
    return batch


def _pinned(made: Made) -> Made:
    images, labels, bad = made
    return images.pin_memory(), labels.pin_memory(), bad


def count_workers(workers: int | str, split: Split) -> int:
    """`loader.workers` as a number. Raises UserError for what is none."""
    if workers == "auto":
        return 0 if split.paths is None else min(MOST_WORKERS, usable_cores())
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise UserError(f"loader.workers={workers}: it can be auto, or a number of processes from 0")
    return workers


def usable_cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
