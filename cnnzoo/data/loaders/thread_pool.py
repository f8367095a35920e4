"""A pool of threads that build batches, or what a loader needs for them, ahead of training."""

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import Generic, Protocol, TypeVar

import torch

from cnnzoo.data.loaders.batch_builder import BatchRequest
from cnnzoo.data.loaders.workers import PREFETCH_FACTOR

T = TypeVar("T", covariant=True)


class Builder(Protocol[T]):
    """An object that builds one batch, or what a loader needs for one, from a request."""

    def build(self, request: BatchRequest) -> T: ...


class ThreadPool(Generic[T]):
    """Threads of this process. They start at once and share all memory, but only one at a time runs Python code."""

    def __init__(self, builder: Builder[T], workers: int) -> None:
        self.builder, self.max_pending = builder, workers * PREFETCH_FACTOR
        self.executor = ThreadPoolExecutor(workers, thread_name_prefix="cnnzoo-loader")
        num_threads, barrier = torch.get_num_threads(), Barrier(workers + 1)

        def use_one_torch_thread() -> None:  # the other cores are for the other workers
            barrier.wait()
            torch.set_num_threads(1)
            barrier.wait()

        for _ in range(workers):
            self.executor.submit(use_one_torch_thread)
        barrier.wait()
        barrier.wait()
        torch.set_num_threads(num_threads)  # restores the value that threads started later inherit

    def build_batches(self, requests: Iterable[BatchRequest]) -> Iterator[T]:
        pending: deque[Future[T]] = deque()
        try:
            for request in requests:
                pending.append(self.executor.submit(self.builder.build, request))
                if len(pending) > self.max_pending:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # the iteration may have been stopped early
            for future in pending:
                future.cancel()

    def close(self) -> None:
        if not sys.is_finalizing():  # by then the interpreter has joined the threads, and their modules are gone
            self.executor.shutdown(wait=False, cancel_futures=True)
