"""Data sets in the GPU's memory. Most tests use the CPU as the device; those marked `needs_gpu` use a GPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cnnzoo.data.cache.cache import Cache
from cnnzoo.data.datasets.builtin import Synthetic
from cnnzoo.data.loaders import batch_builder, gpu
from cnnzoo.data.loaders.batch_builder import BatchBuilder, BatchRequest, chunk_requests
from cnnzoo.data.loaders.gpu import BY_KERNEL, BY_TORCH, GpuDataset, needs_resizing, required_bytes
from cnnzoo.data.loaders.gpu_table import COLUMNS
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.sizes import as_size
from tests.helpers.gpu_kernel import needs_interpreter
from tests.helpers.loaders import (
    CPU,
    NO_WORKERS,
    CpuGpuDataset,
    decoded,
    equal_batches,
    load_epoch,
    transform_on_cpu,
)

CUDA = torch.device("cuda")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ERASE = {"random_erase": 0.5, "mean": (0.2, 0.5, 0.9)}
AUGMENTS = {
    "center": Augment(flip=0.5),
    "padded": Augment(crop="padded", flip=0.5, padding=0.2, **ERASE),
    "random_resized": Augment(crop="random_resized", flip=0.5, **ERASE),
}
parametrize_augments = pytest.mark.parametrize("augment", AUGMENTS.values(), ids=AUGMENTS.keys())


def pixel_split(channels=3, image_size=16):
    return Synthetic(images=60, image_size=image_size, channels=channels).split("train")


def make_builder(split, augment, *, train=True, image_size=16, channels=3):
    if augment.mean is not None:
        augment = replace(augment, mean=augment.mean[:channels])
    return BatchBuilder(split, augment, train, as_size(image_size), channels, 5)


def make_requests(split, train, epochs=(0, 1), batch_size=7):
    sampler, requests = EpochSampler(len(split), batch_size, seed=0, train=train), []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        requests += [BatchRequest(epoch, indices) for indices in sampler]
    return requests


def check_batches(dataset, requests, max_difference=1):
    batches = list(dataset.build_batches(requests))
    assert len(batches) == len(requests)
    for request, (images, labels, bad_files) in zip(requests, batches, strict=True):
        expected = dataset.builder.build(request)
        assert (images.cpu().int() - expected.images.int()).abs().max() <= max_difference
        assert images.dtype == torch.uint8
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(labels.cpu(), expected.labels)
        assert labels.is_contiguous()
        assert not bad_files


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("train", [True, False])
@parametrize_augments
def test_gpu_dataset_of_pixels_equals_cpu(augment, train, channels):
    for image_size in (16, 12, 21, (12, 23)):
        builder = make_builder(
            pixel_split(4 - channels), augment, train=train, image_size=image_size, channels=channels
        )
        check_batches(CpuGpuDataset(builder, CPU), make_requests(builder.split, train))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("train", [True, False])
@parametrize_augments
def test_gpu_dataset_of_decoded_files_equals_cpu(files, augment, train, channels):
    builder = make_builder(decoded(files, channels), augment, train=train, channels=channels)
    check_batches(CpuGpuDataset(builder, CPU), make_requests(files, train))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("crop", ["padded", "center"])
def test_gpu_dataset_by_torch_equals_cpu(files, crop, train):
    """Without resizing, no value differs, also for images of several sizes and for windows that reach outside."""
    augment = replace(AUGMENTS["padded"], crop=crop, padding=0.3)
    cached = Cache("decoded", resize=16).fill({"train": files}, channels=3, on_bad_file="error")["train"]
    for split in (pixel_split(), replace(files, store=cached)):
        builder = make_builder(split, augment, train=train)
        assert not needs_resizing(builder)
        check_batches(GpuDataset(builder, CPU, BY_TORCH), make_requests(split, train), max_difference=0)
    builder = make_builder(pixel_split(), replace(augment, fit="pad"), train=train, image_size=(16, 24))
    assert not needs_resizing(builder)
    check_batches(GpuDataset(builder, CPU, BY_TORCH), make_requests(builder.split, train), max_difference=0)


@needs_interpreter
def test_gpu_dataset_by_interpreted_kernel_equals_cpu(files, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    builder = make_builder(decoded(files), AUGMENTS["random_resized"], image_size=8)
    check_batches(GpuDataset(builder, CPU, BY_KERNEL), make_requests(files, True, (1,), 3)[:1])


def test_gpu_datasets_of_two_splits_share_no_memory(files):
    """Each data set has the bytes of its own images only, though both splits are in the same file."""
    halves = {
        name: replace(files, labels=files.labels[part], paths=files.paths[part])
        for name, part in (("train", slice(0, 20, 2)), ("val", slice(1, 20, 2)))
    }
    stores = Cache("decoded").fill(halves, channels=3, on_bad_file="error")
    for name, split in halves.items():
        builder = make_builder(replace(split, store=stores[name]), AUGMENTS["center"], train=False)
        dataset = CpuGpuDataset(builder, CPU)
        assert len(dataset.source) == required_bytes(builder) == stores[name].index["bytes"].sum()
        check_batches(dataset, make_requests(split, False))


def test_gpu_dataset_with_gaps_between_its_images_equals_cpu(files):
    """The images of other splits may lie anywhere between those of this one, whose order may be any."""
    split = decoded(files)
    rows = np.array([7, 2, 3, 4, 19, 0])
    store = split.store
    part = replace(split, labels=split.labels[rows], paths=split.paths[rows])
    store.index = store.index[rows]
    store._entries = store._entries[rows]
    builder = make_builder(part, AUGMENTS["random_resized"])
    check_batches(CpuGpuDataset(builder, CPU), make_requests(part, True, batch_size=2))


def test_gpu_dataset_uploads_in_pieces(files, monkeypatch):
    for split in (pixel_split(), decoded(files)):
        builder = make_builder(split, Augment())
        expected = GpuDataset(builder, CPU).source
        monkeypatch.setattr(gpu, "STAGING_BYTES", 1000)
        assert torch.equal(GpuDataset(builder, CPU).source, expected)
        monkeypatch.undo()
        assert len(expected) == required_bytes(builder)


def test_gpu_dataset_samples_many_batches_at_once(monkeypatch):
    calls, sample = [], Augment.sample
    monkeypatch.setattr(Augment, "sample", lambda self, *args: calls.append(len(args[2])) or sample(self, *args))
    builder = make_builder(pixel_split(), AUGMENTS["padded"])
    requests = make_requests(builder.split, True, (0, 1), 10)
    monkeypatch.setattr(batch_builder, "SAMPLED_IMAGES", 20)
    list(CpuGpuDataset(builder, CPU).build_batches(requests))
    assert calls == [20, 10, 20, 10]


def test_chunk_requests_keeps_epochs_apart():
    requests = [BatchRequest(epoch, np.arange(400)) for epoch in (0, 0, 0, 0, 1, 2, 2)]
    chunks = list(chunk_requests(requests))
    assert [[request.epoch for request in chunk] for chunk in chunks] == [[0, 0, 0], [0], [1], [2, 2]]
    assert [request for chunk in chunks for request in chunk] == requests


def test_chunk_requests_reads_no_request_too_early():
    """The first request of the next chunk may need the order of another epoch, which takes long for many images."""
    requests = iter([BatchRequest(0, np.arange(512))] * 3)
    next(chunk_requests(requests))
    assert len(list(requests)) == 1


@pytest.mark.parametrize("split_name", ["pixels", "decoded"])
@parametrize_augments
def test_check_accepts_right_images(files, split_name, augment):
    split = pixel_split() if split_name == "pixels" else decoded(files)
    for train in (True, False):
        assert CpuGpuDataset(make_builder(split, augment, train=train, image_size=20), CPU).check() is None


@pytest.mark.parametrize("wrong", ["shifted", "not flipped", "not erased", "brighter", "labels"])
def test_check_finds_wrong_images(wrong):
    class WrongDataset(GpuDataset):
        def transform(self, table, images, erase_fill):
            table = table.clone()
            table[:, COLUMNS.index("top")] += wrong == "shifted"
            table[:, COLUMNS.index("flip")] *= wrong != "not flipped"
            table[:, COLUMNS.index("erase_height")] *= wrong != "not erased"
            transform_on_cpu(self.source, table, images, erase_fill)
            images[...] = images + (wrong == "brighter")

        def _table(self, chunk):
            table, erase_fill = super()._table(chunk)
            table[:, COLUMNS.index("label")] += wrong == "labels"
            return table, erase_fill

    problem = WrongDataset(make_builder(pixel_split(), AUGMENTS["padded"]), CPU).check()
    assert problem.startswith("the Triton kernel gave other images than the CPU (by up to ")


@pytest.mark.parametrize("augment", [AUGMENTS["padded"], AUGMENTS["random_resized"]], ids=["padded", "random_resized"])
def test_check_looks_at_extreme_images(files, augment):
    split = decoded(files)
    builder = make_builder(split, augment)
    dataset = CpuGpuDataset(builder, CPU)
    checked = dataset._images_to_check()
    params = builder.params_for(0, checked, dataset.sizes[checked])
    areas = params.crops[:, 2:].prod(axis=1)
    all_areas = builder.params_for(0, np.arange(20), dataset.sizes).crops[:, 2:].prod(axis=1)
    assert len(set(checked.tolist())) == len(checked) == 8
    assert (areas.min(), areas.max()) == (all_areas.min(), all_areas.max())
    assert params.flips.any()
    assert params.erase_boxes[:, 2].any()
    assert dataset.starts[checked].max() == dataset.starts.max()
    assert dataset.sizes[checked].max() == dataset.sizes.max()


@needs_gpu
@pytest.mark.parametrize("level", [BY_KERNEL, BY_TORCH])
@parametrize_augments
def test_gpu_dataset_on_gpu_equals_cpu(files, augment, level):
    for split in (pixel_split(), decoded(files)):
        for train in (True, False):
            builder = make_builder(split, augment, train=train)
            if level == BY_KERNEL or not needs_resizing(builder):
                check_batches(GpuDataset(builder, CUDA, level), make_requests(split, train))


@needs_gpu
def test_loader_with_dataset_on_gpu_equals_cpu_loader(make_loader, files):
    for split in (pixel_split(), decoded(files)):
        loader, reference = make_loader(split, device=CUDA), make_loader(split, **NO_WORKERS)
        for epoch in (0, 1):
            batches = [(images.cpu(), labels.cpu()) for images, labels in load_epoch(loader, epoch)]
            expected = load_epoch(reference, epoch)
            assert len(batches) == len(expected) > 0
            for (images, labels), (expected_images, expected_labels) in zip(batches, expected, strict=True):
                assert (images.int() - expected_images.int()).abs().max() <= 1
                assert torch.equal(labels, expected_labels)
        assert loader._gpu_dataset.level == BY_KERNEL
        assert equal_batches(load_epoch(loader, 1), load_epoch(loader, 1))
