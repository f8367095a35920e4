"""The job share: the files of the repository, the card, what stays private, and the upload with a fake of the Hub."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from omegaconf import OmegaConf

import cnnzoo
from cnnzoo import cli
from cnnzoo.data import Preprocess
from cnnzoo.errors import UserError
from cnnzoo.export.card import _preprocessing_text, training_command
from cnnzoo.jobs import share
from cnnzoo.models import create_model

OVERRIDES = [
    "model=lenet",
    "data=folder",
    "data.root='/home/alice/flowers'",
    "data.cache.persist=cache_of_alice",
    "model.weights='/home/alice/w.pth'",
    "optimizer.lr=0.1",
    "logger=wandb",
    "logger.wandb.entity=alice",
    "augment.mean=[0.5]",
    "+trainer.callbacks=[~/alice/x]",
    "run_dir='/home/alice/run'",
]
METRICS = {
    **{"test/acc1": 0.9, "test/f1": 0.89, "test/loss": 0.3, "val/acc1": 0.8, "val/loss": 0.4},
    **{"parameters": 1234, "epochs": 3, "seconds": 6.1, "best_epoch": 2},
}
ENVIRONMENT = {"commit": "abc", "changed": True, "python": "3.12.1", "packages": {"torch": "2.11.0", "dali": None}}


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A finished run of lenet5 with three classes."""
    directory = tmp_path_factory.mktemp("run")
    net = create_model("lenet5", in_channels=1, num_classes=3)
    preprocess = {"image_size": 32, "eval_resize": 1.25, "channels": 1, "mean": [0.5], "std": [0.25]}
    metadata = {"model": dict(net.arguments), "preprocess": preprocess, "classes": ["Ähre", "a `b`", "c|d"]}
    (directory / "checkpoints").mkdir(parents=True)
    (directory / ".hydra").mkdir()
    state = {f"net.{key}": value for key, value in net.state_dict().items()}
    torch.save({"cnnzoo": metadata, "state_dict": state}, directory / "checkpoints/best.ckpt")
    config = cli.ConfigTree("train").compose(["model=lenet", "data=folder", "logger=wandb"])
    OmegaConf.update(config, "data.root", "/home/alice/flowers")
    OmegaConf.update(config, "model.weights", "~alice/w.pth")
    OmegaConf.update(config, "data.cache.persist", "cache_of_alice")
    OmegaConf.save(config, directory / ".hydra/config.yaml")
    OmegaConf.save(OmegaConf.create(OVERRIDES), directory / ".hydra/overrides.yaml")
    (directory / "metrics.json").write_text(json.dumps(METRICS))
    (directory / "environment.json").write_text(json.dumps(ENVIRONMENT))
    rows = ["step,epoch,train/loss_epoch,train/acc1_epoch,val/loss,val/acc1", "9,0,,,0.5,0.7", "9,0,0.6,0.6,,"]
    (directory / "metrics.csv").write_text("\n".join([*rows, "19,1,,,0.4,0.8"]))
    return directory


@pytest.fixture
def run_dir(finished_run, tmp_path):
    """A copy of the finished run, to change."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture(scope="module")
def job():
    """Runs the job; the arguments are its keys."""
    config = cli.ConfigTree("share").compose([])

    def run(**keys):
        values = {key: str(value) if isinstance(value, Path) else value for key, value in keys.items()}
        share.main(OmegaConf.merge(config, {"repo": "me/flowers", **values}))

    return run


class FakeHub(SimpleNamespace):
    """Stands for huggingface_hub: records the calls, and has the files that were uploaded."""

    def __init__(self, files=(), error=None):
        super().__init__(calls=[], files=dict.fromkeys(files, b""), error=error)

    def create_repo(self, repo, **options):
        self.calls.append((repo, options))
        if self.error is not None:
            raise self.error

    def file_exists(self, repo, name):
        return name in self.files

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.files |= {path.name: path.read_bytes() for path in folder_path.iterdir()}
        self.calls.append(repo_id)


@pytest.fixture
def hub(monkeypatch):
    def put(**options):
        fake = FakeHub(**options)
        for name in ("create_repo", "file_exists", "upload_folder"):
            monkeypatch.setattr(f"huggingface_hub.{name}", getattr(fake, name))
        monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_token")
        return fake

    return put


def test_dry_run_writes_the_folder_and_uploads_nothing(run_dir, job, hub, tmp_path, capsys):
    fake, out = hub(), tmp_path / "o"
    job(run=run_dir, dry_run=True, out=out, license="mit")
    assert fake.calls == []
    assert {path.name for path in out.iterdir()} == {
        *("model.safetensors", "README.md", "config.yaml", "training_curves.png")
    }
    net, expected = cnnzoo.load_run(out / "model.safetensors"), cnnzoo.load_run(run_dir)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in expected.state_dict().items())
    assert net.classes == ("Ähre", "a `b`", "c|d")
    assert (out / "training_curves.png").read_bytes().startswith(b"\x89PNG")
    assert "written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "fit", "text"),
    [
        (
            (24, 40),
            "crop",
            "it to cover 30 x 50 pixels (height x width) (bilinear, antialiased), crops the central",
        ),
        (
            (24, 40),
            "pad",
            "it to fit inside 24 x 40 pixels (height x width) (bilinear, antialiased), fills the rest",
        ),
        ((32, 32), "squash", "it to 32 x 32 pixels (bilinear, antialiased), scales"),
    ],
)
def test_card_says_how_images_fit(size, fit, text):
    assert f"resizes {text}" in _preprocessing_text(Preprocess(size, 1.25, 3, [0.5] * 3, [0.5] * 3, fit))


def test_card_is_readable_by_the_hub(run_dir, job, tmp_path):
    job(run=run_dir, dry_run=True, out=tmp_path / "o", license="mit")
    card = ModelCard.load(tmp_path / "o/README.md")
    assert (card.data.license, card.data.library_name) == ("mit", "cnnzoo")
    assert card.data.pipeline_tag == "image-classification"
    assert {"lenet5", "lenet"} <= set(card.data.tags)
    (accuracy, f1) = card.data.eval_results
    assert (accuracy.metric_type, accuracy.metric_value, accuracy.dataset_split) == ("accuracy", 0.9, "test")
    assert (f1.metric_value, f1.dataset_type) == (0.89, "imagefolder")
    for line in (
        'net = cnnzoo.load_run("hf://me/flowers")',
        "| Top-1 accuracy | 90.00% | 80.00% |",
        "| commit | abc, with changes |",
        "resizes its shorter side to 40 pixels",
        "Ähre, a `b`, c|d",
        "the best of 3 epochs",
        "![Loss and accuracy by step](training_curves.png)",
    ):
        assert line in card.text
    assert "dali" not in card.text


def test_published_files_hide_paths_and_accounts(run_dir, job, tmp_path):
    job(run=run_dir, dry_run=True, out=tmp_path / "o")
    for name in ("README.md", "config.yaml", "model.safetensors"):
        content = (tmp_path / "o" / name).read_bytes()
        assert b"alice" not in content
        assert str(tmp_path).encode() not in content
    config = yaml.safe_load((tmp_path / "o/config.yaml").read_text())
    assert (config["data"]["root"], config["model"]["weights"], config["run_dir"]) == ("PATH", "PATH", "PATH")
    assert config["optimized_metric"] == "val/acc1"
    assert "logger" not in config
    assert training_command(run_dir) == (
        "python train.py model=lenet data=folder data.root=PATH data.cache.persist=PATH model.weights=PATH "
        "optimizer.lr=0.1 'augment.mean=[0.5]' +trainer.callbacks=PATH"
    )


def test_resumes_with_changes_are_part_of_the_command(run_dir):
    entry = {"overrides": ["trainer.max_epochs=9", "resume='/home/alice/run'"], "epoch": 3}
    OmegaConf.save(OmegaConf.create([entry, {"overrides": [], "epoch": 4}]), run_dir / "resumes.yaml")
    assert training_command(run_dir).splitlines()[1:] == ["# resumed after epoch 3 with trainer.max_epochs=9"]


def test_run_without_curves_and_environment_is_shared(run_dir, job, tmp_path):
    (run_dir / "metrics.csv").unlink()
    (run_dir / "environment.json").unlink()
    (run_dir / "metrics.json").write_text(json.dumps({"parameters": 1, "epochs": 1, "seconds": 1, "val/loss": 1.0}))
    job(run=run_dir, dry_run=True, out=tmp_path / "o")
    text = (tmp_path / "o/README.md").read_text()
    assert not (tmp_path / "o/training_curves.png").exists()
    assert "trained with |" not in text
    assert "![" not in text
    assert "no test split" in text
    assert "model-index" not in text


def test_missing_matplotlib_leaves_the_picture_out(run_dir, job, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with caplog.at_level("INFO"):
        job(run=run_dir, dry_run=True, out=tmp_path / "o")
    assert not (tmp_path / "o/training_curves.png").exists()
    assert 'pip install "cnnzoo[plot]"' in caplog.text


def test_upload_creates_the_repository(run_dir, job, hub, capsys):
    fake = hub()
    job(run=run_dir, private=True)
    assert fake.calls == [("me/flowers", {"private": True, "exist_ok": True}), "me/flowers"]
    assert set(fake.files) == {"model.safetensors", "README.md", "config.yaml", "training_curves.png"}
    output = capsys.readouterr().out
    assert "https://huggingface.co/me/flowers" in output
    assert "written" not in output


def response_error(status):
    error = OSError("Client Error\n\nlong text")
    error.response = SimpleNamespace(status_code=status)
    return error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"files": ["model.safetensors"]}, "holds a network already; choose another name"),
        ({"error": response_error(401)}, "does not accept the token; type hf auth login"),
        ({"error": response_error(403)}, "may not write there"),
        (
            {"error": OSError("[Errno -2] Name or service not known")},
            "service not known; try again, or type dry",
        ),
        ({"error": TimeoutError()}, "TimeoutError"),
    ],
)
def test_failed_upload_is_one_line(options, message, run_dir, job, hub):
    hub(**options)
    with pytest.raises(UserError, match=message) as raised:
        job(run=run_dir)
    assert str(raised.value).startswith("repo=me/flowers: ")
    assert "\n" not in str(raised.value)


def test_missing_token_and_package_are_one_line(run_dir, job, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match=r"no token .* hf auth login, or set HF_TOKEN"):
        job(run=run_dir)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r'pip install "cnnzoo\[hub\]", or dry_run=true'):
        job(run=run_dir)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"repo": None}, "repo: no repository"),
        ({"repo": "flowers"}, "repo=flowers: expected USER/NAME"),
        ({"repo": "me/flow--ers"}, "expected USER/NAME"),
        ({"repo": "me/flowers/x"}, "expected USER/NAME"),
        ({"repo": f"me/{'x' * 100}"}, "expected USER/NAME"),
        ({"license": "MIT License"}, "license=MIT License: expected an identifier"),
        ({"dry_run": True}, "type out=DIR"),
        ({"private": "yes"}, "private=yes: expected true or false"),
        ({"run": None}, "run: nothing to share"),
        ({"run": "hf://me/flowers"}, "expected a run directory"),
        ({"run": "nowhere"}, "nowhere has no checkpoints"),
    ],
)
def test_bad_key_is_refused(keys, message, run_dir, job, hub):
    fake = hub()
    with pytest.raises(UserError, match=message):
        job(**{"run": run_dir, **keys})
    assert fake.calls == []


def test_nothing_is_overwritten_or_left_behind(run_dir, job, tmp_path):
    (tmp_path / "o").mkdir()
    with pytest.raises(UserError, match=r"out=.*: exists already"):
        job(run=run_dir, dry_run=True, out=tmp_path / "o")
    with pytest.raises(UserError, match=r"run_dir|not a directory that can be written to"):
        job(run=run_dir, dry_run=True, out=run_dir / "metrics.json/o")
    (run_dir / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match=r"metrics\.json is damaged, or of another version"):
        job(run=run_dir, dry_run=True, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_unfinished_run_and_file_are_refused(run_dir, job):
    with pytest.raises(UserError, match=r"best\.ckpt: expected a run directory"):
        job(run=run_dir / "checkpoints/best.ckpt", dry_run=True, out="o")
    (run_dir / "metrics.json").unlink()
    with pytest.raises(UserError, match="has not finished; continue it"):
        job(run=run_dir, dry_run=True, out="o")
