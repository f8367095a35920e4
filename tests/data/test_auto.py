"""`loader=auto`: who is taken, and what is said."""

import logging
from itertools import product

import numpy as np
import pytest
import torch
from crews import needs_dali

from cnnzoo.data import auto, dali_loader
from cnnzoo.data.augment import Augment
from cnnzoo.data.auto import auto_loader, choose, chosen
from cnnzoo.data.dali_loader import DaliLoader, missing
from cnnzoo.data.order import Order
from cnnzoo.data.split import Split
from cnnzoo.data.torch_loader import TorchLoader
from cnnzoo.errors import UserError

FILES = Split(np.zeros(4, np.int64), paths=np.array([b"a"] * 4))
PIXELS = Split(np.zeros(4, np.int64), pixels=np.zeros((4, 8, 8, 3), np.uint8))
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
RANDAUGMENT = Augment(auto="randaugment")


@pytest.fixture
def on_nvidia(monkeypatch):
    """A torch for CUDA 13, a DALI that is as good as installed, and nothing said before."""
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(auto, "missing", lambda cuda: None)
    monkeypatch.setattr(dali_loader, "missing", lambda cuda: None)
    auto._tell.cache_clear()
    return monkeypatch


def test_dali_is_for_files_that_a_gpu_decodes_where_it_can():
    for files, on_gpu, installed, executable in product((True, False), repeat=4):
        found = choose(files=files, on_gpu=on_gpu, installed=installed, executable=executable)
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
    assert chosen(split, augment, device, kind) == found
    order = Order(4, 2, seed=0, train=True)
    options = {"train": True, "image_size": 8, "channels": 3, "seed": 0, "workers": 1}
    loader = auto_loader(split, order, augment=augment, device=device, kind=kind, **options)
    assert type(loader) is {"dali": DaliLoader, "torch": TorchLoader}[found]
    assert loader.workers == 1
    if found == "torch":
        assert loader.kind == ("threads" if kind == "threads" else "processes")
    assert not caplog.records


def test_a_gpu_of_another_maker(on_nvidia):
    on_nvidia.setattr(torch.version, "cuda", None)
    assert chosen(FILES, Augment(), GPU) == "torch"
    with pytest.raises(UserError, match="loader=dali: DALI knows NVIDIA's GPUs alone; or type loader=torch"):
        dali_loader.check(Augment(), GPU)


def test_without_dali_the_torch_loader_goes_on_and_one_line_says_so(on_nvidia, caplog):
    on_nvidia.setattr(auto, "missing", lambda cuda: "DALI is not installed: pip install nvidia-dali-cuda130")
    with caplog.at_level(logging.WARNING):
        assert [chosen(FILES, Augment(), GPU) for _ in range(3)] == ["torch"] * 3
        assert chosen(FILES, Augment(), CPU) == "torch"
    said = "DALI is not installed: pip install nvidia-dali-cuda130; loader=torch goes on without it"
    assert [record.getMessage() for record in caplog.records] == [said]


@pytest.fixture
def looked_anew():
    """`missing` looks again."""
    missing.cache_clear()
    yield
    missing.cache_clear()


@pytest.mark.usefixtures("looked_anew")
def test_dali_typed_but_not_installed(monkeypatch):
    monkeypatch.setattr(dali_loader.sys, "platform", "linux")
    monkeypatch.setitem(dali_loader.sys.modules, "nvidia.dali", None)
    said = "loader=dali: DALI is not installed: pip install nvidia-dali-cuda130; or type loader=torch"
    with pytest.raises(UserError, match=f"^{said}$"):
        DaliLoader(
            FILES, Order(4, 2, seed=0, train=True), augment=Augment(), train=True, image_size=8, channels=3, seed=0
        )
    assert missing("12.8") == "DALI is not installed: pip install nvidia-dali-cuda120"
    monkeypatch.setattr(dali_loader.sys, "platform", "darwin")
    missing.cache_clear()
    assert missing() == "DALI runs on Linux alone"


@needs_dali
@pytest.mark.usefixtures("looked_anew")
def test_dali_for_another_cuda(monkeypatch):
    import nvidia.dali

    monkeypatch.setattr(nvidia.dali, "__cuda_version__", 12090)
    assert missing() is None  # without a GPU any will do
    assert missing("12.8") is None
    assert missing("13.2") == (
        "DALI is built for CUDA 12, torch for 13.2: pip uninstall nvidia-dali-cuda120; pip install nvidia-dali-cuda130"
    )
