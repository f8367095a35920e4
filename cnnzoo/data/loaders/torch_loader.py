"""The PyTorch loader: batches from worker processes, threads, this process or a data set in the GPU's memory."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Literal

import torch

from cnnzoo.checks import check_choice, check_int, check_number
from cnnzoo.data.loaders.base import Loader
from cnnzoo.data.loaders.batch_builder import Batch, BatchBuilder, BatchRequest
from cnnzoo.data.loaders.gpu import GpuDataset
from cnnzoo.data.loaders.gpu_placement import ON_CPU, Placement, expected_placement, log_placement, place_images
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.thread_pool import ThreadPool
from cnnzoo.data.loaders.transfer import prefetch_to_device
from cnnzoo.data.loaders.workers import ProcessPool, WorkerPool
from cnnzoo.data.split import Split
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.runtime.cpu import cores_per_rank
from cnnzoo.sizes import Size, as_size

WORKER_KINDS = ("auto", "threads", "processes")
BAD_FILE_POLICIES = ("error", "skip")


class TorchLoader(Loader):
    """Batches of `split` in the order of `sampler`: uint8 (N, channels, height, width), int64 labels (N,).

    The labels of a multi-label set are multi-hot, uint8 (N, num_classes). The images are channels last in memory. Their
    bytes do not depend on the number or the kind of workers.

    workers: workers that build batches ahead; 0 builds them in the training process. "auto" is 0 for pixels in memory,
        and for files the result of `cores_per_rank(local_ranks)`. Workers start with the first batch and live until
        `close`.
    kind: "processes" or "threads"; "auto" is processes. Threads share Python's interpreter lock with the training loop,
        which slows training down.
    on_bad_file: what to do about a file that cannot be decoded. "error" raises UserError from the iteration. "skip"
        logs its name once and uses the next image of the batch instead (evaluation: leaves it out).
    device: the device that the batches are used on. For a GPU, the next batch is copied from pinned memory while one is
        used, unless the images themselves are in its memory. Otherwise batches are in ordinary memory. On the CPU,
        worker processes and training take turns, as they share the cores.
    gpu_budget: the fraction of the GPU's free memory that images may use, 0 to 1. Data sets of pixels and complete
        decoded caches that fit are copied to the GPU and transformed there, unless the augmentation is one of those
        that run on the CPU; see `GpuDataset`. 0 turns it off.
    local_ranks: how many ranks share this machine's cores.
    bits: of each value of the images: 16 gives uint16 instead of uint8.
    """

    name = "torch"
    _pool: WorkerPool | None = None
    _gpu_dataset: GpuDataset | None = None
    _placement: Placement | None = None  # None: not decided yet
    _logged_placement: Placement | None = None
    _copy_stream: torch.cuda.Stream | None = None

    def __init__(
        self,
        split: Split,
        sampler: EpochSampler,
        *,
        augment: Augment,
        train: bool,
        image_size: int | Size,
        channels: int,
        seed: int,
        workers: int | Literal["auto"] = "auto",
        kind: Literal["auto", "threads", "processes"] = "auto",
        on_bad_file: Literal["error", "skip"] = "error",
        device: torch.device | None = None,
        gpu_budget: float = 0.25,
        local_ranks: int | None = None,
        bits: int = 8,
    ) -> None:
        check_choice("loader.kind", kind, WORKER_KINDS)
        super().__init__(split, sampler, on_bad_file)
        note = "(a fraction of the GPU's free memory; 0 keeps the images in RAM)"
        self.gpu_budget = check_number("loader.gpu_budget", gpu_budget, minimum=0, maximum=1, note=note)
        self.workers = count_workers(workers, split, local_ranks)
        self.kind = "threads" if kind == "threads" else "processes"
        self.device = device if device is not None and device.type == "cuda" else None
        self._alternate = device is not None and device.type == "cpu"
        self._builder = BatchBuilder(split, augment, train, as_size(image_size), channels, seed, bits)

    def describe(self) -> str:
        if self._gpu_dataset is not None:
            return f"torch, images {self._gpu_dataset.describe()}"
        workers = "in the training process"
        if self.workers:
            noun = self.kind if self.workers > 1 else {"threads": "thread", "processes": "process"}[self.kind]
            workers = f"{self.workers} {noun}"
        if self.device is not None and self._placement is None:
            workers = expected_placement(self._builder, self.device, self.gpu_budget, otherwise=workers)
        return f"torch, {workers}"

    @property
    def images_on_gpu(self) -> bool:
        """Whether the images are in the GPU's memory and batches are made there."""
        return self._gpu_dataset is not None

    @property
    def image_size(self) -> Size:
        return self._builder.image_size

    def set_image_size(self, image_size: Size) -> None:
        dataset = self._gpu_dataset
        self.close()
        self._builder = replace(self._builder, image_size=image_size)
        if dataset is not None:  # the images stay on the GPU, and `place_images` checks whether they can have this size
            dataset.builder, self._gpu_dataset = self._builder, dataset

    def place_images(self, agree: Callable[[Placement], Placement] | None = None) -> None:
        """Decide whether the images are kept in the GPU's memory, copy them there and log it; with a CPU, do nothing.

        Without this call, the first batch does it. It lasts until `close`. With several ranks, `agree` is called with
        the placement of this rank and returns the smallest one of all ranks, which all of them use.
        """
        if self.device is None or (self._placement is not None and agree is None):
            return
        dataset, placement = self._gpu_dataset, self._placement
        if placement is None:
            dataset, placement = place_images(self._builder, self.device, self.gpu_budget, dataset)
        placement = placement if agree is None else agree(placement)
        if placement == self._placement:
            return
        self._discard_ahead()
        self._placement = placement
        self._gpu_dataset = dataset if placement.level > ON_CPU else None
        if self._gpu_dataset is not None:
            self._gpu_dataset.level = placement.level
        if self.sampler.rank == 0 and placement != self._logged_placement:
            self._logged_placement = placement
            images = "training images" if self._builder.train else "images for evaluation"
            log_placement(images, self._gpu_dataset, placement)

    def close(self) -> None:
        """Stop the workers and free the GPU's memory. The next iteration starts new workers."""
        self._discard_ahead()
        pool, self._pool = self._pool, None
        self._gpu_dataset = self._placement = None
        if pool is not None:
            pool.close()

    def _iter_batches(self, requests: Iterable[BatchRequest]) -> Iterator[Batch]:
        self.place_images()
        if self._gpu_dataset is not None:
            return self._gpu_dataset.build_batches(requests)
        if self.device is None:
            return self._build_batches(requests)
        self._copy_stream = self._copy_stream or torch.cuda.Stream(self.device)
        return prefetch_to_device(self._build_batches(requests), self.device, self._copy_stream)

    def _build_batches(self, requests: Iterable[BatchRequest]) -> Iterator[Batch]:
        if not self.workers:
            return self._builder.build_batches(requests)
        if self._pool is None and self.kind == "threads":
            self._pool = ThreadPool(self._builder, self.workers)
        elif self._pool is None:
            self._pool = ProcessPool(self._builder, self.workers, self.sampler.batch_size, alternate=self._alternate)
        return self._pool.build_batches(requests)


def count_workers(workers: int | str, split: Split, local_ranks: int | None = None) -> int:
    """Return `loader.workers` as a number. Raises UserError unless it is "auto" or an integer >= 0."""
    if workers == "auto":
        return cores_per_rank(local_ranks) if split.has_files else 0
    return check_int("loader.workers", workers, minimum=0, note="or auto")
