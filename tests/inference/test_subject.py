"""The subject of a job: what `run=` and `model=` select."""

import os

import pytest
import torch
from omegaconf import OmegaConf

from cnnzoo import cli
from cnnzoo.errors import UserError
from cnnzoo.inference.subject import find_runs, load_subject, load_subjects
from cnnzoo.models import create_model

PREPROCESS = {"image_size": 32, "eval_resize": 1.0, "channels": 1, "mean": [0.5], "std": [0.5]}


@pytest.fixture(scope="module")
def config():
    """A function that gives the configuration of a job: the defaults, and keys on top."""
    base = OmegaConf.create({"run": None, "checkpoint": None})
    model = cli.ConfigTree("train").compose(["model=lenet"]).model

    def build(run=None, checkpoint=None, **model_keys):
        with_model = {"model": OmegaConf.merge(model, model_keys)} if model_keys else {}
        return OmegaConf.merge(base, {"run": run, "checkpoint": checkpoint}, with_model)

    return build


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three runs in `runs/`, of which the last is unfinished and the second was changed last."""
    monkeypatch.chdir(tmp_path)
    net = create_model("lenet5", in_channels=1, num_classes=2)
    metadata = {"model": dict(net.arguments), "preprocess": PREPROCESS, "classes": ["cat", "dog"]}
    state = {f"net.{key}": value for key, value in net.state_dict().items()}
    for n, name in enumerate(("a", "b", "c [1]")):
        (tmp_path / "runs" / name / "checkpoints").mkdir(parents=True)
        torch.save({"cnnzoo": metadata, "state_dict": state}, tmp_path / "runs" / name / "checkpoints/best.ckpt")
        if n < 2:
            (tmp_path / "runs" / name / "metrics.json").write_text("{}")
            os.utime(tmp_path / "runs" / name / "metrics.json", (n, n))
    return tmp_path / "runs"


def test_run_selects_directories_patterns_and_the_latest(runs, config):
    subject = load_subject(config("runs/a"))
    assert (subject.label, subject.run_dir, subject.name) == ("runs/a", runs.relative_to(runs.parent) / "a", "lenet5")
    assert subject.net.classes == ("cat", "dog")
    assert [path.name for path in find_runs("latest")] == ["b"]
    assert [path.name for path in find_runs("runs/**")] == ["a", "b"]
    assert len(load_subjects(config("runs/*"))) == 2
    with pytest.raises(UserError, match=r"matches 2 runs; type one of them, for example run=runs/a"):
        load_subject(config("runs/*"))


def test_name_with_brackets_is_a_directory_if_it_exists(runs, config):
    with pytest.raises(UserError, match="has not finished; type checkpoint=best"):
        load_subject(config("runs/c [1]"))
    assert load_subject(config("runs/c [1]", "best")).run_dir == runs.relative_to(runs.parent) / "c [1]"


def test_checkpoint_file_has_no_run_dir(runs, config):
    assert load_subject(config("runs/a/checkpoints/best.ckpt")).run_dir is None


def test_model_takes_what_the_file_says(runs, config):
    subject = load_subject(config(name="lenet5", weights="runs/a/checkpoints/best.ckpt"))
    assert subject.net.classes == ("cat", "dog")
    assert subject.net.preprocess.channels == 1
    assert not subject.net.training
    assert subject.label == "lenet5 with runs/a/checkpoints/best.ckpt"


def test_random_weights_are_refused_unless_they_suffice(config, caplog):
    with pytest.raises(UserError, match=r"its weights would be random; type model\.weights=FILE"):
        load_subject(config(name="lenet5"))
    subject = load_subject(config(name="lenet5"), needs_weights=False)
    assert (subject.label, subject.net.classes[-1], subject.net.preprocess.image_size) == (
        "lenet5 with random weights",
        "9",
        (32, 32),
    )
    assert "model.name=lenet5: holds no preprocessing and no class names; assumed" in caplog.text


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "run: nothing to work on"),
        ({"run": "runs/a", "name": "lenet5"}, "run=runs/a and model=lenet: expected one of them"),
        ({"name": "lenet5", "checkpoint": "best"}, "checkpoint=best: it selects a checkpoint of run=DIR"),
        ({"run": "nothing*"}, r"run=nothing\*: found no finished run"),
        (
            {"name": "lenet5", "weights": "runs/a/checkpoints/best.ckpt", "num_classes": 3},
            "leave model.num_classes out",
        ),
        ({"name": "resnet18"}, "it is of the family resnet; also type model=resnet"),
    ],
)
def test_bad_selection_is_one_line(keys, message, runs, config):
    with pytest.raises(UserError, match=message):
        load_subject(config(**keys))


def test_two_channels_are_refused(runs, config):
    torch.save(create_model("lenet5", in_channels=2).state_dict(), "w.pth")
    with pytest.raises(UserError, match="neither grey nor RGB"):
        load_subject(config(name="lenet5", weights="w.pth"))
