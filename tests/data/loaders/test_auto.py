"""`loader=auto`: who is taken, and what is said."""

import logging
from itertools import product

import numpy as np
import pytest
import torch

from cnnzoo.data.loaders import auto, dali_loader
from cnnzoo.data.loaders.auto import auto_loader, choose_loader, resolve_auto_loader
from cnnzoo.data.loaders.dali_loader import DaliLoader, dali_problem
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.split import Split
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.errors import UserError
from tests.helpers.loaders import needs_dali

FILES = Split(np.zeros(4, np.int64), paths=np.array([b"a"] * 4))
PIXELS = Split(np.zeros(4, np.int64), pixels=np.zeros((4, 8, 8, 3), np.uint8))
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
RANDAUGMENT = Augment(auto_augment="randaugment")


@pytest.fixture
def on_nvidia(monkeypatch):
    """A torch for CUDA 13, a DALI that is as good as installed, and nothing said before."""
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(auto, "dali_problem", lambda cuda: None)
    monkeypatch.setattr(dali_loader, "dali_problem", lambda cuda: None)
    auto._warn_once.cache_clear()
    return monkeypatch


def test_dali_is_for_files_that_a_gpu_decodes_where_it_can():
    for files, on_gpu, installed, executable in product((True, False), repeat=4):
        found = choose_loader(files=files, on_gpu=on_gpu, installed=installed, executable=executable)
        assert found == ("dali" if files and on_gpu and installed and executable else "torch")


@pytest.mark.parametrize(
    ("split", "augment", "device", "kind", "found"),
    [
        (FILES, Augment(), GPU, "auto", "dali"),
        (PIXELS, Augment(), GPU, "auto", "torch"),
        (FILES, Augment(), CPU, "auto", "torch"),
        (FILES, Augment(), None, "auto", "torch"),
        (FILES, Augment(), torch.device("mps"), "auto", "torch"),
        (FILES, RANDAUGMENT, GPU, "auto", "torch"),
        (FILES, Augment(), GPU, "processes", "torch"),
        (FILES, Augment(), GPU, "threads", "torch"),
    ],
)
def test_what_is_taken(on_nvidia, caplog, split, augment, device, kind, found):
    assert resolve_auto_loader(split, augment, device, kind) == found
    sampler = EpochSampler(4, 2, seed=0, train=True)
    options = {"train": True, "image_size": 8, "channels": 3, "seed": 0, "workers": 1}
    loader = auto_loader(split, sampler, augment=augment, device=device, kind=kind, **options)
    assert type(loader) is {"dali": DaliLoader, "torch": TorchLoader}[found]
    assert loader.workers == 1
    if found == "torch":
        assert loader.kind == ("threads" if kind == "threads" else "processes")
    assert not caplog.records


def test_a_gpu_of_another_maker(on_nvidia):
    on_nvidia.setattr(torch.version, "cuda", None)
    assert resolve_auto_loader(FILES, Augment(), GPU) == "torch"
    with pytest.raises(UserError, match="loader=dali: DALI knows NVIDIA's GPUs alone; or type loader=torch"):
        dali_loader.check_dali(Augment(), GPU)


def test_without_dali_the_torch_loader_goes_on_and_one_line_says_so(on_nvidia, caplog):
    on_nvidia.setattr(auto, "dali_problem", lambda cuda: "DALI is not installed: pip install nvidia-dali-cuda130")
    with caplog.at_level(logging.WARNING):
        assert [resolve_auto_loader(FILES, Augment(), GPU) for _ in range(3)] == ["torch"] * 3
        assert resolve_auto_loader(FILES, Augment(), CPU) == "torch"
    said = "DALI is not installed: pip install nvidia-dali-cuda130; loader=torch goes on without it"
    assert [record.getMessage() for record in caplog.records] == [said]


@pytest.fixture
def looked_anew():
    """`missing` looks again."""
    dali_problem.cache_clear()
    yield
    dali_problem.cache_clear()


@pytest.mark.usefixtures("looked_anew")
def test_dali_typed_but_not_installed(monkeypatch):
    monkeypatch.setattr(dali_loader.sys, "platform", "linux")
    monkeypatch.setitem(dali_loader.sys.modules, "nvidia.dali", None)
    said = "loader=dali: DALI is not installed: pip install nvidia-dali-cuda130; or type loader=torch"
    with pytest.raises(UserError, match=f"^{said}$"):
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
    assert dali_problem() == "DALI runs on Linux alone"


@needs_dali
@pytest.mark.usefixtures("looked_anew")
def test_dali_for_another_cuda(monkeypatch):
    import nvidia.dali

    monkeypatch.setattr(nvidia.dali, "__cuda_version__", 12090)
    assert dali_problem() is None  # without a GPU any will do
    assert dali_problem("12.8") is None
    assert dali_problem("13.2") == (
        "DALI is built for CUDA 12, torch for 13.2: pip uninstall nvidia-dali-cuda120; pip install nvidia-dali-cuda130"
    )
