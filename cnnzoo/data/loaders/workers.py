"""What pools of workers promise, and a pool of processes that return batches in shared memory."""

import contextlib
import gc
import mmap
import multiprocessing
import os
import signal
import traceback
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import Any, Protocol

import numpy as np
import torch

from cnnzoo.data.cache.shared_memory import SharedBuffer
from cnnzoo.data.loaders.batch_builder import Batch, BatchBuilder, BatchRequest
from cnnzoo.data.transforms.decode import BadFile
from cnnzoo.data.transforms.pixel_format import pixel_dtype
from cnnzoo.errors import UserError

PREFETCH_FACTOR = 2  # batches that each worker builds ahead
SPARE_BUFFERS = 4  # buffers for batches that the consumer still uses; if it keeps more batches, they are copied
PARENT_POLL_SECONDS = 5.0  # how often a worker process checks that its parent is alive; also the time it gets to exit

WorkerReply = tuple[int, list[BadFile]] | Exception  # (number of images, bad files), or the error


class WorkerPool(Protocol):
    """Workers that build batches ahead and live from one iteration to the next."""

    def build_batches(self, requests: Iterable[BatchRequest]) -> Iterator[Batch]:
        """Iterate over the batches of the requests, in their order.

        If an iteration is stopped early, the batches that were still being built are discarded.
        """
        ...

    def close(self) -> None:
        """Stop the workers."""
        ...


@dataclass(frozen=True)
class BufferLayout:
    """Shared memory divided into `num_buffers` buffers, each for a batch of up to `batch_shape` (N, H, W, C) pixels.

    Each buffer has N int64 behind its pixels: a request's indices on the way to the worker, the labels on the way back.

    num_classes: of a multi-label set, whose labels are N rows of so many bytes instead; None for other sets.
    """

    batch_shape: tuple[int, int, int, int]
    num_buffers: int
    num_classes: int | None = None
    bits: int = 8  # of each value of a pixel

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a batch's images, rounded up so that the int64 behind them are aligned."""
        return -(-int(np.prod(self.batch_shape)) * self.bits // 8 // 64) * 64

    @property
    def buffer_bytes(self) -> int:
        """Bytes of one buffer, rounded up to whole pages."""
        label_bytes = max(8, self.num_classes or 0)
        return -(-(self.pixel_bytes + label_bytes * self.batch_shape[0]) // mmap.PAGESIZE) * mmap.PAGESIZE

    def images(self, memory: Any, buffer: int, count: int) -> np.ndarray:
        """View of the first `count` images of a buffer: uint8 or uint16 (count, H, W, C)."""
        shape = count, *self.batch_shape[1:]
        dtype, start = pixel_dtype(self.bits), buffer * self.buffer_bytes
        return np.frombuffer(memory, dtype, int(np.prod(shape)), start).reshape(shape)

    def int64s(self, memory: Any, buffer: int, count: int) -> np.ndarray:
        """View of the first `count` int64 of a buffer."""
        return np.frombuffer(memory, np.int64, count, buffer * self.buffer_bytes + self.pixel_bytes)

    def labels(self, memory: Any, buffer: int, count: int) -> np.ndarray:
        """View of the first `count` labels of a buffer: int64 (count,), or uint8 (count, num_classes)."""
        if self.num_classes is None:
            return self.int64s(memory, buffer, count)
        start = buffer * self.buffer_bytes + self.pixel_bytes
        return np.frombuffer(memory, np.uint8, count * self.num_classes, start).reshape(count, self.num_classes)


class ProcessPool:
    """Worker processes, which do not compete with the training loop for Python's interpreter lock.

    A worker writes a batch into a buffer in shared memory, and the consumer gets tensors that are views of that buffer,
    without a copy. The buffer is free again when the last of these tensors is gone. The workers exit when this process
    exits, even if it is killed.

    alternate: workers and training take turns: each worker builds one batch, then waits until all these batches have
        been taken. When training runs on the CPU, a busy worker delays one of torch's threads, and all its other
        threads wait for that one. This costs more time than workers that wait.

    Raises UserError if a worker cannot be started.
    """

    def __init__(self, builder: BatchBuilder, workers: int, batch_size: int, *, alternate: bool = False) -> None:
        self.alternate = alternate
        num_buffers = workers * PREFETCH_FACTOR + SPARE_BUFFERS
        shape = (batch_size, *builder.image_size, builder.channels)
        self.layout = BufferLayout(shape, num_buffers, builder.split.num_classes, builder.bits)
        self._memory = SharedBuffer(self.layout.buffer_bytes * num_buffers)
        self._free_buffers = deque(range(num_buffers))
        self._last_request_id = 0
        self._buffer_of: dict[int, int] = {}  # request id -> buffer, of requests sent and batches not taken yet
        self._in_flight: list[set[int]] = [set() for _ in range(workers)]  # request ids that each worker works on
        self._connections: list[Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []
        try:
            for number in range(workers):
                self._start_worker(number, builder)
        except OSError as error:
            self.close()  # the exit would wait for the workers that have started
            raise UserError(
                f"loader.workers={workers}: worker {number + 1} cannot be started: {error.strerror}; type a smaller "
                "loader.workers or loader.kind=threads, or raise the limit (ulimit -a lists the limits)"
            ) from error
        # Runs before multiprocessing's exit handler, whose SIGTERM the workers ignore.
        Finalize(self, _stop_workers, (self._connections, self._processes), exitpriority=10)

    def _start_worker(self, number: int, builder: BatchBuilder) -> None:
        context = multiprocessing.get_context()
        connection, worker_connection = context.Pipe()
        self._connections.append(connection)
        inherited = [*self._connections] if context.get_start_method() == "fork" else []
        process = context.Process(
            target=_worker_main,
            args=(worker_connection, builder, self._memory.path, self.layout, inherited),
            name=f"cnnzoo-loader-{number}",
            daemon=True,
        )
        process.start()
        worker_connection.close()
        self._processes.append(process)

    def build_batches(self, requests: Iterable[BatchRequest]) -> Iterator[Batch]:
        remaining = iter(requests)
        request = next(remaining, None)
        pending: deque[int] = deque()  # request ids, in the order of the requests
        replies: dict[int, WorkerReply] = {}
        max_pending = len(self._processes) * (1 if self.alternate else PREFETCH_FACTOR)
        try:
            while request is not None or pending:
                if not self._connections:
                    raise RuntimeError("this iterator is no longer valid: its loader has been closed")
                batch = None
                if pending and pending[0] in replies and (not self.alternate or len(replies) == len(pending)):
                    request_id = pending.popleft()
                    batch = self._take_batch(request_id, replies.pop(request_id))
                if not self.alternate or (batch is None and not pending):
                    while request is not None and len(pending) < max_pending and self._free_buffers:
                        pending.append(self._send(request))
                        request = next(remaining, None)
                if batch is not None:
                    yield batch
                    continue
                for request_id, reply in self._poll_workers():
                    if request_id in pending:
                        replies[request_id] = reply
                    else:  # from an iteration that was stopped early
                        self._free_buffers.append(self._buffer_of.pop(request_id))
        finally:
            for request_id in replies:
                self._free_buffers.append(self._buffer_of.pop(request_id))

    def close(self) -> None:
        connections, self._connections = self._connections, []
        _stop_workers(connections, self._processes)

    def _send(self, request: BatchRequest) -> int:
        """Send a request to the worker with the fewest requests in flight; return its request id."""
        epoch, indices = request
        buffer = self._free_buffers.pop()
        worker = min(range(len(self._in_flight)), key=lambda number: len(self._in_flight[number]))
        self.layout.int64s(self._memory.view, buffer, len(indices))[:] = indices
        self._last_request_id += 1
        try:
            self._connections[worker].send((self._last_request_id, buffer, epoch, len(indices)))
        except OSError:
            raise self._dead_worker_error(worker) from None
        self._buffer_of[self._last_request_id] = buffer
        self._in_flight[worker].add(self._last_request_id)
        return self._last_request_id

    def _poll_workers(self) -> list[tuple[int, WorkerReply]]:
        """Wait until at least one worker has replied; return (request id, reply) of each that has."""
        replies: list[tuple[int, WorkerReply]] = []
        ready = wait(self._connections)
        for worker, connection in enumerate(self._connections):
            if connection not in ready:
                continue
            try:
                request_id, reply = connection.recv()
            except (EOFError, OSError):
                raise self._dead_worker_error(worker) from None
            self._in_flight[worker].discard(request_id)
            replies.append((request_id, reply))
        return replies

    def _take_batch(self, request_id: int, reply: WorkerReply) -> Batch:
        """Return the batch of a reply, or raise the worker's error."""
        buffer = self._buffer_of.pop(request_id)
        if isinstance(reply, Exception):
            self._free_buffers.append(buffer)
            raise reply
        count, bad_files = reply
        pixels = self.layout.images(self._memory.view, buffer, count)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        labels = torch.from_numpy(self.layout.labels(self._memory.view, buffer, count).copy())
        if self._free_buffers:
            weakref.finalize(pixels, self._free_buffers.append, buffer).atexit = False
        else:  # the consumer keeps many batches: copy this one, or the workers would have no buffer to write to
            images = images.clone(memory_format=torch.preserve_format)
            self._free_buffers.append(buffer)
        return Batch(images, labels, bad_files)

    def _dead_worker_error(self, worker: int) -> UserError:
        """Close the pool; return an error that says how the worker process ended."""
        process = self._processes[worker]
        process.join(PARENT_POLL_SECONDS)
        code = process.exitcode or 0
        reason = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exited ({code})"
        self.close()
        return UserError(
            f"a loader worker (process {process.pid}) {reason}; if the machine ran out of memory, try a smaller "
            "data.cache.budget, fewer loader.workers, or loader.kind=threads"
        )


def _stop_workers(connections: list[Connection], processes: list[multiprocessing.process.BaseProcess]) -> None:
    """Ask the workers to exit after their current batch, and wait; kill those that take too long."""
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.send(None)
        connection.close()
    for process in processes:
        process.join(PARENT_POLL_SECONDS)
        if process.exitcode is None:
            process.kill()


def _worker_main(
    connection: Connection,
    builder: BatchBuilder,
    memory_path: str,
    layout: BufferLayout,
    inherited_connections: list[Connection],
) -> None:
    """The main function of a worker process: builds the requested batches until the parent stops it or exits."""
    # A forked worker must not collect the parent's garbage: to free a CUDA object in a forked process is a crash.
    gc.freeze()
    # A forked worker inherits the parent's ends of the pipes. While any copy is open, no worker sees the parent exit.
    for inherited in inherited_connections:
        inherited.close()
    # These signals are for the parent, which may have steps to finish with the workers' help.
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = os.getppid()
    with open(memory_path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    requests: deque[tuple[int, int, int, int]] = deque()
    try:
        while True:
            while not requests and not connection.poll(PARENT_POLL_SECONDS):
                if os.getppid() != parent:
                    return
            while connection.poll():
                message = connection.recv()
                if message is None:  # stop at once, even if requests are left
                    return
                requests.append(message)
            request_id, buffer, epoch, count = requests.popleft()
            connection.send((request_id, _build_into_buffer(builder, memory, layout, buffer, epoch, count)))
    except (EOFError, OSError):
        return


def _build_into_buffer(
    builder: BatchBuilder, memory: mmap.mmap, layout: BufferLayout, buffer: int, epoch: int, count: int
) -> WorkerReply:
    """Build a batch of `count` images whose indices are in the buffer, into the same buffer."""
    out, int64s = layout.images(memory, buffer, count), layout.int64s(memory, buffer, count)
    try:
        images, labels, bad_files = builder.build(BatchRequest(epoch, int64s.copy()), out)
    except UserError as error:
        return error
    except Exception:
        return RuntimeError(f"in a loader worker:\n{traceback.format_exc()}")
    if images.data_ptr() != out.ctypes.data:
        out[: len(images)] = images.permute(0, 2, 3, 1).numpy()
    layout.labels(memory, buffer, len(labels))[:] = labels.numpy()
    return len(images), bad_files
