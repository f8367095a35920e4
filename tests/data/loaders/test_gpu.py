"""Sets that lie on the device, tested on the CPU as if it were one; and the way to a GPU, where there is one."""

import contextlib
import threading

import numpy as np
import pytest
import torch

from cnnzoo.data.datasets.builtin import Synthetic
from cnnzoo.data.loaders import gpu as module
from cnnzoo.data.loaders.batch_builder import BatchBuilder
from cnnzoo.data.loaders.gpu import GpuDataset
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.transforms.augment import Augment
from tests.helpers.loaders import NO_WORKERS, WORKER_POOLS, equal_batches, load_epoch, loader_threads, wait_for_end

CPU = torch.device("cpu")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def pixels(channels=3):
    return Synthetic(images=60, image_size=16, channels=channels).split("train")


def batches_of(augment, *, train=True, image_size=16, channels=3, split=None):
    return BatchBuilder(split or pixels(), augment, train, image_size, channels, 5)


@pytest.fixture
def as_if_gpu(monkeypatch):
    """The CPU in the place of a GPU: streams that do nothing, pinned memory that is ordinary."""

    class Stream:
        def __init__(self, device=None):
            self.waited = []

        def record_event(self):
            return object()

        def wait_event(self, event):
            self.waited.append(event)

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream())
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_size", [16, 12, 21])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("crop", ["padded", "center"])
def test_the_same_bytes_as_the_workers(crop, train, image_size, channels):
    augment = Augment(crop=crop, flip=0.5, padding=0.2, eval_resize=1.3)
    batches = batches_of(augment, train=train, image_size=image_size, channels=channels)
    made = GpuDataset(batches, CPU)
    for epoch in (0, 1):
        keys = [(epoch, indices) for indices in EpochSampler(len(batches.split), 7, seed=0, train=train)]
        for key, (images, labels, bad) in zip(keys, made.build(keys), strict=True):
            expected, numbers, _ = batches.build(key)
            assert torch.equal(images, expected)
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(labels, numbers)
            assert not bad


def test_it_is_resized_a_part_at_a_time(monkeypatch):
    batches = batches_of(Augment(crop="padded"), image_size=20)
    expected = GpuDataset(batches, CPU).pixels
    monkeypatch.setattr(module, "MAX_RESIZE_PIXELS", 3 * 20 * 20)
    assert torch.equal(GpuDataset(batches, CPU).pixels, expected)


def test_what_it_says_it_takes_it_takes():
    for augment in (Augment(crop="padded"), Augment(eval_resize=1.5)):
        batches = batches_of(augment, image_size=20)
        assert GpuDataset(batches, CPU).pixels.numel() == GpuDataset.bytes(batches)


@pytest.mark.parametrize(
    ("augment", "can"),
    [
        (Augment(crop="padded", flip=0.5), True),
        (Augment(), True),
        (Augment(color_jitter=(0, 0, 0, 0)), True),
        (Augment(crop="random_resized"), False),
        (Augment(auto_augment="randaugment"), False),
        (Augment(color_jitter=(0.4, 0, 0, 0)), False),
        (Augment(random_erase=0.5), False),
    ],
)
def test_what_it_can_do(augment, can):
    assert GpuDataset.can(batches_of(augment)) == can
    assert GpuDataset.can(batches_of(augment, train=False))


def test_files_do_not_lie_on_the_device(files):
    assert not GpuDataset.can(batches_of(Augment(), split=files))


@pytest.mark.parametrize(("free", "fits"), [(4, True), (3, False)])
def test_it_takes_a_quarter_of_what_is_free_at_most(monkeypatch, free, fits):
    batches = batches_of(Augment())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free * GpuDataset.bytes(batches), 0))
    assert module.fits_on_gpu(batches, CPU) == fits


@pytest.mark.parametrize("crop", ["padded", "random_resized"])
def test_a_loader_whose_set_lies_on_the_device(as_if_gpu, loader_of, monkeypatch, crop):
    """The loader's whole way, with the CPU in the place of the GPU."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**40, 0))
    loader = loader_of(pixels(), crop=crop)
    loader.device = CPU
    assert equal_batches(load_epoch(loader), load_epoch(loader_of(pixels(), crop=crop)))
    assert (loader._gpu_dataset is not None) == (crop == "padded")
    loader.close()
    assert loader._gpu_dataset is None


@pytest.mark.parametrize("crew", [NO_WORKERS, *WORKER_POOLS])
def test_one_ahead(as_if_gpu, loader_of, files, crew):
    """The same batches, whole epochs and after breaking off; the thread that moves them ends."""
    loader = loader_of(files, **crew)
    loader.device = CPU
    expected = [load_epoch(loader_of(files, workers=0), epoch) for epoch in range(3)]
    kept = []
    for epoch in range(3):
        assert equal_batches(load_epoch(loader, epoch), expected[epoch])
        kept.append(iter(loader))
        next(kept[-1])  # broken off, but not forgotten
        (moving,) = [thread for thread in loader_threads() if "device" in thread.name]
        kept.append(iter(loader))
        next(kept[-1])
        assert not moving.is_alive()  # it may not ask the crew any more
    assert equal_batches(load_epoch(loader, 0), expected[0])
    next(iter(loader))
    loader.close()
    wait_for_end(thread for thread in loader_threads() if "device" in thread.name)


def test_it_is_one_ahead(as_if_gpu):
    """When a batch is handed over, the next one has been asked for, and no other."""
    asked, second = [], threading.Event()

    def batches():
        for number in range(4):
            asked.append(number)
            if number == 1:
                second.set()
            yield torch.zeros(1), torch.zeros(1), []

    made = module.prefetch_to_device(batches(), CPU)
    next(made)
    assert second.wait(10)
    assert asked == [0, 1]
    assert len(list(made)) == 3


def test_what_goes_wrong_on_the_way_is_raised(as_if_gpu, loader_of, files, monkeypatch):
    monkeypatch.setattr(BatchBuilder, "build", lambda *_: 1 // 0)
    loader = loader_of(files, workers=0)
    loader.device = CPU
    with pytest.raises(ZeroDivisionError):
        next(iter(loader))


@gpu
@pytest.mark.parametrize("options", [{"workers": 0}, {"workers": 2}, {"workers": 2, "kind": "processes"}])
def test_batches_reach_the_gpu_as_they_are(loader_of, files, options):
    expected = load_epoch(loader_of(files, workers=0))
    loader = loader_of(files, device=torch.device("cuda"), **options)
    for _ in range(3):
        batches = [(images, labels) for images, labels in loader]
        assert all(images.is_cuda and labels.is_cuda for images, labels in batches)
        assert equal_batches([(images.cpu(), labels.cpu()) for images, labels in batches], expected)
    next(iter(loader))  # broken off
    assert equal_batches([(images.cpu(), labels.cpu()) for images, labels in loader], expected)


@gpu
def test_a_set_that_lies_on_the_gpu():
    split = pixels()
    sampler = EpochSampler(len(split), 8, seed=0, train=True)
    loaders = [
        TorchLoader(
            split,
            sampler,
            augment=Augment(crop="padded", flip=0.5),
            train=True,
            image_size=16,
            channels=3,
            seed=0,
            device=where,
        )
        for where in (torch.device("cuda"), None)
    ]
    first, second = ([(images.cpu(), labels.cpu()) for images, labels in loader] for loader in loaders)
    assert loaders[0]._gpu_dataset is not None
    assert equal_batches(first, second)
    assert len(first) == len(split) // 8
    assert np.unique(np.concatenate([labels.numpy() for _, labels in first])).size > 1
