"""The table after training: the commands that it prints work and repeat only what concerns the training."""

import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from cnnzoo.models import create_model
from cnnzoo.runtime.formatting import plural
from cnnzoo.training.run_summary import final_table, rerun_command
from cnnzoo.training.train import check_batches, lower_batch_size
from tests.helpers import ROOT

METRICS = {"seconds": 8.2, "epochs": 1, "val/acc1": 0.5, "val/loss": 1.0, "best_epoch": 1}


@pytest.fixture
def write_run(tmp_path):
    """`write_run(name, *overrides)` writes the files of a finished run that the table reads; returns its directory."""

    def write(name, *overrides):
        run_dir = tmp_path / name
        (run_dir / ".hydra").mkdir(parents=True)
        (run_dir / "checkpoints").mkdir()
        OmegaConf.save(OmegaConf.create(list(overrides)), run_dir / ".hydra" / "overrides.yaml")
        net = create_model("lenet5", in_channels=1, num_classes=2)
        preprocess = {"image_size": 32, "eval_resize": 1.0, "channels": 1, "mean": [0.5], "std": [0.5]}
        metadata = {"model": dict(net.arguments), "preprocess": preprocess, "classes": ["cat", "dog"]}
        state = {f"net.{key}": value for key, value in net.state_dict().items()}
        torch.save({"cnnzoo": metadata, "state_dict": state}, run_dir / "checkpoints" / "best.ckpt")
        return run_dir

    return write


@pytest.mark.parametrize(
    "name", ["it's $HOME!", pytest.param("run", marks=pytest.mark.long), pytest.param("a run", marks=pytest.mark.long)]
)
def test_use_it_prints_the_class_of_an_image(name, write_run, tmp_path, monkeypatch):
    run_dir = write_run(name)
    (run_dir / "metrics.json").write_text("{}")
    monkeypatch.setenv("CNNZOO_COMMAND", "python {job}.py")
    command = shlex.split(final_table(METRICS, run_dir)["use it"])
    Image.new("L", (40, 40)).save(tmp_path / "IMAGE.png")
    arguments = [argument.replace("=IMAGE", "=IMAGE.png") for argument in command]
    process = subprocess.run(
        [sys.executable, str(ROOT / arguments[1]), *arguments[2:]],
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.stdout.splitlines()[1].split()[:2] in (["IMAGE.png", "cat"], ["IMAGE.png", "dog"]), process.stderr


def test_table_without_top5_and_with_one_epoch(write_run):
    table = final_table(METRICS, write_run("run"))
    assert table["validation"] == "acc1 0.5000, loss 1.0000 (epoch 1, the best)"
    assert table["time"] == "8 s for 1 epoch"


def test_rerun_command_omits_how_the_run_was_watched(write_run, monkeypatch):
    monkeypatch.setenv("CNNZOO_COMMAND", "cnnzoo {job}")
    watched = ["trainer=profile", "debug=fast", "test=false", "resume=auto", "run_dir=x", "trainer.profiler.rows=5"]
    run_dir = write_run("run", "model=lenet", *watched, "trainer=cpu", "optimizer.lr=0.1", "data.root='/a b'")
    assert rerun_command(run_dir) == "cnnzoo train model=lenet trainer=cpu optimizer.lr=0.1 'data.root=/a b'"


@pytest.mark.parametrize(("count", "text"), [(0, "0 steps"), (1, "1 step"), (1293, "1,293 steps")])
def test_plural_has_the_form_of_the_count(count, text):
    assert plural(count, "step") == text


@pytest.mark.parametrize(
    ("images", "world_size", "batch_size"),
    [(46, 1, 8), (63, 1, 8), (64, 1, 64), (100, 2, 8), (128, 2, 64), (9, 1, 2), (3, 1, 2), (2, 1, 2), (1, 1, 1)],
)
def test_lower_batch_size_leaves_at_least_four_batches(images, world_size, batch_size):
    data = SimpleNamespace(batch_size=64, split=lambda name: range(images))
    cfg = OmegaConf.create({"data": {"batch_size": 64}})
    lower_batch_size(data, cfg, world_size)
    assert data.batch_size == cfg.data.batch_size == batch_size


@pytest.mark.parametrize(("limit", "batches"), [(1.0, 20), (0.5, 10), (3, 3), (99, 20)])
def test_check_batches_counts_an_epoch(limit, batches):
    trainer = SimpleNamespace(limit_train_batches=limit, val_check_interval=1.0, overfit_batches=0.0)
    assert check_batches(trainer, 20) == batches
