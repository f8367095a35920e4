"""Copying batches to a GPU. Most tests use the CPU as the device; those marked `needs_gpu` use a GPU."""

import threading

import pytest
import torch

from cnnzoo.data.loaders import transfer
from cnnzoo.data.loaders.batch_builder import Batch, BatchBuilder
from cnnzoo.data.loaders.transfer import pinned_copy, prefetch_to_device
from cnnzoo.data.loaders.wait_timer import GpuWaitTimer
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

    iterator = prefetch_to_device(batches(), CPU, torch.cuda.Stream(CPU))
    next(iterator)
    assert second.wait(10)
    assert requested == [0, 1]
    assert len(list(iterator)) == 3


@pytest.mark.parametrize("shape", [(4, 3, 6, 5), (4, 1, 6, 5), (0, 3, 6, 5)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_pinned_copy_keeps_memory_format(fake_cuda, shape, dtype):
    images = torch.randint(0, 256, shape, dtype=torch.int32).to(dtype).contiguous(memory_format=torch.channels_last)
    pinned = pinned_copy(images)
    assert torch.equal(pinned, images)
    assert pinned.stride() == images.stride()
    assert pinned.data_ptr() != images.data_ptr() or not len(images)


def test_buffer_is_free_only_after_its_pinned_copy(fake_cuda, make_loader, files, monkeypatch):
    """The worker that gets the buffer next may write to it at once."""
    loader, checked = make_loader(files, workers=2, kind="processes"), []
    loader.device = CPU

    def check(tensor):
        pinned = pinned_copy(tensor)
        if tensor.dtype == torch.uint8:
            memory = torch.frombuffer(loader._pool._memory.view, dtype=torch.uint8)
            checked.append((tensor.data_ptr() - memory.data_ptr()) // loader._pool.layout.buffer_bytes)
            assert checked[-1] not in loader._pool._free_buffers
        return pinned

    monkeypatch.setattr(transfer, "pinned_copy", check)
    for epoch in range(3):
        load_epoch(loader, epoch)
    assert len(checked) >= 3 * len(loader)
    assert set(checked) <= set(range(loader._pool.layout.num_buffers))


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


@needs_gpu
@pytest.mark.parametrize("options", [{"workers": 0}, {"workers": 2, "kind": "processes"}])
def test_torch_loader_on_gpu_never_waits_for_it(make_loader, files, options):
    loader = make_loader(files, device=torch.device("cuda"), **options)
    load_epoch(loader)  # compiles and allocates
    torch.cuda.set_sync_debug_mode("error")
    try:
        for epoch in range(1, 4):
            assert len(load_epoch(loader, epoch)) == len(loader)
            assert loader.wait_seconds >= 0
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_gpu_wait_timer_leaves_out_busy_time_of_gpu():
    timer = GpuWaitTimer(torch.device("cuda"))
    torch.cuda._sleep(10**9)  # cycles, about half a second
    timer.start()
    timer.stop()
    assert timer.seconds == 0  # the GPU is not there yet
    torch.cuda.synchronize()
    assert 0 < timer.seconds < 0.1
