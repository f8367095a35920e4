"""The DALI loader on a GPU: its pipeline, which is checked without a GPU, and its images, which need one."""

from dataclasses import replace

import pytest
import torch

from cnnzoo.data.cache.cache import Cache
from cnnzoo.data.loaders import dali_loader
from cnnzoo.data.transforms.augment import Augment
from tests.helpers.dali_graph import pipeline_operators
from tests.helpers.loaders import DALI, NO_WORKERS, equal_batches, load_epoch, needs_dali, similar_batches

pytestmark = needs_dali
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

CROPS = ["center", "padded", "random_resized"]


@pytest.mark.parametrize("random_erase", [0.0, 0.5])
@pytest.mark.parametrize("crop", CROPS)
def test_dali_gpu_pipeline_operators(make_loader, jpegs, monkeypatch, crop, random_erase):
    """On a GPU, whole JPEGs are decoded and then cut: the operators that a JPEG passes through, in this order."""
    monkeypatch.setattr(dali_loader, "check_dali", lambda augment, device: None)  # needs a GPU
    augment = Augment(crop=crop, flip=0.5, random_erase=random_erase)
    options = {"loader": "dali", "workers": 2, "device": torch.device("cuda", 0), "augment": augment}
    for hw_decoder_load in ({}, {"hw_decoder_load": 0.25}):
        loader = make_loader(jpegs, **options, **hw_decoder_load)
        operators = pipeline_operators(loader._new_pipeline()._pipeline)
        (decoder,) = (operator for operator in operators if operator.name.startswith("decoders__"))
        assert decoder.arguments["hw_decoder_load"] == hw_decoder_load.get("hw_decoder_load", 0)
        path, data = [], decoder.outputs[0]
        while users := [operator for operator in operators if data in operator.inputs]:
            (user,) = users
            path.append((user.name, user.device))
            data = user.outputs[0]
        slice_then_resize = ["Slice", "_conditional__Merge", "Resize"]
        names = slice_then_resize if crop == "random_resized" else ["_conditional__Merge", "Resize", "Slice"]
        assert (decoder.name, decoder.device) == ("decoders__Image", "mixed")
        assert path == [(name, "gpu") for name in [*names, "Flip", *(["Erase"] if random_erase else [])]]


@needs_gpu
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("mode", ["none", "encoded", "decoded"])
def test_dali_on_gpu_equals_torch(make_loader, jpegs, file_formats, mode, crop):
    for split in (jpegs, file_formats):
        stores = Cache(mode=mode).fill({"train": split}, channels=3, on_bad_file="error")
        split = replace(split, store=stores.get("train"))
        expected = load_epoch(make_loader(split, 4, crop=crop, image_size=32, **NO_WORKERS))
        batches = load_epoch(make_loader(split, 4, crop=crop, image_size=32, device=torch.device("cuda", 0), **DALI))
        assert all(images.is_cuda and labels.is_cuda for images, labels in batches)
        assert all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in batches)
        assert similar_batches([(images.cpu(), labels.cpu()) for images, labels in batches], expected)


@needs_gpu
@pytest.mark.parametrize(("fit", "crop"), [("crop", "random_resized"), ("pad", "padded"), ("squash", "center")])
def test_dali_on_gpu_rectangles_equal_torch(make_loader, jpegs, fit, crop):
    options = {"augment": Augment(crop=crop, fit=fit, flip=0.5), "image_size": (24, 40)}
    expected = load_epoch(make_loader(jpegs, 4, **options, **NO_WORKERS))
    batches = load_epoch(make_loader(jpegs, 4, **options, device=torch.device("cuda", 0), **DALI))
    assert similar_batches([(images.cpu(), labels.cpu()) for images, labels in batches], expected)


@needs_gpu
def test_dali_on_gpu_kept_batches_never_change(make_loader, jpegs):
    loader = make_loader(jpegs, device=torch.device("cuda", 0), **DALI)
    batches = list(loader)
    copies = [(images.cpu(), labels.cpu()) for images, labels in batches]
    for epoch in range(1, 4):
        load_epoch(loader, epoch)
    loader.close()
    assert equal_batches([(images.cpu(), labels.cpu()) for images, labels in batches], copies)
