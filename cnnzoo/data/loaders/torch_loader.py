"""The loader on PyTorch: small sets gathered a batch at a time in this process, files by threads or processes."""

from collections.abc import Generator, Iterator
from typing import Literal

import torch

from cnnzoo.data.loaders.base import MAX_AUTO_WORKERS, BatchRequests, Loader
from cnnzoo.data.loaders.batch_builder import Batch, BatchBuilder
from cnnzoo.data.loaders.gpu import GpuDataset, fits_on_gpu, prefetch_to_device
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.workers import ProcessPool, ThreadPool, WorkerPool
from cnnzoo.data.split import Split
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.errors import UserError
from cnnzoo.runtime.cpu import usable_cores

WORKER_KINDS = ("auto", "threads", "processes")
BAD_FILE_POLICIES = ("error", "skip")


class TorchLoader(Loader):
    """Batches of `split` in `order`: uint8 (N, channels, image_size, image_size), and int64 labels (N,).

    The images are channels last in memory, the same bytes with any number of workers of either kind.

    workers: who makes batches ahead, 0 for nobody; "auto" is 0 for pixels in memory and one per usable core, at most 8,
        for files. They start with the first batch and live until `close`.
    kind: "processes", or "threads" of this process, which take turns with the training loop at running Python, and slow
        it down; "auto" is processes.
    on_bad_file: "error" raises UserError, from the iteration, for a file that cannot be decoded; "skip" names it once
        in the log and goes on with the next image of the batch (evaluation: without it).
    device: where batches are used. To a GPU they are brought one ahead, from pinned memory; a set of pixels for which
        there is room lies there, and is gathered, cropped and flipped there. Elsewhere they lie in ordinary memory. On
        the CPU, whose cores training wants for itself, worker processes and training take turns.
    """

    _pool: WorkerPool | None = None
    _gpu_dataset: GpuDataset | None = None
    _prefetching: Generator[Batch, None, None] | None = None

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
        if kind not in WORKER_KINDS:
            raise UserError(f"loader.kind={kind}: it can be {', '.join(WORKER_KINDS)}")
        super().__init__(split, sampler, on_bad_file)
        self.workers = count_workers(workers, split)
        self.kind = "threads" if kind == "threads" else "processes"
        self.device = device if device is not None and device.type == "cuda" else None
        self._alternate = device is not None and device.type == "cpu"
        self._batches = BatchBuilder(split, augment, train, image_size, channels, seed)

    def close(self) -> None:
        """End the workers. The next iteration starts new ones."""
        self._stop_prefetch()
        crew, self._pool, self._gpu_dataset = self._pool, None, None
        if crew is not None:
            crew.close()

    def _made(self) -> Iterator[Batch]:
        keys = BatchRequests(self.sampler)
        if self.device is not None and self._gpu_dataset is None and fits_on_gpu(self._batches, self.device):
            self._gpu_dataset = GpuDataset(self._batches, self.device)
        if self._gpu_dataset is not None:
            return self._gpu_dataset.build(keys)
        if self.device is None:
            return self._build_in_pool(keys)
        self._stop_prefetch()
        self._prefetching = prefetch_to_device(self._build_in_pool(keys), self.device)
        return self._prefetching

    def _stop_prefetch(self) -> None:
        """Let an iteration that was broken off end with its thread, before another one uses the crew."""
        moving, self._prefetching = self._prefetching, None
        if moving is not None:
            moving.close()

    def _build_in_pool(self, keys: BatchRequests) -> Iterator[Batch]:
        if not self.workers:
            return map(self._batches.build, keys)
        if self._pool is None and self.kind == "threads":
            self._pool = ThreadPool(self._batches, self.workers)
        elif self._pool is None:
            self._pool = ProcessPool(self._batches, self.workers, self.sampler.batch_size, alternate=self._alternate)
        return self._pool.build(keys)


def count_workers(workers: int | str, split: Split) -> int:
    """`loader.workers` as a number. Raises UserError for what is none."""
    if workers == "auto":
        return 0 if split.paths is None else min(MAX_AUTO_WORKERS, usable_cores())
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise UserError(f"loader.workers={workers}: it can be auto, or a number from 0")
    return workers
