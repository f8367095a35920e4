"""`model=custom`: a network of the user trains, resumes, and is evaluated, exported and loaded, but only if trusted."""

import json
import signal

import pytest
import torch
from PIL import Image

import cnnzoo
from cnnzoo.data import Preprocess
from cnnzoo.errors import UserError
from cnnzoo.inference import load_run
from tests.training.test_resume import assert_same_run

TINYNET = """
from pathlib import Path

from torch import nn

Path(__file__).with_name("imported").touch()


class TinyNet(nn.Module):
    def __init__(self, num_classes, in_channels, width=16):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.1)
        )
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))
"""
OWN = ("model=custom", "model.target=zz_tinynet.TinyNet", "model.args.width=8")
TIMM = ("model=custom", "model.target=timm.create_model", "model.args.model_name=resnet10t", "data.image_size=16")
SHORT = ("trainer=cpu", "trainer.max_epochs=2", "trainer.limit_train_batches=5", "callbacks=minimal", "logger=csv")
KILLER = (
    "callbacks.checkpoint.every_n_seconds=1e-9",
    "callbacks.checkpoint.background=false",
    "+callbacks.killer._target_=tests.helpers.killer.Killer",
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A directory with the network of 20 lines, and an image."""
    directory = tmp_path_factory.mktemp("custom")
    (directory / "zz_tinynet.py").write_text(TINYNET)
    Image.new("RGB", (20, 20), (90, 90, 90)).save(directory / "image.png")
    return directory


@pytest.fixture(scope="module")
def run(fork, directory):
    """The directory of a run."""
    process = fork(*OWN, *SHORT, "ema=0.9", "run_dir=run", cwd=directory)
    assert process.returncode == 0, process.stderr
    assert "custom (zz_tinynet.TinyNet), 186 parameters" in process.stdout
    assert "predict.py run=run trust_code=true images=IMAGE" in process.stdout
    return directory / "run"


@pytest.fixture
def path(directory, monkeypatch):
    """As in a script beside the network; yields the file that importing the network creates."""
    monkeypatch.syspath_prepend(str(directory))
    imported = directory / "imported"
    imported.unlink(missing_ok=True)
    return imported


def test_checkpoint_is_not_loaded_without_trust(run, path):
    for what in (run, run / "checkpoints/last.ckpt"):
        with pytest.raises(UserError, match=r"zz_tinynet.TinyNet, whose code is not a part.*type trust_code=true"):
            cnnzoo.load_run(what)
    with pytest.raises(UserError, match=r"is a checkpoint of zz_tinynet.TinyNet, not of resnet20"):
        cnnzoo.create_model("resnet20", weights=run / "checkpoints/best.ckpt")
    assert not path.exists()


@pytest.mark.long
def test_jobs_import_nothing_without_trust(run, fork, directory, path):
    for job, arguments in {"evaluate": ["out=null"], "predict": ["images=image.png"], "export": []}.items():
        process = fork("run=run", *arguments, job=job, cwd=directory)
        assert process.returncode == 1
        assert process.stderr.count("\n") == 1
        assert "type trust_code=true" in process.stderr
    assert not path.exists()


def test_trusted_run_is_loaded(run, path):
    net = cnnzoo.load_run(run, trust_code=True)
    assert path.exists()
    assert not net.training
    assert net.classes == tuple("0123456789")
    assert isinstance(net.preprocess, Preprocess)
    assert net.arguments == {
        "name": "custom",
        "target": "zz_tinynet.TinyNet",
        "args": {"num_classes": 10, "in_channels": 1, "width": 8},
        "num_classes": 10,
        "in_channels": 1,
    }
    state = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[f"net.{name}"]) for name, value in net.state_dict().items())


def test_weights_are_loaded_into_a_given_network(run, path):
    expected = cnnzoo.load_run(run, trust_code=True)
    tinynet = type(expected)
    net = cnnzoo.load_run(run, network=tinynet(10, 1, width=8))
    images = net.preprocess(torch.zeros(9, 9, 3, dtype=torch.uint8).numpy())[None]
    assert torch.equal(net(images), expected(images))
    assert net.classes == expected.classes
    with pytest.raises(UserError, match=r"the weights do not fit the network zz_tinynet.TinyNet: size mismatch"):
        cnnzoo.load_run(run, network=tinynet(10, 1, width=9))
    with pytest.raises(UserError, match=r"network=resnet18: expected"):
        cnnzoo.load_run(run, network="resnet18")


def test_figures_of_an_evaluation_are_those_of_the_training(run, fork, directory):
    process = fork("run=run", "trust_code=true", "out=evaluation", "trainer=cpu", job="evaluate", cwd=directory)
    assert process.returncode == 0, process.stderr
    metrics = json.loads((run / "metrics.json").read_text())
    evaluation = json.loads((directory / "evaluation/evaluation.json").read_text())
    assert evaluation["members"][0]["acc1"] == metrics["test/acc1"]


def test_export_and_hub_are_loaded_only_with_trust(run, fork, directory, path, monkeypatch):
    process = fork("run=run", "trust_code=true", "format=safetensors", job="export", cwd=directory)
    assert process.returncode == 0, process.stderr
    path.unlink()
    monkeypatch.setattr(load_run, "download", lambda name, key: directory / "custom.safetensors")
    for what in (directory / "custom.safetensors", "hf://me/custom"):
        with pytest.raises(UserError, match=r"type trust_code=true"):
            cnnzoo.load_run(what)
    assert not path.exists()
    net = cnnzoo.load_run(directory / "custom.safetensors", trust_code=True)
    expected = cnnzoo.load_run(run, trust_code=True).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())


@pytest.mark.long
def test_onnx_program_is_exported(run, fork, directory):
    arguments = ("run=run", "trust_code=true", "format=onnx", "preprocess=true")
    process = fork(*arguments, job="export", cwd=directory)
    assert process.returncode == 0, process.stderr
    assert "compared  largest difference" in process.stdout


@pytest.mark.long
def test_all_callbacks_accept_the_network(fork, directory):
    process = fork(*OWN, *SHORT[:3], "callbacks=full", "freeze_epochs=1", "run_dir=full", cwd=directory)
    assert process.returncode == 0, process.stderr
    assert "training only head.bias, head.weight for 1 epoch" in process.stdout


@pytest.mark.long
def test_page_of_a_shared_run_says_how_to_load_it(run, fork, directory):
    arguments = ("run=run", "repo=me/tiny", "dry_run=true", "out=shared", "trust_code=true")
    process = fork(*arguments, job="share", cwd=directory)
    assert process.returncode == 0, process.stderr
    card = (directory / "shared/README.md").read_text()
    assert 'cnnzoo.load_run("hf://me/tiny", trust_code=True)' in card
    assert "The network `zz_tinynet.TinyNet`, whose code is not in this repository" in card


@pytest.mark.long
def test_layers_are_described(fork, directory):
    size = ("image_size=8", "channels=1", "model.num_classes=10")
    process = fork(*OWN, *size, job="describe", cwd=directory)
    assert process.returncode == 0, process.stderr
    assert "186" in process.stdout.replace(",", "")


@pytest.mark.long
@pytest.mark.parametrize(("name", "network"), [("own", OWN), ("timm", TIMM)])
def test_killed_run_resumes_bit_identically_and_exports(fork, directory, path, name, network):
    if name == "timm":
        pytest.importorskip("timm")
    overrides = (*network, *SHORT, *KILLER, f"model.name={name}", "data.batch_size=16", "ema=0.9")
    unbroken = fork(*overrides, f"run_dir={name}_unbroken", cwd=directory)
    assert unbroken.returncode == 0, unbroken.stderr
    killed = fork(*overrides, f"run_dir={name}", cwd=directory, KILL="SIGKILL on_train_batch_end 8")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = fork(f"resume={name}", cwd=directory)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(directory / name, directory / f"{name}_unbroken")
    exported = fork(f"run={name}", "trust_code=true", job="export", cwd=directory)
    assert exported.returncode == 0, exported.stderr
    net = cnnzoo.load_run(directory / name, trust_code=True)
    images = torch.rand(3, 1, *net.preprocess.image_size)
    program = torch.export.load(directory / f"{name}.pt2").module()
    torch.testing.assert_close(program(images), net(images))
