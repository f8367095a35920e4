"""`load_run` takes a run directory or a checkpoint, and otherwise says what to type."""

import re

import pytest
import torch

from cnnzoo import load_run
from cnnzoo.errors import UserError
from cnnzoo.models import create_model


@pytest.fixture
def run_dir(tmp_path):
    """A run directory with `best.ckpt` alone."""
    net = create_model("lenet5", in_channels=1, num_classes=2)
    preprocess = {"image_size": 32, "eval_resize": 1.0, "channels": 1, "mean": [0.5], "std": [0.5]}
    metadata = {"model": dict(net.arguments), "preprocess": preprocess, "classes": ["cat", "dog"]}
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
