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

from cnnzoo.data.batches import Batches, Key, Made
from cnnzoo.data.decode import BadFile
from cnnzoo.data.store import Memory
from cnnzoo.errors import UserError

AHEAD = 2  # batches that each worker makes ahead
SPARE = 4  # slots for the batches that the consumer holds; what it holds beyond them is copied
WATCH = 5.0  # seconds between two looks of a worker process at whether its parent lives

Said = tuple[int, list[BadFile]] | Exception  # rows made, and the files that took no part in them

Thing = TypeVar("Thing", covariant=True)


class Crew(Protocol):
    """Workers that live from one iteration to the next."""

    def make(self, keys: Iterable[Key]) -> Iterator[Made]:
        """The batches for `keys`, in their order. What an iteration that was broken off asked for is thrown away."""
        ...

    def close(self) -> None:
        """End the workers."""
        ...


class Maker(Protocol[Thing]):
    """Who knows how to make what a key stands for."""

    def make(self, key: Key) -> Thing:
        """It."""
        ...


class Threads(Generic[Thing]):
    """Threads of this process: they start at once and share everything, but only one at a time runs Python."""

    def __init__(self, batches: Maker[Thing], workers: int) -> None:
        self.batches, self.ahead = batches, workers * AHEAD
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

    def make(self, keys: Iterable[Key]) -> Iterator[Thing]:
        waiting: deque[Future[Thing]] = deque()
        try:
            for key in keys:
                waiting.append(self.pool.submit(self.batches.make, key))
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
class Slots:
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


class Processes:
    """Processes: a training loop that keeps Python busy cannot slow them, nor they it.

    A batch is written once, by the worker, into a slot of shared memory, and handed on as it lies there; the slot is
    free again when the last tensor of it is gone. Workers end with this process, however it ends.

    in_turn: workers make a batch each, and rest while those are used. A team of threads that trains on the CPU waits
        for each of its own that a worker interrupts, which costs more than the worker's time.
    """

    def __init__(self, batches: Batches, workers: int, batch_size: int, *, in_turn: bool = False) -> None:
        self.in_turn = in_turn
        side = batches.image_size
        self.slots = Slots((batch_size, side, side, batches.channels), workers * AHEAD + SPARE)
        self._memory = Memory(self.slots.bytes * self.slots.count)
        self._free = deque(range(self.slots.count))
        self._tickets = 0
        self._slot_of: dict[int, int] = {}  # by ticket, of what workers are at
        self._at: list[set[int]] = [set() for _ in range(workers)]  # tickets of each worker
        self._lines: list[Connection] = []
        self._crew: list[multiprocessing.process.BaseProcess] = []
        context = multiprocessing.get_context()
        forks = context.get_start_method() == "fork"
        for number in range(workers):
            ours, theirs = context.Pipe()
            self._lines.append(ours)
            process = context.Process(
                target=_work,
                args=(theirs, batches, self._memory.path, self.slots, [*self._lines] if forks else []),
                name=f"cnnzoo-loader-{number}",
                daemon=True,
            )
            process.start()
            theirs.close()
            self._crew.append(process)
        # before multiprocessing's own farewell, which would send signals that workers do not hear
        Finalize(self, _end, (self._lines, self._crew), exitpriority=10)

    def make(self, keys: Iterable[Key]) -> Iterator[Made]:
        left = iter(keys)
        key = next(left, None)
        waiting: deque[int] = deque()  # tickets, in the keys' order
        done: dict[int, Said] = {}
        most = len(self._crew) * (1 if self.in_turn else AHEAD)
        try:
            while key is not None or waiting:
                if not self._lines:
                    raise RuntimeError("this iteration was broken off: its loader has been closed since")
                batch = None
                if waiting and waiting[0] in done and (not self.in_turn or len(done) == len(waiting)):
                    ticket = waiting.popleft()
                    batch = self._handed_on(ticket, done.pop(ticket))
                if not self.in_turn or (batch is None and not waiting):
                    while key is not None and len(waiting) < most and self._free:
                        waiting.append(self._send(key))
                        key = next(left, None)
                if batch is not None:
                    yield batch
                    continue
                for ticket, said in self._heard():
                    if ticket in waiting:
                        done[ticket] = said
                    else:  # of an iteration that was broken off
                        self._free.append(self._slot_of.pop(ticket))
        finally:
            for ticket in done:
                self._free.append(self._slot_of.pop(ticket))

    def close(self) -> None:
        lines, self._lines = self._lines, []
        _end(lines, self._crew)

    def _send(self, key: Key) -> int:
        """Ask the worker with least to do for a batch; returns its ticket."""
        epoch, indices = key
        slot, worker = self._free.pop(), min(range(len(self._at)), key=lambda number: len(self._at[number]))
        self.slots.numbers(self._memory.view, slot, len(indices))[:] = indices
        self._tickets += 1
        try:
            self._lines[worker].send((self._tickets, slot, epoch, len(indices)))
        except OSError:
            raise self._ended(worker) from None
        self._slot_of[self._tickets] = slot
        self._at[worker].add(self._tickets)
        return self._tickets

    def _heard(self) -> list[tuple[int, Said]]:
        """Wait for what workers say, each time of one ticket."""
        found: list[tuple[int, Said]] = []
        ready = wait(self._lines)
        for worker, line in enumerate(self._lines):
            if line not in ready:
                continue
            try:
                ticket, said = line.recv()
            except (EOFError, OSError):
                raise self._ended(worker) from None
            self._at[worker].discard(ticket)
            found.append((ticket, said))
        return found

    def _handed_on(self, ticket: int, said: Said) -> Made:
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
        process = self._crew[worker]
        process.join(WATCH)
        code = process.exitcode or 0
        how = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended ({code})"
        self.close()
        return UserError(
            f"a worker of the loader (process {process.pid}) {how}; where the machine ran out of memory, try a smaller "
            "data.cache.budget, fewer loader.workers, or loader.kind=threads"
        )


def _end(lines: list[Connection], crew: list[multiprocessing.process.BaseProcess]) -> None:
    """Let workers go, each after the batch that it is at."""
    for line in lines:
        with contextlib.suppress(OSError):
            line.send(None)
        line.close()
    for process in crew:
        process.join(WATCH)
        if process.exitcode is None:
            process.kill()


def _work(line: Connection, batches: Batches, path: str, slots: Slots, inherited: list[Connection]) -> None:
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
            while not line.poll(WATCH):
                if os.getppid() != parent:
                    return
            asked = line.recv()
            if asked is None:
                return
            ticket, slot, epoch, rows = asked
            line.send((ticket, _made(batches, memory, slots, slot, epoch, rows)))
    except (EOFError, OSError):
        return


def _made(batches: Batches, memory: mmap.mmap, slots: Slots, slot: int, epoch: int, rows: int) -> Said:
    """Make a batch where it is to lie: (rows, bad files), or what went wrong."""
    place, numbers = slots.images(memory, slot, rows), slots.numbers(memory, slot, rows)
    try:
        images, labels, bad = batches.make((epoch, numbers.copy()), place)
    except UserError as error:
        return error
    except Exception:
        return RuntimeError(f"in a worker of the loader:\n{traceback.format_exc()}")
    if images.data_ptr() != place.ctypes.data:
        place[: len(images)] = images.permute(0, 2, 3, 1).numpy()
    numbers[: len(labels)] = labels.numpy()
    return len(images), bad
