"""The PyTorch loader: batches from worker processes, threads, this process or, for small sets, the GPU's memory."""

from collections.abc import Generator, Iterator
from typing import Literal

import torch

from cnnzoo.checks import check_choice, check_int
from cnnzoo.data.loaders.base import MAX_AUTO_WORKERS, BatchRequests, Loader
from cnnzoo.data.loaders.batch_builder import Batch, BatchBuilder
from cnnzoo.data.loaders.gpu import GpuDataset, fits_on_gpu
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.transfer import prefetch_to_device
from cnnzoo.data.loaders.workers import ProcessPool, ThreadPool, WorkerPool
from cnnzoo.data.split import Split
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.runtime.cpu import usable_cores

WORKER_KINDS = ("auto", "threads", "processes")
BAD_FILE_POLICIES = ("error", "skip")


class TorchLoader(Loader):
    """Batches of `split` in the order of `sampler`: uint8 (N, channels, image_size, image_size), int64 labels (N,).

    The images are channels last in memory. Their bytes do not depend on the number or the kind of workers.

    workers: workers that build batches ahead; 0 builds them in the training process. "auto" is 0 for pixels in memory
        and one per usable core, at most 8, for files. Workers start with the first batch and live until `close`.
    kind: "processes" or "threads"; "auto" is processes. Threads share Python's interpreter lock with the training loop,
        which slows training down.
    on_bad_file: what to do about a file that cannot be decoded. "error" raises UserError from the iteration. "skip"
        logs its name once and uses the next image of the batch instead (evaluation: leaves it out).
    device: the device that the batches are used on. For a GPU, the next batch is copied from pinned memory while one is
        used, and a set of pixels that fits stays in the GPU's memory and is cropped and flipped there. Otherwise
        batches are in ordinary memory. On the CPU, worker processes and training take turns, as they share the cores.
    """

    name = "torch"
    _pool: WorkerPool | None = None
    _gpu_dataset: GpuDataset | None = None
    _prefetcher: Generator[Batch, None, None] | None = None

    def __init__(
        self,
        split: Split,
        sampler: EpochSampler,
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
        check_choice("loader.kind", kind, WORKER_KINDS)
        super().__init__(split, sampler, on_bad_file)
        self.workers = count_workers(workers, split)
        self.kind = "threads" if kind == "threads" else "processes"
        self.device = device if device is not None and device.type == "cuda" else None
        self._alternate = device is not None and device.type == "cpu"
        self._builder = BatchBuilder(split, augment, train, image_size, channels, seed)

    def describe(self) -> str:
        if not self.workers:
            return "torch, in the training process"
        noun = self.kind if self.workers > 1 else {"threads": "thread", "processes": "process"}[self.kind]
        return f"torch, {self.workers} {noun}"

    def close(self) -> None:
        """Stop the workers and free the GPU's memory. The next iteration starts new workers."""
        self._stop_prefetch()
        pool, self._pool, self._gpu_dataset = self._pool, None, None
        if pool is not None:
            pool.close()

    def _iter_batches(self) -> Iterator[Batch]:
        requests = BatchRequests(self.sampler)
        if self.device is not None and self._gpu_dataset is None and fits_on_gpu(self._builder, self.device):
            self._gpu_dataset = GpuDataset(self._builder, self.device)
        if self._gpu_dataset is not None:
            return self._gpu_dataset.build_batches(requests)
        if self.device is None:
            return self._build_batches(requests)
        self._stop_prefetch()
        self._prefetcher = prefetch_to_device(self._build_batches(requests), self.device)
        return self._prefetcher

    def _stop_prefetch(self) -> None:
        """Stop the prefetch thread of an unfinished iteration, before another iteration uses the same workers."""
        prefetcher, self._prefetcher = self._prefetcher, None
        if prefetcher is not None:
            prefetcher.close()

    def _build_batches(self, requests: BatchRequests) -> Iterator[Batch]:
        if not self.workers:
            return map(self._builder.build, requests)
        if self._pool is None and self.kind == "threads":
            self._pool = ThreadPool(self._builder, self.workers)
        elif self._pool is None:
            self._pool = ProcessPool(self._builder, self.workers, self.sampler.batch_size, alternate=self._alternate)
        return self._pool.build_batches(requests)


def count_workers(workers: int | str, split: Split) -> int:
    """Return `loader.workers` as a number. Raises UserError unless it is "auto" or an integer >= 0."""
    if workers == "auto":
        return 0 if split.paths is None else min(MAX_AUTO_WORKERS, usable_cores())
    return check_int("loader.workers", workers, minimum=0, note="or auto")
