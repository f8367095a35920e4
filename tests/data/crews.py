"""Who makes a loader's batches, and what the tests of it do with them."""

import multiprocessing
import threading

import pytest
import torch

NOBODY = {"workers": 0}
CREWS = [
    {"workers": 1, "kind": "threads"},
    {"workers": 2, "kind": "threads"},
    {"workers": 1, "kind": "processes"},
    {"workers": 2, "kind": "processes"},
]
every_crew = pytest.mark.parametrize("crew", [NOBODY, *CREWS], ids=lambda crew: "-".join(map(str, crew.values())))


def threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("cnnzoo-loader")}


def workers():
    return [*multiprocessing.active_children(), *threads()]


def ended(found):
    """Wait for workers that were told to end; a thread first ends the batch that it is at."""
    for worker in found:
        worker.join(10)
        assert not worker.is_alive()


def epoch_of(loader, epoch=0):
    loader.sampler.set_epoch(epoch)
    batches = [(images.clone(), labels) for images, labels in loader]
    assert len(batches) == len(loader)
    return batches


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(first, second, strict=True)
    )
