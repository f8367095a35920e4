"""Who makes batches ahead: threads, or processes that hand them over in shared memory."""

import contextlib
import mmap
import multiprocessing
import os
import signal
import traceback
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from threading import Barrier
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from cnnzoo.data.cache.shared_memory import SharedBuffer
from cnnzoo.data.loaders.batch_builder import Batch, BatchBuilder, BatchRequest
from cnnzoo.data.transforms.decode import BadFile
from cnnzoo.errors import UserError

PREFETCH_FACTOR = 2  # batches that each worker makes ahead
SPARE_BUFFERS = 4  # slots for the batches that the consumer holds; what it holds beyond them is copied
PARENT_POLL_SECONDS = 5.0  # seconds between two looks of a worker process at whether its parent lives

WorkerReply = tuple[int, list[BadFile]] | Exception  # rows made, and the files that took no part in them

T = TypeVar("T", covariant=True)


class WorkerPool(Protocol):
    """Workers that live from one iteration to the next."""

    def build(self, keys: Iterable[BatchRequest]) -> Iterator[Batch]:
        """The batches for `keys`, in their order. What an iteration that was broken off asked for is thrown away."""
        ...

    def close(self) -> None:
        """End the workers."""
        ...


class Builder(Protocol[T]):
    """Who knows how to make what a key stands for."""

    def build(self, key: BatchRequest) -> T:
        """It."""
        ...


class ThreadPool(Generic[T]):
    """Threads of this process: they start at once and share everything, but only one at a time runs Python."""

    def __init__(self, batches: Builder[T], workers: int) -> None:
        self.batches, self.ahead = batches, workers * PREFETCH_FACTOR
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

    def build(self, keys: Iterable[BatchRequest]) -> Iterator[T]:
        waiting: deque[Future[T]] = deque()
        try:
            for key in keys:
                waiting.append(self.pool.submit(self.batches.build, key))
                if len(waiting) > self.ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # broken off
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class BufferLayout:
    """Shared memory, cut into `count` places for batches of up to `shape` (N, S, S, C), each with N int64 behind it.

    The int64 are the indices on a batch's way to a worker, and its labels on the way back.
    """

    shape: tuple[int, int, int, int]
    count: int

    @property
    def pixels(self) -> int:
        """Bytes of a batch's images, rounded up to what int64 may stand on."""
        return -(-int(np.prod(self.shape)) // 64) * 64

    @property
    def bytes(self) -> int:
        """Of one slot: whole pages."""
        return -(-(self.pixels + 8 * self.shape[0]) // mmap.PAGESIZE) * mmap.PAGESIZE

    def images(self, memory: Any, slot: int, rows: int) -> np.ndarray:
        """The slot's first `rows` images (rows, S, S, C), where they lie."""
        _, height, width, channels = self.shape
        size = rows * height * width * channels
        return np.frombuffer(memory, np.uint8, size, slot * self.bytes).reshape(rows, height, width, channels)

    def numbers(self, memory: Any, slot: int, rows: int) -> np.ndarray:
        """The slot's first `rows` int64, where they lie."""
        return np.frombuffer(memory, np.int64, rows, slot * self.bytes + self.pixels)


class ProcessPool:
    """Processes: a training loop that keeps Python busy cannot slow them, nor they it.

    A batch is written once, by the worker, into a slot of shared memory, and handed on as it lies there; the slot is
    free again when the last tensor of it is gone. Workers end with this process, however it ends.

    in_turn: workers make a batch each, and rest while those are used. A team of threads that trains on the CPU waits
        for each of its own that a worker interrupts, which costs more than the worker's time.
    """

    def __init__(self, batches: BatchBuilder, workers: int, batch_size: int, *, alternate: bool = False) -> None:
        self.alternate = alternate
        side = batches.image_size
        self.slots = BufferLayout((batch_size, side, side, batches.channels), workers * PREFETCH_FACTOR + SPARE_BUFFERS)
        self._memory = SharedBuffer(self.slots.bytes * self.slots.count)
        self._free = deque(range(self.slots.count))
        self._tickets = 0
        self._slot_of: dict[int, int] = {}  # by ticket, of what workers are at
        self._in_flight: list[set[int]] = [set() for _ in range(workers)]  # tickets of each worker
        self._connections: list[Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []
        context = multiprocessing.get_context()
        forks = context.get_start_method() == "fork"
        for number in range(workers):
            ours, theirs = context.Pipe()
            self._connections.append(ours)
            process = context.Process(
                target=_worker_main,
                args=(theirs, batches, self._memory.path, self.slots, [*self._connections] if forks else []),
                name=f"cnnzoo-loader-{number}",
                daemon=True,
            )
            process.start()
            theirs.close()
            self._processes.append(process)
        # before multiprocessing's own farewell, which would send signals that workers do not hear
        Finalize(self, _stop_workers, (self._connections, self._processes), exitpriority=10)

    def build(self, keys: Iterable[BatchRequest]) -> Iterator[Batch]:
        left = iter(keys)
        key = next(left, None)
        waiting: deque[int] = deque()  # tickets, in the keys' order
        done: dict[int, WorkerReply] = {}
        most = len(self._processes) * (1 if self.alternate else PREFETCH_FACTOR)
        try:
            while key is not None or waiting:
                if not self._connections:
                    raise RuntimeError("this iteration was broken off: its loader has been closed since")
                batch = None
                if waiting and waiting[0] in done and (not self.alternate or len(done) == len(waiting)):
                    ticket = waiting.popleft()
                    batch = self._take_batch(ticket, done.pop(ticket))
                if not self.alternate or (batch is None and not waiting):
                    while key is not None and len(waiting) < most and self._free:
                        waiting.append(self._send(key))
                        key = next(left, None)
                if batch is not None:
                    yield batch
                    continue
                for ticket, said in self._poll_workers():
                    if ticket in waiting:
                        done[ticket] = said
                    else:  # of an iteration that was broken off
                        self._free.append(self._slot_of.pop(ticket))
        finally:
            for ticket in done:
                self._free.append(self._slot_of.pop(ticket))

    def close(self) -> None:
        lines, self._connections = self._connections, []
        _stop_workers(lines, self._processes)

    def _send(self, key: BatchRequest) -> int:
        """Ask the worker with least to do for a batch; returns its ticket."""
        epoch, indices = key
        slot, worker = (
            self._free.pop(),
            min(range(len(self._in_flight)), key=lambda number: len(self._in_flight[number])),
        )
        self.slots.numbers(self._memory.view, slot, len(indices))[:] = indices
        self._tickets += 1
        try:
            self._connections[worker].send((self._tickets, slot, epoch, len(indices)))
        except OSError:
            raise self._ended(worker) from None
        self._slot_of[self._tickets] = slot
        self._in_flight[worker].add(self._tickets)
        return self._tickets

    def _poll_workers(self) -> list[tuple[int, WorkerReply]]:
        """Wait for what workers say, each time of one ticket."""
        found: list[tuple[int, WorkerReply]] = []
        ready = wait(self._connections)
        for worker, line in enumerate(self._connections):
            if line not in ready:
                continue
            try:
                ticket, said = line.recv()
            except (EOFError, OSError):
                raise self._ended(worker) from None
            self._in_flight[worker].discard(ticket)
            found.append((ticket, said))
        return found

    def _take_batch(self, ticket: int, said: WorkerReply) -> Batch:
        slot = self._slot_of.pop(ticket)
        if isinstance(said, Exception):
            self._free.append(slot)
            raise said
        rows, bad = said
        pixels = self.slots.images(self._memory.view, slot, rows)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        labels = torch.from_numpy(self.slots.numbers(self._memory.view, slot, rows).copy())
        if self._free:
            weakref.finalize(pixels, self._free.append, slot).atexit = False
        else:
            images = images.clone(memory_format=torch.preserve_format)
            self._free.append(slot)
        return images, labels, bad

    def _ended(self, worker: int) -> UserError:
        """What to say of a worker that is there no more."""
        process = self._processes[worker]
        process.join(PARENT_POLL_SECONDS)
        code = process.exitcode or 0
        how = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended ({code})"
        self.close()
        return UserError(
            f"a worker of the loader (process {process.pid}) {how}; where the machine ran out of memory, try a smaller "
            "data.cache.budget, fewer loader.workers, or loader.kind=threads"
        )


def _stop_workers(lines: list[Connection], crew: list[multiprocessing.process.BaseProcess]) -> None:
    """Let workers go, each after the batch that it is at."""
    for line in lines:
        with contextlib.suppress(OSError):
            line.send(None)
        line.close()
    for process in crew:
        process.join(PARENT_POLL_SECONDS)
        if process.exitcode is None:
            process.kill()


def _worker_main(
    line: Connection, batches: BatchBuilder, path: str, slots: BufferLayout, inherited: list[Connection]
) -> None:
    """A worker process: makes the batches that it is asked for, until nobody can ask any more."""
    for other in inherited:  # by a fork; open here, they would hide from the others that the parent is gone
        other.close()
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):  # for the parent, which may have steps to end before the workers
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = os.getppid()
    with open(path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    try:
        while True:
            while not line.poll(PARENT_POLL_SECONDS):
                if os.getppid() != parent:
                    return
            asked = line.recv()
            if asked is None:
                return
            ticket, slot, epoch, rows = asked
            line.send((ticket, _build_into_buffer(batches, memory, slots, slot, epoch, rows)))
    except (EOFError, OSError):
        return


def _build_into_buffer(
    batches: BatchBuilder, memory: mmap.mmap, slots: BufferLayout, slot: int, epoch: int, rows: int
) -> WorkerReply:
    """Make a batch where it is to lie: (rows, bad files), or what went wrong."""
    place, numbers = slots.images(memory, slot, rows), slots.numbers(memory, slot, rows)
    try:
        images, labels, bad = batches.build((epoch, numbers.copy()), place)
    except UserError as error:
        return error
    except Exception:
        return RuntimeError(f"in a worker of the loader:\n{traceback.format_exc()}")
    if images.data_ptr() != place.ctypes.data:
        place[: len(images)] = images.permute(0, 2, 3, 1).numpy()
    numbers[: len(labels)] = labels.numpy()
    return len(images), bad
