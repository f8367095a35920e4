"""Options of loaders to test, and helpers that run and compare loaders."""

import multiprocessing
import os
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from cnnzoo.data.cache.cache import Cache
from cnnzoo.data.loaders.dali_loader import DaliLoader, dali_problem
from cnnzoo.data.loaders.gpu import GpuDataset
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.transforms.geometry import resize

# With CNNZOO_TEST_DALI=1, as in .ci/run on Linux, a missing DALI fails the tests instead of skipping them.
needs_dali = pytest.mark.skipif(
    os.environ.get("CNNZOO_TEST_DALI") != "1" and dali_problem() is not None, reason="DALI is not installed"
)
CPU = torch.device("cpu")


def decoded(split, channels=3):
    """The split with a decoded cache, or itself if it has pixels."""
    if split.paths is None:
        return split
    return replace(split, store=Cache("decoded").fill({"": split}, channels=channels, on_bad_file="error")[""])


def transform_on_cpu(source, table, out, erase_fill):
    """Do the work of `gpu_kernel.transform` on the CPU. Triton's interpreter would take 0.1 s for each image."""
    _, out_height, out_width, channels = out.shape
    for row, image in zip(table.tolist(), out.numpy(), strict=True):
        start, row_bytes, height, width, *resized_size, top, left = row[:8]
        flip, vertical_flip, transpose, erase_top, erase_left, erase_height, erase_width, _ = row[8:]
        box = np.lib.stride_tricks.as_strided(
            source.numpy()[start:], (height, width, channels), (row_bytes, channels, 1)
        )
        resized = resize(np.ascontiguousarray(box)[None], *resized_size)[0]
        y, x = top + np.arange(out_height), left + np.arange(out_width)
        inside = ((y >= 0) & (y < resized_size[0]))[:, None] & ((x >= 0) & (x < resized_size[1]))
        image[...] = resized.take(y, 0, mode="clip").take(x, 1, mode="clip") * inside[..., None]
        if flip:
            image[...] = image[:, ::-1].copy()
        if vertical_flip:
            image[...] = image[::-1].copy()
        if transpose:
            image[...] = image.transpose(1, 0, 2).copy()
        image[erase_top : erase_top + erase_height, erase_left : erase_left + erase_width] = erase_fill


class CpuGpuDataset(GpuDataset):
    """A data set in the memory of a GPU that the CPU stands in for, with `transform_on_cpu` instead of the kernel."""

    def transform(self, table, images, erase_fill):
        transform_on_cpu(self.source, table, images, erase_fill)


class GpuDatasetLoader(TorchLoader):
    """The torch loader with its images in the GPU's memory; those of files are decoded first."""

    works_ahead = True

    def __init__(self, split, sampler, *, channels, workers=0, **options):
        super().__init__(decoded(split, channels), sampler, channels=channels, workers=workers, **options)

    def place_images(self, agree=None):
        self._gpu_dataset = self._gpu_dataset or CpuGpuDataset(self._builder, CPU)


LOADERS = {"torch": TorchLoader, "dali": DaliLoader, "gpu": GpuDatasetLoader}

NO_WORKERS = {"workers": 0}
WORKER_POOLS = [
    {"workers": 1, "kind": "threads"},
    {"workers": 2, "kind": "threads"},
    {"workers": 1, "kind": "processes"},
    {"workers": 2, "kind": "processes"},
    {"workers": 2, "kind": "processes", "device": torch.device("cpu")},
    {"workers": 2, "kind": "processes", "works_ahead": True},
]
DALI = {"loader": "dali", "workers": 2}
GPU_DATASET = {"loader": "gpu"}


def loader_params(options_list):
    """Pytest parameters for a list of loader options; those for DALI are skipped if it is not installed."""
    return [
        pytest.param(
            options,
            id="-".join(map(str, options.values())),
            marks=needs_dali if options.get("loader") == "dali" else (),
        )
        for options in options_list
    ]


FILE_POOLS, FILE_LOADERS = [NO_WORKERS, *WORKER_POOLS, DALI], [NO_WORKERS, DALI]  # those that read files
parametrize_pools = pytest.mark.parametrize("loader_options", loader_params([*FILE_POOLS, GPU_DATASET]))
parametrize_loaders = pytest.mark.parametrize("loader_options", loader_params([*FILE_LOADERS, GPU_DATASET]))
parametrize_file_pools = pytest.mark.parametrize("loader_options", loader_params(FILE_POOLS))
parametrize_file_loaders = pytest.mark.parametrize("loader_options", loader_params(FILE_LOADERS))


def reference_options(loader_options):
    """The options of the simplest loader whose batches have the same bytes."""
    return {"dali": {**DALI, "workers": 1}, "gpu": GPU_DATASET}.get(loader_options.get("loader"), NO_WORKERS)


def loader_threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("cnnzoo-loader")}


def live_workers():
    return [*multiprocessing.active_children(), *loader_threads()]


def join_workers(workers):
    """Wait for workers that were asked to stop; a thread finishes its current batch first."""
    for worker in workers:
        worker.join(10)
        assert not worker.is_alive()


def load_epoch(loader, epoch=0):
    """All batches of an epoch; the images are copies."""
    loader.sampler.set_epoch(epoch)
    batches = [(images.clone(), labels) for images, labels in loader]
    assert len(batches) == len(loader)
    return batches


def equal_batches(first, second):
    return len(first) == len(second) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(first, second, strict=True)
    )


def similar_batches(first, second):
    """Whether the labels are equal and each image's mean absolute difference is below 1 of 255."""
    return len(first) == len(second) and all(
        torch.equal(y, v) and (x.float() - u.float()).abs().mean((1, 2, 3)).max() < 1
        for (x, y), (u, v) in zip(first, second, strict=True)
    )
