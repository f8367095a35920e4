"""Copying batches to a GPU. Most tests use the CPU as the device; those marked `needs_gpu` use a GPU."""

import threading

import pytest
import torch

from cnnzoo.data.loaders.batch_builder import Batch, BatchBuilder
from cnnzoo.data.loaders.transfer import prefetch_to_device
from tests.helpers.loaders import NO_WORKERS, WORKER_POOLS, equal_batches, join_workers, load_epoch, loader_threads

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def prefetch_threads():
    return [thread for thread in loader_threads() if "device" in thread.name]


@pytest.mark.parametrize("loader_options", [NO_WORKERS, *WORKER_POOLS])
def test_prefetch_gives_equal_batches_and_ends_threads(fake_cuda, make_loader, files, loader_options):
    """Whole epochs and epochs after unfinished iterations are equal, and each prefetch thread ends."""
    loader = make_loader(files, **loader_options)
    loader.device = CPU
    expected = [load_epoch(make_loader(files, workers=0), epoch) for epoch in range(3)]
    iterators = []
    for epoch in range(3):
        assert equal_batches(load_epoch(loader, epoch), expected[epoch])
        iterators.append(iter(loader))
        next(iterators[-1])  # unfinished, but still referenced
        (thread,) = prefetch_threads()
        iterators.append(iter(loader))
        next(iterators[-1])
        assert not thread.is_alive()  # it must not use the workers any more
    assert equal_batches(load_epoch(loader, 0), expected[0])
    next(iter(loader))
    loader.close()
    join_workers(prefetch_threads())


def test_prefetch_requests_one_batch_ahead(fake_cuda):
    """When a batch is yielded, exactly one more has been requested."""
    requested, second = [], threading.Event()

    def batches():
        for number in range(4):
            requested.append(number)
            if number == 1:
                second.set()
            yield Batch(torch.zeros(1), torch.zeros(1), [])

    iterator = prefetch_to_device(batches(), CPU)
    next(iterator)
    assert second.wait(10)
    assert requested == [0, 1]
    assert len(list(iterator)) == 3


def test_prefetch_raises_errors_of_its_thread(fake_cuda, make_loader, files, monkeypatch):
    monkeypatch.setattr(BatchBuilder, "build", lambda *_: 1 // 0)
    loader = make_loader(files, workers=0)
    loader.device = CPU
    with pytest.raises(ZeroDivisionError):
        next(iter(loader))


@needs_gpu
@pytest.mark.parametrize("options", [{"workers": 0}, {"workers": 2}, {"workers": 2, "kind": "processes"}])
def test_torch_loader_on_gpu_gives_equal_batches(make_loader, files, options):
    expected = [load_epoch(make_loader(files, workers=0), epoch) for epoch in range(5)]
    loader = make_loader(files, device=torch.device("cuda"), **options)
    for epoch in range(3):
        batches = [(images, labels) for images, labels in loader]
        assert all(images.is_cuda and labels.is_cuda for images, labels in batches)
        assert equal_batches([(images.cpu(), labels.cpu()) for images, labels in batches], expected[epoch])
    next(iter(loader))  # left unfinished
    assert equal_batches([(images.cpu(), labels.cpu()) for images, labels in loader], expected[4])
