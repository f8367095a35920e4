"""Batches on a GPU. Most tests use the CPU as the device; those marked `needs_gpu` use a GPU."""

import contextlib
import threading

import numpy as np
import pytest
import torch

from cnnzoo.data.datasets.builtin import Synthetic
from cnnzoo.data.loaders import gpu
from cnnzoo.data.loaders.batch_builder import Batch, BatchBuilder, BatchRequest
from cnnzoo.data.loaders.gpu import GpuDataset
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.transforms.augment import Augment
from tests.helpers.loaders import NO_WORKERS, WORKER_POOLS, equal_batches, join_workers, load_epoch, loader_threads

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def pixel_split(channels=3):
    return Synthetic(images=60, image_size=16, channels=channels).split("train")


def make_builder(augment, *, train=True, image_size=16, channels=3, split=None):
    return BatchBuilder(split or pixel_split(), augment, train, image_size, channels, 5)


def prefetch_threads():
    return [thread for thread in loader_threads() if "device" in thread.name]


@pytest.fixture
def fake_cuda(monkeypatch):
    """Lets the CPU stand in for a GPU: streams do nothing, and pinned memory is ordinary memory."""

    class Stream:
        def __init__(self, device=None):
            self.events = []

        def record_event(self):
            return object()

        def wait_event(self, event):
            self.events.append(event)

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream())
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_size", [16, 12, 21])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("crop", ["padded", "center"])
def test_gpu_dataset_equals_batch_builder(crop, train, image_size, channels):
    augment = Augment(crop=crop, flip=0.5, padding=0.2, eval_resize=1.3)
    builder = make_builder(augment, train=train, image_size=image_size, channels=channels)
    dataset = GpuDataset(builder, CPU)
    for epoch in (0, 1):
        sampler = EpochSampler(len(builder.split), 7, seed=0, train=train)
        requests = [BatchRequest(epoch, indices) for indices in sampler]
        for request, (images, labels, bad_files) in zip(requests, dataset.build_batches(requests), strict=True):
            expected = builder.build(request)
            assert torch.equal(images, expected.images)
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(labels, expected.labels)
            assert not bad_files


def test_gpu_dataset_resizes_in_chunks(monkeypatch):
    builder = make_builder(Augment(crop="padded"), image_size=20)
    expected = GpuDataset(builder, CPU).pixels
    monkeypatch.setattr(gpu, "MAX_RESIZE_PIXELS", 3 * 20 * 20)
    assert torch.equal(GpuDataset(builder, CPU).pixels, expected)


def test_gpu_dataset_required_bytes_are_exact():
    for augment in (Augment(crop="padded"), Augment(eval_resize=1.5)):
        builder = make_builder(augment, image_size=20)
        assert GpuDataset(builder, CPU).pixels.numel() == GpuDataset.required_bytes(builder)


@pytest.mark.parametrize(
    ("augment", "supported"),
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
def test_gpu_dataset_supports_crop_and_flip_only(augment, supported):
    assert GpuDataset.supports(make_builder(augment)) == supported
    assert GpuDataset.supports(make_builder(augment, train=False))


def test_gpu_dataset_does_not_support_files(files):
    assert not GpuDataset.supports(make_builder(Augment(), split=files))


@pytest.mark.parametrize(("free", "fits"), [(4, True), (3, False)])
def test_fits_on_gpu_up_to_a_quarter_of_free_memory(monkeypatch, free, fits):
    builder = make_builder(Augment())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free * GpuDataset.required_bytes(builder), 0))
    assert gpu.fits_on_gpu(builder, CPU) == fits


@pytest.mark.parametrize("crop", ["padded", "random_resized"])
def test_torch_loader_uses_gpu_dataset_where_supported(fake_cuda, make_loader, monkeypatch, crop):
    """The whole loader, with the CPU as the GPU."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**40, 0))
    loader = make_loader(pixel_split(), crop=crop)
    loader.device = CPU
    assert equal_batches(load_epoch(loader), load_epoch(make_loader(pixel_split(), crop=crop)))
    assert (loader._gpu_dataset is not None) == (crop == "padded")
    loader.close()
    assert loader._gpu_dataset is None


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

    iterator = gpu.prefetch_to_device(batches(), CPU)
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


@needs_gpu
def test_gpu_dataset_on_gpu_equals_cpu_loader():
    split = pixel_split()
    loaders = [
        TorchLoader(
            split,
            EpochSampler(len(split), 8, seed=0, train=True),
            augment=Augment(crop="padded", flip=0.5),
            train=True,
            image_size=16,
            channels=3,
            seed=0,
            device=device,
        )
        for device in (torch.device("cuda"), None)
    ]
    first, second = ([(images.cpu(), labels.cpu()) for images, labels in loader] for loader in loaders)
    assert loaders[0]._gpu_dataset is not None
    assert equal_batches(first, second)
    assert len(first) == len(split) // 8
    assert np.unique(np.concatenate([labels.numpy() for _, labels in first])).size > 1
