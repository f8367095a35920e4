"""`load_run` takes a run directory or a checkpoint, and otherwise says what to type."""

import re

import pytest
import torch
from safetensors.torch import save

from cnnzoo import load_run
from cnnzoo.errors import UserError
from cnnzoo.models import create_model

PREPROCESS = {"image_size": 32, "eval_resize": 1.0, "channels": 1, "mean": [0.5], "std": [0.5]}


@pytest.fixture
def run_dir(tmp_path):
    """A run directory with `best.ckpt` alone."""
    net = create_model("lenet5", in_channels=1, num_classes=2)
    metadata = {"model": dict(net.arguments), "preprocess": PREPROCESS, "classes": ["cat", "dog"]}
    state = {f"net.{key}": value for key, value in net.state_dict().items()}
    path = tmp_path / "sweep" / "0_lenet5" / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"cnnzoo": metadata, "state_dict": state}, path)
    return path.parent.parent


@pytest.mark.parametrize("path", ["", "checkpoints/best.ckpt"])
def test_load_run_accepts_directory_and_checkpoint(path, run_dir):
    assert load_run(run_dir / path).classes == ("cat", "dog")
    assert load_run(str(run_dir / path)).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("path", "checkpoint", "message"),
    [
        (".", "bst", "unknown checkpoint 'bst': did you mean best?"),
        (".", "last", "has no checkpoints/last.ckpt: type checkpoint='best'"),
        ("checkpoints", "best", "checkpoints has no checkpoints/best.ckpt: type {run_dir}"),
        ("..", "best", "it contains the runs {run_dir}; choose one"),
        ("nowhere", "best", "nowhere has no checkpoints/best.ckpt: there is no such file or directory"),
        ("../..", "best", "has no checkpoints/best.ckpt: expected a run directory that the job train has written"),
    ],
)
def test_load_run_says_what_to_type(path, checkpoint, message, run_dir):
    with pytest.raises(UserError) as error:
        load_run((run_dir / path).resolve(), checkpoint=checkpoint)
    assert message.format(run_dir=run_dir) in str(error.value)


def test_load_run_of_a_number_is_an_error():
    with pytest.raises(UserError, match=re.escape("run_dir=3: expected the path of a run directory")):
        load_run(3)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("preprocess", None, "it lacks the entry 'preprocess'"),
        ("classes", None, "it lacks the entry 'classes'"),
        ("model", None, "it lacks the entry 'model' with the network's name"),
        ("model", {"num_classes": 2}, "it lacks the entry 'model' with the network's name"),
        ("model", {"name": "lenet6"}, "unknown model 'lenet6'"),
        ("model", {"name": "lenet5", "colour": 1}, "lenet5 has no argument 'colour'"),
        ("model", {"name": "lenet5", "in_channels": 3, "num_classes": 2}, "size mismatch"),
        ("model", {"name": "lenet5", "in_channels": 1, "num_classes": 3}, "'classes' should have one name for each"),
        ("classes", "ab", "'classes' should have one name for each"),
        ("preprocess", {"image_size": 32}, "'preprocess' should have image_size, eval_resize, channels, mean, std"),
        ("preprocess", {**PREPROCESS, "mean": ["x"]}, "'preprocess' should have"),
        ("preprocess", {**PREPROCESS, "std": 0.5}, "'preprocess' should have"),
        ("preprocess", {**PREPROCESS, "image_size": 0}, "image_size=0: expected"),
        ("preprocess", {**PREPROCESS, "image_size": [32, 0]}, "image_size=0: expected"),
        ("preprocess", {**PREPROCESS, "image_size": "32"}, "'preprocess' should have"),
        ("preprocess", {**PREPROCESS, "fit": "fill"}, "'preprocess' should have"),
    ],
)
def test_file_of_another_version_is_one_line(entry, value, message, run_dir):
    path = run_dir / "checkpoints/best.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["cnnzoo"][entry] = value
    torch.save(saved, path)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        load_run(run_dir)
    assert str(error.value).startswith(f"{path} was written by another version of cnnzoo: ")
    assert "\n" not in str(error.value)


def test_file_without_the_networks_name_says_what_to_type(tmp_path):
    torch.save(create_model("lenet5").state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"does not say which network it is for; type model=FAMILY model\.name=NAME"):
        load_run(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"no weights " * 100, "cannot be read"),
        (save({"c": torch.zeros(1)}, {"cnnzoo": "{"}), "metadata 'cnnzoo' is not JSON"),
        (save({"c": torch.zeros(1)}, {"cnnzoo": "[1]"}), "was written by another version"),
        (save({"c": torch.zeros(1)}, {"cnnzoo": "{}"}), "lacks the entry 'model'"),
        (save({}, {"cnnzoo": "{}"}), "holds no state dict"),
    ],
)
def test_damaged_safetensors_file_is_one_line(content, message, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load_run(path)
    assert "w.safetensors" in str(error.value)
    assert "\n" not in str(error.value)
