"""`loader=auto`: which loader it chooses, and what it logs."""

import logging
import re
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

import cnnzoo.data
from cnnzoo.data.cache import available_memory
from cnnzoo.data.loaders import auto, dali_loader
from cnnzoo.data.loaders.auto import auto_loader, choose_loader, resolve_auto_loader
from cnnzoo.data.loaders.dali_loader import DaliLoader, dali_problem
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.split import Split
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.errors import UserError
from tests.helpers.images import save_image
from tests.helpers.loaders import needs_dali

FILES = Split(np.zeros(4, np.int64), paths=np.array([b"a"] * 4))
PIXELS = Split(np.zeros(4, np.int64), pixels=np.zeros((4, 8, 8, 3), np.uint8))
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
RANDAUGMENT = Augment(auto_augment="randaugment")


@pytest.fixture
def nvidia_gpu(monkeypatch):
    """Pretends that torch is built for CUDA 13 and DALI is installed, and clears the record of past warnings."""
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(auto, "dali_problem", lambda cuda: None)
    monkeypatch.setattr(dali_loader, "dali_problem", lambda cuda: None)
    auto._warn_once.cache_clear()
    return monkeypatch


def test_choose_loader_takes_dali_if_all_conditions_hold():
    names = ("from_files", "on_gpu", "installed", "supported")
    for *values, decoded in product((True, False), repeat=5):
        name = choose_loader(**dict(zip(names, values, strict=True)), decoded=decoded)
        assert name == ("dali" if all(values) and not decoded else "torch")


@pytest.mark.parametrize(
    ("split", "augment", "device", "kind", "expected"),
    [
        (FILES, Augment(), GPU, "auto", "dali"),
        (PIXELS, Augment(), GPU, "auto", "torch"),
        (FILES, Augment(), CPU, "auto", "torch"),
        (FILES, Augment(), None, "auto", "torch"),
        (FILES, Augment(), torch.device("mps"), "auto", "torch"),
        (FILES, RANDAUGMENT, GPU, "auto", "torch"),
        (FILES, Augment(), GPU, "processes", "torch"),
        (FILES, Augment(), GPU, "threads", "torch"),
        (replace(FILES, cache_decodes=True), Augment(), GPU, "auto", "torch"),
        (replace(FILES, store=SimpleNamespace(channels=3)), Augment(), GPU, "auto", "torch"),
    ],
)
def test_auto_loader_builds_the_resolved_loader(nvidia_gpu, caplog, split, augment, device, kind, expected):
    assert resolve_auto_loader(split, augment, device, kind) == expected
    sampler = EpochSampler(4, 2, seed=0, train=True)
    options = {"train": True, "image_size": 8, "channels": 3, "seed": 0, "workers": 1}
    loader = auto_loader(split, sampler, augment=augment, device=device, kind=kind, **options)
    assert type(loader) is {"dali": DaliLoader, "torch": TorchLoader}[expected]
    assert loader.workers == 1
    if expected == "torch":
        assert loader.kind == ("threads" if kind == "threads" else "processes")
    assert not caplog.records


def test_auto_loader_gpu_not_from_nvidia_takes_torch(nvidia_gpu):
    nvidia_gpu.setattr(torch.version, "cuda", None)
    assert resolve_auto_loader(FILES, Augment(), GPU) == "torch"
    with pytest.raises(UserError, match="loader=dali: DALI supports only NVIDIA GPUs; or type loader=torch"):
        dali_loader.check_dali(Augment(), GPU)


def test_auto_loader_without_dali_warns_once(nvidia_gpu, caplog):
    nvidia_gpu.setattr(auto, "dali_problem", lambda cuda: "DALI is not installed: pip install nvidia-dali-cuda130")
    with caplog.at_level(logging.WARNING):
        assert [resolve_auto_loader(FILES, Augment(), GPU) for _ in range(3)] == ["torch"] * 3
        assert resolve_auto_loader(FILES, Augment(), CPU) == "torch"
    message = "DALI is not installed: pip install nvidia-dali-cuda130; using loader=torch instead"
    assert [record.getMessage() for record in caplog.records] == [message]


@needs_dali
@pytest.mark.parametrize(
    ("available_bytes", "mode", "expected"), [(10**9, "decoded", "torch"), (10**5, "encoded", "dali")]
)
def test_train_job_records_the_loader_that_runs(job, tmp_path, monkeypatch, caplog, available_bytes, mode, expected):
    """Before the cache is filled, the run's table already has the loader for what `cache.mode=auto` becomes."""
    for number in range(24):
        save_image(tmp_path / "images" / "ab"[number % 2] / f"{number}.jpg", 40, 40)
    loaders = []
    monkeypatch.setattr(auto, "choose_loader", lambda decoded, **_: "torch" if decoded else "dali")  # as if on a GPU
    monkeypatch.setattr(
        cnnzoo.data, "auto_loader", lambda *a, **kw: loaders.append(auto_loader(*a, **kw)) or loaders[-1]
    )
    monkeypatch.setattr(available_memory, "available_bytes", lambda: available_bytes)
    overrides = ("data=folder", f"data.root={tmp_path / 'images'}", "data.batch_size=8", "loader.workers=1")
    with caplog.at_level("INFO"):
        job("model=lenet", "trainer.max_epochs=1", *overrides)
    assert {loader.name for loader in loaders} == {expected}
    assert any(re.match(f"loader +{expected}, ", line) for line in caplog.messages)
    assert any(re.match(f"cache +{mode}, ", line) for line in caplog.messages)
    assert yaml.safe_load((tmp_path / "run/hparams.yaml").read_text())["loader"] == expected


@pytest.fixture
def uncached_dali_problem():
    """Clears the cache of `dali_problem` before and after the test."""
    dali_problem.cache_clear()
    yield
    dali_problem.cache_clear()


@pytest.mark.usefixtures("uncached_dali_problem")
def test_dali_loader_without_dali_raises(monkeypatch):
    monkeypatch.setattr(dali_loader.sys, "platform", "linux")
    monkeypatch.setitem(dali_loader.sys.modules, "nvidia.dali", None)
    message = 'loader=dali: DALI is not installed: pip install "cnnzoo[dali]"; or type loader=torch'
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        DaliLoader(
            FILES,
            EpochSampler(4, 2, seed=0, train=True),
            augment=Augment(),
            train=True,
            image_size=8,
            channels=3,
            seed=0,
        )
    assert dali_problem("12.8") == "DALI is not installed: pip install nvidia-dali-cuda120"
    monkeypatch.setattr(dali_loader.sys, "platform", "darwin")
    dali_problem.cache_clear()
    assert dali_problem() == "DALI runs only on Linux"


@needs_dali
@pytest.mark.usefixtures("uncached_dali_problem")
def test_dali_problem_other_cuda_version(monkeypatch):
    import nvidia.dali

    monkeypatch.setattr(nvidia.dali, "__cuda_version__", 12090)
    assert dali_problem() is None  # without a GPU, any version works
    assert dali_problem("12.8") is None
    assert dali_problem("13.2") == (
        'DALI is built for CUDA 12, torch for 13.2: pip uninstall nvidia-dali-cuda120; pip install "cnnzoo[dali]"'
    )
