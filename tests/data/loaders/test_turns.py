"""All loaders flip, turn and rotate images alike: data sets in the GPU's memory, the Triton kernel and DALI."""

import numpy as np
import pytest
import torch

from cnnzoo.data.datasets.builtin import Synthetic
from cnnzoo.data.loaders.batch_builder import BatchBuilder, BatchRequest
from cnnzoo.data.loaders.gpu import BY_KERNEL, BY_TORCH, GpuDataset
from cnnzoo.data.loaders.gpu_placement import unsupported
from cnnzoo.data.transforms.augment import Augment
from tests.helpers.gpu_kernel import needs_interpreter
from tests.helpers.loaders import CPU, DALI, NO_WORKERS, load_epoch, needs_dali, similar_batches

TURNS = {"flip": 0.5, "vertical_flip": 0.5, "rotate90": True}
ERASE = {"random_erase": 0.8, "erase_ratio": (0.2, 0.4), "mean": (0.2, 0.5, 0.8)}  # long boxes, which show a transpose


def make_builder(crop, image_size):
    split = Synthetic(images=40, image_size=16, channels=3).split("train")
    augment = Augment(crop=crop, padding=0.4, **ERASE, **TURNS)
    return BatchBuilder(split, augment, True, image_size, 3, seed=3)


@pytest.mark.parametrize(
    ("level", "crop", "count"),
    [
        (BY_TORCH, "padded", 24),
        pytest.param(BY_KERNEL, "padded", 6, marks=needs_interpreter),
        pytest.param(BY_KERNEL, "random_resized", 6, marks=needs_interpreter),
    ],
)
def test_gpu_dataset_turns_equal_cpu(level, crop, count):
    builder = make_builder(crop, (16, 16))
    request = BatchRequest(0, np.arange(count))
    params = builder.params_for(0, request.indices, np.full((count, 2), 16))
    assert 0 < params.transposes.sum() < count
    assert 0 < params.vertical_flips.sum() < count
    (batch,) = GpuDataset(builder, CPU, level).build_batches([request])
    difference = (batch.images.int() - builder.build(request).images.int()).abs()
    assert difference.max() <= (0 if crop == "padded" else 1)


def test_rotation_is_not_done_on_gpu():
    builder = make_builder("padded", (16, 16))
    assert unsupported(builder) is None
    rotated = BatchBuilder(builder.split, Augment(rotation=5), True, (16, 16), 3, seed=0)
    assert unsupported(rotated) == "augment.rotation runs on the CPU"
    evaluated = BatchBuilder(builder.split, Augment(rotation=5), False, (16, 16), 3, seed=0)
    assert unsupported(evaluated) is None


@needs_dali
@pytest.mark.parametrize("crop", ["padded", "random_resized"])
@pytest.mark.parametrize("rotation", [0, 20])
def test_dali_turns_equal_torch(make_loader, jpegs, crop, rotation):
    options = {"augment": Augment(crop=crop, rotation=rotation, **ERASE, **TURNS), "image_size": 40}
    for epoch in (0, 1):
        expected = load_epoch(make_loader(jpegs, 4, **options, **NO_WORKERS), epoch)
        assert similar_batches(load_epoch(make_loader(jpegs, 4, **options, **DALI), epoch), expected)


@needs_dali
def test_dali_flips_wide_results_vertically(make_loader, jpegs):
    options = {"augment": Augment(vertical_flip=0.5, rotation=10), "image_size": (24, 40)}
    expected = load_epoch(make_loader(jpegs, 5, **options, **NO_WORKERS))
    assert similar_batches(load_epoch(make_loader(jpegs, 5, **options, **DALI)), expected)


def test_workers_turn_as_the_process_itself(make_loader, files):
    options = {"augment": Augment(rotation=20, **TURNS)}
    expected = load_epoch(make_loader(files, 5, **options, **NO_WORKERS))
    batches = load_epoch(make_loader(files, 5, workers=2, kind="threads", **options))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(batches, expected, strict=True))
