"""Batches on a GPU. Most tests use the CPU as the device; those marked `needs_gpu` use a GPU."""

import numpy as np
import pytest
import torch

from cnnzoo.data.datasets.builtin import Synthetic
from cnnzoo.data.loaders import gpu
from cnnzoo.data.loaders.batch_builder import BatchBuilder, BatchRequest
from cnnzoo.data.loaders.gpu import GpuDataset
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.transforms.augment import Augment
from tests.helpers.loaders import equal_batches, load_epoch

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def pixel_split(channels=3):
    return Synthetic(images=60, image_size=16, channels=channels).split("train")


def make_builder(augment, *, train=True, image_size=16, channels=3, split=None):
    return BatchBuilder(split or pixel_split(), augment, train, image_size, channels, 5)


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
