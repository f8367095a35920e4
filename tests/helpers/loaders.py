"""Who makes a loader's batches, and what the tests of it do with them."""

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


def params(crews):
    return [
        pytest.param(crew, id="-".join(map(str, crew.values())), marks=needs_dali if "loader" in crew else ())
        for crew in crews
    ]


each_pool = pytest.mark.parametrize("crew", params([NO_WORKERS, *WORKER_POOLS, DALI]))
each_loader = pytest.mark.parametrize("crew", params([NO_WORKERS, DALI]))


def reference_loader(crew):
    """The least that makes the same bytes as `crew`."""
    return {**DALI, "workers": 1} if "loader" in crew else NO_WORKERS


def loader_threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("cnnzoo-loader")}


def live_workers():
    return [*multiprocessing.active_children(), *loader_threads()]


def wait_for_end(found):
    """Wait for workers that were told to end; a thread first ends the batch that it is at."""
    for worker in found:
        worker.join(10)
        assert not worker.is_alive()


def load_epoch(loader, epoch=0):
    loader.sampler.set_epoch(epoch)
    batches = [(images.clone(), labels) for images, labels in loader]
    assert len(batches) == len(loader)
    return batches


def equal_batches(first, second):
    return len(first) == len(second) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(first, second, strict=True)
    )


def similar_batches(first, second):
    """The same labels, and images that differ by less than a mean of 1 of 255 each."""
    return len(first) == len(second) and all(
        torch.equal(y, v) and (x.float() - u.float()).abs().mean((1, 2, 3)).max() < 1
        for (x, y), (u, v) in zip(first, second, strict=True)
    )
