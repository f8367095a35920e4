"""Options of loaders to test, and helpers that run and compare loaders."""

import multiprocessing
import os
import threading

import pytest
import torch

from cnnzoo.data.loaders.dali_loader import DaliLoader, dali_problem
from cnnzoo.data.loaders.torch_loader import TorchLoader

# With CNNZOO_TEST_DALI=1, as in .ci/run on Linux, a missing DALI fails the tests instead of skipping them.
needs_dali = pytest.mark.skipif(
    os.environ.get("CNNZOO_TEST_DALI") != "1" and dali_problem() is not None, reason="DALI is not installed"
)
LOADERS = {"torch": TorchLoader, "dali": DaliLoader}

NO_WORKERS = {"workers": 0}
WORKER_POOLS = [
    {"workers": 1, "kind": "threads"},
    {"workers": 2, "kind": "threads"},
    {"workers": 1, "kind": "processes"},
    {"workers": 2, "kind": "processes"},
    {"workers": 2, "kind": "processes", "device": torch.device("cpu")},
]
DALI = {"loader": "dali", "workers": 2}


def loader_params(options_list):
    """Pytest parameters for a list of loader options; those for DALI are skipped if it is not installed."""
    return [
        pytest.param(options, id="-".join(map(str, options.values())), marks=needs_dali if "loader" in options else ())
        for options in options_list
    ]


parametrize_pools = pytest.mark.parametrize("loader_options", loader_params([NO_WORKERS, *WORKER_POOLS, DALI]))
parametrize_loaders = pytest.mark.parametrize("loader_options", loader_params([NO_WORKERS, DALI]))


def reference_options(loader_options):
    """The options of the simplest loader whose batches have the same bytes."""
    return {**DALI, "workers": 1} if "loader" in loader_options else NO_WORKERS


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
