"""`benchmarks/training.py`, which compares the speed of training with that of peers."""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.helpers import ROOT
from tests.helpers.images import save_image

SCRIPT = ROOT / "benchmarks/training.py"


@pytest.fixture
def folder(tmp_path):
    """24 images for training and 2 for testing, of two classes."""
    for number in range(26):
        split = "train" if number < 24 else "test"
        save_image(tmp_path / "images" / split / "ab"[number % 2] / f"{number}.jpg", 40, 48)
    return tmp_path / "images"


@pytest.fixture
def script(monkeypatch):
    """The module."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("training", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "training", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
def test_training_script_measures_loop_and_train_py(folder, tmp_path):
    options = ("--name", "lenet5", "--size", "32", "--batch", "2", "--steps", "3", "--rounds", "1")
    machine = ("--device", "cpu", "--threads", "1", "--workers", "1", "--peers", "train.py")
    command = [sys.executable, SCRIPT, folder, *options, *machine, "--json", tmp_path / "training.json"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    contents = json.loads((tmp_path / "training.json").read_text())
    assert contents["command"].startswith(f"python benchmarks/training.py {folder} --name lenet5")
    assert contents["machine"]["threads"] == 1
    assert contents["machine"]["date"]
    loop, ours = contents["results"]
    assert (loop["name"], ours["name"]) == ("hand-written loop", "train.py")
    assert loop["relative_to_loop"] == 1.0
    assert ours["relative_to_loop"] == ours["images_per_second"] / loop["images_per_second"]
    assert loop["parameters"] == ours["parameters"]
    assert "pytorch-lightning" in ours["versions"]
    assert "pytorch-lightning" not in loop["versions"]
    assert not [name for name in ("hand-written loop", "train.py") if f"| {name} |" not in process.stdout]


def test_missing_peers_are_left_out_with_their_setup(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "environment", lambda name: tmp_path / name)
    assert list(script.choose_peers(["loop", "train.py", "timm", "template"])) == ["loop", "train.py"]
    assert capsys.readouterr().err.splitlines() == [
        "timm's train.py is left out: type benchmarks/peers/setup.sh timm",
        "lightning-hydra-template is left out: type benchmarks/peers/setup.sh lightning-hydra-template",
    ]


def test_training_script_refuses_too_few_images(script, folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["training.py", str(folder), "--workers", "1", "--batch", "2", "--steps", "5"])
    with pytest.raises(SystemExit):
        script.parse_arguments()
    assert "need more than 90 % of its 24 images" in capsys.readouterr().err
