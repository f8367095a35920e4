"""Checks of what produces batches on a GPU: the kernel and DALI against the CPU path, and the times of the kernel."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnzoo.benchmark.gpu_report import CheckError, Report, SkippedError
from cnnzoo.benchmark.measure import synchronize
from cnnzoo.data.loaders.batch_builder import SAMPLED_IMAGES, BatchBuilder, BatchRequest
from cnnzoo.data.loaders.dali_loader import DaliLoader, dali_problem
from cnnzoo.data.loaders.gpu import BY_KERNEL, MAX_DIFFERENCE, MAX_MEAN_DIFFERENCE, GpuDataset
from cnnzoo.data.loaders.gpu_table import build_table
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.split import Split
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.sizes import as_size

MEAN = (0.485, 0.456, 0.406)
VARIANTS: dict[str, tuple[Augment, bool]] = {
    "random_resized": (Augment(crop="random_resized", flip=0.5), True),
    "padded": (Augment(crop="padded", flip=0.5), True),
    "center": (Augment(crop="center"), True),
    "erased": (Augment(crop="random_resized", flip=0.5, random_erase=0.5, mean=MEAN), True),
    "evaluation": (Augment(crop="random_resized"), False),
}
"""The augmentations to check, and whether they are those of training."""
DALI_MEAN_BAR = 1
"""Mean difference of an image, whose values are from 0 to 255."""
DALI_EPOCHS, STOPPED_EPOCH, STOPPED_AFTER = 3, 1, 2
"""DALI's epochs, and the one of them that is stopped early, after so many batches."""
HOST_BAR = 150
"""Microseconds of the host for the random parameters and the table of a batch of `HOST_BATCH` images."""
HOST_BATCH, HOST_SIDE = 128, 224
HOST_BATCHES = SAMPLED_IMAGES // HOST_BATCH
"""Batches that are sampled together."""
HOST_REPETITIONS, KERNEL_REPETITIONS = 30, 100
FASTEST_NETWORK = "alexnet"
KERNEL_TIME_BAR = 0.02
"""The time of the kernel, relative to a step of that network."""
KERNEL_MICROSECONDS_BAR = 250
"""Used if that step was not measured: what an H100 was estimated to need."""
SEED = 0


def check_host_time(report: Report) -> None:
    """Time what the host does for the kernel: sample the parameters and build the table. It needs no GPU."""
    rng = np.random.default_rng(SEED)
    count = HOST_BATCH * HOST_BATCHES
    sizes = np.stack([rng.integers(256, 400, count), rng.integers(256, 400, count)], 1)
    starts = np.concatenate([[0], np.cumsum(3 * sizes.prod(axis=1))])
    indices, labels = rng.permutation(count), rng.integers(0, 1000, count)
    for name in ("random_resized", "erased"):
        augment, _ = VARIANTS[name]
        seconds = []
        for epoch in range(HOST_REPETITIONS):
            start = time.perf_counter()
            params = augment.sample(SEED, epoch, indices, sizes, HOST_SIDE)
            build_table(params, starts[:-1], sizes, 3, labels, int(starts[-1]))
            seconds.append((time.perf_counter() - start) / HOST_BATCHES)
        report.judge(
            f"host, parameters of {HOST_BATCH} images, {name}",
            1e6 * min(seconds),  # the machine may do other things meanwhile
            "us",
            "<",
            HOST_BAR,
            median_us=1e6 * median(seconds),
        )


class GpuDatasetLoader(TorchLoader):
    """The torch loader with its images in the GPU's memory; it raises instead of using the CPU if that fails.

    On a CPU, Triton's interpreter stands in for the GPU.
    """

    works_ahead = True

    def place_images(self, agree: Any = None) -> None:
        if self.device is None:
            self._gpu_dataset = self._gpu_dataset or GpuDataset(self._builder, torch.device("cpu"))
            return
        super().place_images(agree)
        if self._gpu_dataset is None or self._gpu_dataset.level != BY_KERNEL:
            raise CheckError(f"the images are not transformed by the kernel: {self._placement}")


class RecordingDataset(GpuDataset):
    """Records the arguments of each call of `transform` instead of transforming images."""

    def __init__(self, builder: BatchBuilder, device: torch.device) -> None:
        super().__init__(builder, device)
        self.calls: list[tuple[Tensor, Tensor, Sequence[int]]] = []

    def transform(self, table: Tensor, images: Tensor, erase_fill: Sequence[int]) -> None:
        self.calls.append((table, images, erase_fill))


def require_kernel(device: torch.device) -> None:
    """Raise `SkippedError` if the kernel cannot be used."""
    from cnnzoo.data.loaders.gpu_kernel import kernel_problem  # here: it imports Triton, which takes 0.3 s

    problem = kernel_problem(device)
    if problem is not None:
        raise SkippedError(problem)


def check_kernel(report: Report, split: Split, device: torch.device, image_size: int, batch_size: int) -> None:
    """Compare the kernel's images with those of the CPU path, for each augmentation.

    split: with a decoded cache.
    """
    require_kernel(device)
    for name, (augment, train) in VARIANTS.items():
        with report.checking(f"kernel, {name}"):
            builder = BatchBuilder(split, augment, train, as_size(image_size), 3, SEED)
            requests = _requests(len(split), batch_size)
            largest = mean = 0.0
            for request, batch in zip(requests, GpuDataset(builder, device).build_batches(requests), strict=True):
                expected = builder.build(request)
                if not torch.equal(batch.labels.cpu(), expected.labels):
                    raise CheckError("the labels differ from those of the CPU path")
                difference = (batch.images.cpu().float() - expected.images.float()).abs()
                largest = max(largest, float(difference.max()))
                mean = max(mean, float(difference.mean((1, 2, 3)).max()))
            report.judge(f"kernel, {name}: largest difference", largest, "of 255", "<=", MAX_DIFFERENCE)
            report.judge(f"kernel, {name}: mean difference", mean, "of 255", "<=", MAX_MEAN_DIFFERENCE)


def measure_kernel(
    split: Split, device: torch.device, image_size: int, batch_size: int, *, repetitions: int = KERNEL_REPETITIONS
) -> float:
    """Seconds of the kernel for one batch of random-resized crops with flips, whose table is on the device."""
    require_kernel(device)
    dataset = RecordingDataset(BatchBuilder(split, *VARIANTS["random_resized"], as_size(image_size), 3, SEED), device)
    for _ in dataset.build_batches(_requests(len(split), batch_size)):
        pass

    def run(count: int) -> float:
        synchronize(device)
        start = time.perf_counter()
        for number in range(count):
            GpuDataset.transform(dataset, *dataset.calls[number % len(dataset.calls)])
        synchronize(device)
        return (time.perf_counter() - start) / count

    run(1)  # compiles the kernel
    return run(repetitions)


def report_kernel_time(report: Report, seconds: float, step_seconds: float | None, *, has_bar: bool) -> None:
    """Compare the time of the kernel with a step of the fastest network, `step_seconds` if it was measured."""
    if not has_bar:
        report.measure("kernel: time per batch", 1e6 * seconds, "us")
    elif step_seconds is None:
        report.judge("kernel: time per batch", 1e6 * seconds, "us", "<", KERNEL_MICROSECONDS_BAR)
    else:
        note = f"{1e6 * seconds:.0f} us of {1e3 * step_seconds:.2f} ms"
        percent = 100 * seconds / step_seconds
        check = f"kernel: time / step of {FASTEST_NETWORK}"
        report.judge(check, percent, "%", "<", 100 * KERNEL_TIME_BAR, note=note, microseconds=1e6 * seconds)


def require_dali(device: torch.device) -> None:
    """Raise `SkippedError` if DALI cannot be used."""
    problem = dali_problem(torch.version.cuda if device.type == "cuda" else None)
    if problem is not None:
        raise SkippedError(problem)


def check_dali(report: Report, split: Split, device: torch.device, image_size: int, batch_size: int) -> None:
    """Compare DALI's batches with the torch loader's over several epochs, one of which is stopped early."""
    require_dali(device)
    place = "GPU" if device.type == "cuda" else "CPU"
    num_rebuilds = 0
    for name, (augment, train) in VARIANTS.items():
        with report.checking(f"DALI on the {place}, {name}"):
            loaders: list[Any] = [
                make_loader(loader, split, batch_size, augment=augment, train=train, image_size=image_size)
                for loader in (partial(DaliLoader, device=device), TorchLoader)
            ]
            try:
                mean = max(_mean_differences(*loaders))
                num_rebuilds += loaders[0].num_rebuilds
            finally:
                for loader in loaders:
                    loader.close()
            check = f"DALI on the {place}, {name}: mean difference"
            report.judge(check, mean, "of 255", "<", DALI_MEAN_BAR)
    report.judge(f"DALI on the {place}: pipelines built again", num_rebuilds, "", "<=", 0)


def _mean_differences(loader: Any, reference: Any) -> Iterator[float]:
    """For each batch of several epochs, the largest mean difference of an image; raises if labels differ."""
    for epoch in range(DALI_EPOCHS):
        for each in (loader, reference):
            each.set_epoch(epoch)
        pairs = zip(loader, reference, strict=epoch != STOPPED_EPOCH)
        for (images, labels), (expected, expected_labels) in islice(
            pairs, STOPPED_AFTER if epoch == STOPPED_EPOCH else None
        ):
            if not torch.equal(labels.cpu(), expected_labels):
                raise CheckError(f"the labels of epoch {epoch} differ from the torch loader's")
            yield float((images.cpu().float() - expected.float()).abs().mean((1, 2, 3)).max())


def make_loader(
    loader: Callable[..., Any], split: Split, batch_size: int, *, frozen: bool = False, **options: Any
) -> Any:
    """A loader of `split` in a shuffled order, with 3 channels.

    frozen: every epoch has the same images with the same augmentation.
    """
    sampler = EpochSampler(len(split), batch_size, seed=SEED, train=options["train"], frozen=frozen)
    return loader(split, sampler, channels=3, seed=SEED, **options)


def first_images(split: Split, count: int) -> Split:
    """The first images of a split of files, without its store."""
    assert split.paths is not None
    return replace(split, labels=split.labels[:count], paths=split.paths[:count], store=None)


def _requests(size: int, batch_size: int) -> list[BatchRequest]:
    """All images in shuffled batches of the same size."""
    sampler = EpochSampler(size, batch_size, seed=SEED, train=True)
    return [BatchRequest(0, indices) for indices in sampler]
