"""Which images are kept in the GPU's memory: the memory rule, every failure, and the agreement of ranks.

The CPU stands in for the GPU.
"""

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cnnzoo.data.cache import available_memory
from cnnzoo.data.cache.cache import Cache
from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.datasets.builtin import Synthetic
from cnnzoo.data.loaders import gpu, gpu_kernel, gpu_placement
from cnnzoo.data.loaders.gpu import BY_KERNEL, BY_TORCH, required_bytes
from cnnzoo.data.loaders.gpu_placement import ON_CPU, Placement, place_on_all_ranks
from cnnzoo.data.loaders.progressive import grow_images
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.errors import UserError
from tests.helpers.loaders import (
    CPU,
    NO_WORKERS,
    decoded,
    equal_batches,
    load_epoch,
    similar_batches,
    transform_on_cpu,
)
from tests.helpers.ranks import WORLD_SIZE, run_ranks


@pytest.fixture(autouse=True)
def gpu_with_kernel(fake_cuda, monkeypatch, caplog):
    """The CPU as a GPU with 8 GB of free memory, and a kernel that works on it."""
    monkeypatch.setattr(gpu_placement, "free_bytes", lambda device: 8 * 10**9)
    monkeypatch.setattr(gpu_kernel, "kernel_problem", lambda device: None)
    monkeypatch.setattr(gpu_kernel, "transform", transform_on_cpu)
    caplog.set_level(logging.INFO, gpu_placement.__name__)


@pytest.fixture
def make_gpu_loader(make_loader):
    def make(split, **options):
        loader = make_loader(split, **{**NO_WORKERS, **options})
        loader.device = CPU
        return loader

    return make


def pixel_split():
    return Synthetic(images=60, image_size=16).split("train")


def fail(*_):
    raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nTraceback ...")


def draw_garbage(source, table, out, erase_fill):
    out.fill_(7)


def run_out_of_memory(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_images_in_gpu_memory_give_similar_batches(make_loader, make_gpu_loader, files, caplog):
    for split, size in ((pixel_split(), "29.2 kB"), (decoded(files), "34.3 kB")):
        caplog.clear()
        loader = make_gpu_loader(split)
        expected = [load_epoch(make_loader(split, **NO_WORKERS), epoch) for epoch in (0, 1)]
        assert all(similar_batches(load_epoch(loader, epoch), expected[epoch]) for epoch in (0, 1))
        text = f"in the GPU's memory ({size}), transformed by a Triton kernel"
        assert caplog.messages == [f"training images: {text}"]
        assert loader.describe() == f"torch, images {text}"
        loader.close()
        assert loader._gpu_dataset is None
        assert not gpu.resident_datasets
        assert similar_batches(load_epoch(loader), expected[0])  # copies the images again
        loader.close()


FAILURES = {
    "no compiler": ("transform", fail, "the Triton kernel failed: RuntimeError: Failed to find C compiler."),
    "garbage": ("transform", draw_garbage, "the Triton kernel gave other images than the CPU (by up to "),
    "old card": (
        "kernel_problem",
        lambda device: "compute capability 6.1 of the GPU is below 7.5",
        "compute capability",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_kernel_failure_leaves_images_to_the_cpu(failure, make_loader, make_gpu_loader, files, monkeypatch, caplog):
    name, function, message = FAILURES[failure]
    monkeypatch.setattr(gpu_kernel, name, function)
    for train, images in ((True, "training images"), (False, "images for evaluation")):
        caplog.clear()
        loader = make_gpu_loader(decoded(files), train=train)
        expected = [load_epoch(make_loader(files, train=train, **NO_WORKERS), epoch) for epoch in (0, 1)]
        assert all(equal_batches(load_epoch(loader, epoch), expected[epoch]) for epoch in (0, 1))
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert record.getMessage().startswith(f"{images}: transformed on the CPU, not in the GPU's memory: {message}")
        assert "\n" not in record.getMessage()
        assert loader.describe() == "torch, in the training process"
        assert not gpu.resident_datasets


@pytest.mark.parametrize("failure", FAILURES)
def test_kernel_failure_uses_torch_if_nothing_is_resized(failure, make_loader, make_gpu_loader, monkeypatch, caplog):
    name, function, message = FAILURES[failure]
    monkeypatch.setattr(gpu_kernel, name, function)
    loader = make_gpu_loader(pixel_split(), crop="padded")
    reference = make_loader(pixel_split(), crop="padded", **NO_WORKERS)
    assert all(equal_batches(load_epoch(loader, epoch), load_epoch(reference, epoch)) for epoch in (0, 1))
    assert loader._gpu_dataset.level == BY_TORCH
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f", cropped by PyTorch instead of the kernel: {message}" in record.getMessage()


def test_upload_failure_leaves_images_to_the_cpu(make_loader, make_gpu_loader, monkeypatch, caplog):
    monkeypatch.setattr(gpu, "_upload", run_out_of_memory)
    loader = make_gpu_loader(pixel_split(), crop="padded")
    assert equal_batches(load_epoch(loader), load_epoch(make_loader(pixel_split(), crop="padded", **NO_WORKERS)))
    assert caplog.messages == [
        "training images: transformed on the CPU, not in the GPU's memory: they cannot be copied to the GPU: "
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    ]


@pytest.mark.parametrize(("budget", "fits"), [(0.25, True), (0.24, False)])
def test_memory_rule_is_a_fraction_of_free_memory(make_gpu_loader, monkeypatch, caplog, budget, fits):
    loader = make_gpu_loader(pixel_split(), gpu_budget=budget)
    monkeypatch.setattr(gpu_placement, "free_bytes", lambda device: 4 * required_bytes(loader._builder))
    rule = "images in the GPU's memory (29.2 kB, at most 25% of its free 117 kB)"
    problem = "they need 29.2 kB, more than loader.gpu_budget=0.24 allows of the GPU's free 117 kB"
    otherwise = f"in the training process; the images stay in RAM, because {problem}"
    assert loader.describe() == f"torch, {rule if fits else otherwise}"
    load_epoch(loader)
    assert (loader._gpu_dataset is not None) == fits
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage().endswith("transformed by a Triton kernel" if fits else f"GPU's memory: {problem}")


def test_memory_rule_counts_all_loaders(make_gpu_loader, monkeypatch):
    """Free memory becomes less by what the first loader has copied, so it is the same rule for the second one."""
    split = pixel_split()
    first, second = make_gpu_loader(split), make_gpu_loader(split, train=False)
    needed = required_bytes(first._builder)
    monkeypatch.setattr(
        gpu_placement, "free_bytes", lambda device: 7 * needed - sum(len(d.source) for d in gpu.resident_datasets)
    )
    load_epoch(first)
    load_epoch(second)
    assert first._gpu_dataset is not None
    assert second._gpu_dataset is None
    first.close()
    second.close()
    load_epoch(second)
    assert second._gpu_dataset is not None


def test_partial_cache_leaves_images_to_the_cpu(make_loader, make_gpu_loader, files, monkeypatch, caplog):
    monkeypatch.setattr(available_memory, "available_bytes", lambda: 20_000)
    stores = Cache("decoded", budget=1).fill({"train": files}, channels=3, on_bad_file="error")
    assert 0 < stores["train"].num_cached < len(files)
    caplog.clear()
    loader = make_gpu_loader(replace(files, store=stores["train"]))
    assert equal_batches(load_epoch(loader), load_epoch(make_loader(files, **NO_WORKERS)))
    reason = "not all of them are in the cache"
    assert caplog.messages == [f"training images: transformed on the CPU, not in the GPU's memory: {reason}"]


@pytest.mark.parametrize("mode", ["none", "encoded"])
def test_images_that_are_not_decoded_are_not_mentioned(make_loader, make_gpu_loader, files, caplog, mode):
    stores = Cache(mode).fill({"train": files}, channels=3, on_bad_file="error")
    caplog.clear()
    loader = make_gpu_loader(replace(files, store=stores.get("train")))
    assert loader.describe() == "torch, in the training process"
    assert equal_batches(load_epoch(loader), load_epoch(make_loader(files, **NO_WORKERS)))
    assert not caplog.records


@pytest.mark.parametrize("options", [{"auto_augment": "randaugment"}, {"color_jitter": (0.4, 0, 0, 0)}])
def test_random_operations_leave_only_training_to_the_cpu(make_loader, make_gpu_loader, caplog, options):
    augment = Augment(crop="random_resized", **options)
    loader, reference = (make(pixel_split(), augment=augment) for make in (make_gpu_loader, make_loader))
    assert equal_batches(load_epoch(loader), load_epoch(reference))
    reason = "augment.auto_augment and augment.color_jitter run on the CPU"
    assert caplog.messages == [f"training images: transformed on the CPU, not in the GPU's memory: {reason}"]
    validation = make_gpu_loader(pixel_split(), augment=augment, train=False)
    load_epoch(validation)
    assert validation._gpu_dataset.level == BY_KERNEL


def test_gpu_budget_0_turns_it_off(make_gpu_loader, caplog):
    loader = make_gpu_loader(pixel_split(), gpu_budget=0)
    assert loader.describe() == "torch, in the training process"
    load_epoch(loader)
    assert loader._gpu_dataset is None
    assert not caplog.records


@pytest.mark.parametrize("value", [-0.1, 1.5, "half", True])
def test_invalid_gpu_budget_raises(make_loader, value):
    with pytest.raises(UserError, match=f"^loader.gpu_budget={value}: expected a number >= 0 and <= 1 "):
        make_loader(pixel_split(), gpu_budget=value)


def test_describe_before_the_cache_is_filled(make_gpu_loader, files):
    loader = make_gpu_loader(replace(files, cache_decodes=True), workers=2)
    limit = "at most 25% of its free 8 GB"
    text = f"torch, images in the GPU's memory if the decoded cache fits ({limit}), otherwise 2 processes"
    assert loader.describe() == text


class OtherLoader:
    pass


def place_on_rank(rank, make, failing_rank, other_rank):
    """The level and the number of log records of a rank."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("cnnzoo").addHandler(handler)
    loader = make(pixel_split(), crop="padded", batch_size=2, rank=rank, world_size=WORLD_SIZE)
    if rank == failing_rank:
        gpu_kernel.transform = fail
    place_on_all_ranks([OtherLoader() if rank == other_rank else loader], WORLD_SIZE)
    labels = [label for _, labels in load_epoch(loader) for label in labels.tolist()]
    return loader._placement.level, [record.getMessage() for record in records], labels


@pytest.mark.parametrize(
    ("failing_rank", "other_rank", "level"), [(None, None, BY_KERNEL), (1, None, BY_TORCH), (None, 1, ON_CPU)]
)
def test_ranks_use_the_smallest_placement(make_gpu_loader, tmp_path, failing_rank, other_rank, level):
    (first, messages, _), (second, other_messages, _) = run_ranks(
        place_on_rank, tmp_path, make_gpu_loader, failing_rank, other_rank
    )
    assert first == level
    assert second == level or other_rank == 1  # that one has decided for itself
    assert len(messages) == (other_rank is None)
    assert not other_messages


def fail_at_13_pixels(source, table, out, erase_fill):
    (fail if out.shape[1] == 13 else transform_on_cpu)(source, table, out, erase_fill)


def test_growing_images_are_copied_to_the_gpu_once(make_loader, make_gpu_loader, monkeypatch, caplog):
    """The images are in use, so the memory rule does not count against them when their size changes."""
    loader = make_gpu_loader(pixel_split())
    grow_images(loader, start=12, epochs=4)
    load_epoch(loader, 0)
    source = loader._gpu_dataset.source
    monkeypatch.setattr(gpu_placement, "free_bytes", lambda device: 0)
    for epoch, size in enumerate([12, 13, 14, 16]):
        assert similar_batches(
            load_epoch(loader, epoch), load_epoch(make_loader(pixel_split(), image_size=size, **NO_WORKERS), epoch)
        )
        assert loader._gpu_dataset.source is source
    assert caplog.messages == ["training images: in the GPU's memory (29.2 kB), transformed by a Triton kernel"]


def test_growing_images_that_fail_at_one_size_return(make_loader, make_gpu_loader, monkeypatch):
    monkeypatch.setattr(gpu_kernel, "transform", fail_at_13_pixels)
    loader = make_gpu_loader(pixel_split())
    grow_images(loader, start=12, epochs=4)
    for epoch, size in enumerate([12, 13, 14, 16]):
        assert similar_batches(
            load_epoch(loader, epoch), load_epoch(make_loader(pixel_split(), image_size=size, **NO_WORKERS), epoch)
        )
        assert (loader._gpu_dataset is None) == (size == 13)


def levels_on_rank(rank, make):
    """The levels of four epochs with images of 12, 13, 14 and 16 pixels, where rank 1 fails at 13 pixels."""
    loader = make(pixel_split(), batch_size=2, rank=rank, world_size=WORLD_SIZE)
    grow_images(loader, start=12, epochs=4)
    if rank == 1:
        gpu_kernel.transform = fail_at_13_pixels
    place_on_all_ranks([loader], WORLD_SIZE)
    levels = []
    for epoch in range(4):
        load_epoch(loader, epoch)
        levels.append(loader._placement.level)
    return levels


def test_ranks_place_each_image_size_together(make_gpu_loader, tmp_path):
    assert run_ranks(levels_on_rank, tmp_path, make_gpu_loader) == 2 * [[BY_KERNEL, ON_CPU, BY_KERNEL, BY_KERNEL]]


def test_placement_order_is_by_level():
    placements = [Placement(BY_KERNEL), Placement(BY_TORCH, "b", is_failure=True), Placement(ON_CPU, "c")]
    assert sorted(placements) == placements[::-1]


@pytest.mark.parametrize(("device", "stage", "placed"), [
    ("cuda", "fit", ["train", "val"]),
    ("cuda", "validate", ["val"]),
    ("cuda", "test", ["test"]),
    ("cuda", None, []),
    ("cpu", "fit", []),
])  # fmt: skip
def test_setup_places_the_images_of_its_stage(monkeypatch, device, stage, placed):
    """In `setup`, because that is what all ranks call."""
    data, splits = DataModule(lambda **_: Synthetic(images=60, image_size=16), batch_size=2), []
    strategy = SimpleNamespace(root_device=torch.device(device))
    data.trainer = SimpleNamespace(
        strategy=strategy, world_size=1, global_rank=0, num_devices=1, fast_dev_run=False, overfit_batches=0
    )
    monkeypatch.setattr(TorchLoader, "place_images", lambda loader, agree: splits.append(loader.split))
    data.setup(stage)
    assert splits == [data.split(name) for name in placed]
    data.teardown()
