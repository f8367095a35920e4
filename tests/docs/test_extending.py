"""The examples of docs/extending/: their files and commands work together, in a directory with nothing else."""

import csv
import json

import pytest
import torch

import cnnzoo
from tests.helpers import ROOT
from tests.helpers.docs import named_files, read_commands

PAGES = {page.stem: page for page in ROOT.glob("docs/extending/*.md") if page.stem != "README"}
SHORT = ("trainer=cpu", "trainer.max_epochs=2", "trainer.limit_train_batches=1", "run_dir=run")


@pytest.fixture
def run(fork, tmp_path):
    """`run(page, *more)` writes the page's files and runs its first `--config-dir` command: (output, run directory)."""

    def run(name, *more):
        for file, text in named_files(PAGES[name]).items():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(text)
        command = next(c for c in read_commands([PAGES[name]]) if "--config-dir" in c.arguments)
        process = fork(*command.arguments, *SHORT, *more, cwd=tmp_path)
        assert process.returncode == 0, process.stderr
        return process.stdout, tmp_path / "run"

    return run


def load_checkpoint(run_dir):
    return torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)


def test_each_page_has_its_files():
    kinds = {name: {file.rpartition("/")[0] for file in named_files(page)} for name, page in PAGES.items()}
    groups = {"network": "model", "schedule": "scheduler"}
    assert kinds == {name: {"", f"conf/{groups.get(name, name.replace('callback', 'callbacks'))}"} for name in PAGES}
    assert set(kinds) == {"network", "callback", "logger", "optimizer", "schedule", "data"}


@pytest.mark.long
def test_network_of_the_page(run, monkeypatch):
    output, run_dir = run("network")
    assert "tinynet (mynet.TinyNet)" in output
    with pytest.raises(cnnzoo.errors.UserError, match=r"trust_code=true"):
        cnnzoo.load_run(run_dir)
    monkeypatch.syspath_prepend(str(run_dir.parent))
    assert cnnzoo.load_run(run_dir, trust_code=True).arguments["args"]["width"] == 32


def test_callback_of_the_page(run):
    _, run_dir = run("callback", "callbacks.stop_at.acc1=0", "trainer.max_epochs=5")
    checkpoint = load_checkpoint(run_dir)
    assert checkpoint["global_step"] == 1
    (state,) = (state for key, state in checkpoint["callbacks"].items() if key.startswith("StopAt"))
    assert state == {"count": 1}


@pytest.mark.long
def test_logger_of_the_page(run):
    _, run_dir = run("logger")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert {"train/loss", "val/acc1", "test/acc1"} <= {name for line in lines for name in line}
    assert (run_dir / "metrics.csv").exists()


@pytest.mark.long
def test_optimizer_of_the_page(run):
    _, run_dir = run("optimizer")
    (state,) = load_checkpoint(run_dir)["optimizer_states"]
    assert [group["weight_decay"] for group in state["param_groups"]] == [0.1, 0]
    assert {name for values in state["state"].values() for name in values} == {"momentum"}


@pytest.mark.long
def test_schedule_of_the_page(run):
    _, run_dir = run("schedule", "trainer.max_epochs=3", "scheduler.cycles=1", "optimizer.lr=1")
    rates = [float(row["lr"]) for row in csv.DictReader((run_dir / "metrics.csv").open()) if row["lr"]]
    assert load_checkpoint(run_dir)["lr_schedulers"][0]["last_epoch"] == 3
    assert rates == pytest.approx([1, 0.75, 0.25])


@pytest.mark.long
def test_data_of_the_page(run, fork):
    output, run_dir = run("data")
    assert "shapes: 2 classes, 288 train, 32 val, 80 test images" in output
    arguments = ("run=run", "out=null", "trainer=cpu")
    refused = fork(*arguments, job="evaluate", cwd=run_dir.parent)
    assert refused.returncode == 1
    assert "its data uses shapes.Shapes" in refused.stderr
    evaluated = fork(*arguments, "trust_code=true", job="evaluate", cwd=run_dir.parent)
    assert evaluated.returncode == 0, evaluated.stderr
