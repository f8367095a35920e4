"""Sweeps: the table of their jobs, resuming one that was killed, and their plugins."""

import csv
import importlib.util
import io
import json
import re
import signal
import subprocess
import sys

import hydra
import pytest
from rich.console import Console

from cnnzoo import cli
from cnnzoo.cli import sweep
from cnnzoo.errors import UserError

SHORT = ("trainer=cpu", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1")
SWEEP = ("-m", "model=lenet,squeezenet", "optimizer.lr=0.1,0.01", *SHORT, "test=false", "callbacks=minimal")


def file_states(run_dir):
    """The time of change and the size of each file of a job."""
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


@pytest.mark.long
def test_killed_sweep_resumes_only_unfinished_jobs(fork, tmp_path):
    command = [sys.executable, str(cli.CONF.parent / "train.py"), *SWEEP, "run_dir=a sweep"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        output = ""
        while not re.search("^run .*2_squeezenet1_1$", output, re.MULTILINE):
            output += (line := process.stdout.readline())
            assert line, output
        process.send_signal(signal.SIGKILL)
    sweep_dir = tmp_path / "a sweep"
    finished = [sweep_dir / "0_lenet5", sweep_dir / "1_lenet5"]
    assert [path.parent for path in sorted(sweep_dir.glob("*/metrics.json"))] == finished
    before = [file_states(run_dir) for run_dir in finished]
    (sweep_dir / "2_squeezenet1_1/checkpoints").mkdir(exist_ok=True)
    (sweep_dir / "2_squeezenet1_1/checkpoints/torn.ckpt").touch()  # a killed job may leave one

    resumed = fork(*SWEEP, "run_dir=a sweep", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert resumed.stdout.count("has finished already") == 2
    assert len(re.findall("^model ", resumed.stdout, re.MULTILINE)) == 2  # the jobs that ran now
    assert [file_states(run_dir) for run_dir in finished] == before
    assert not list(sweep_dir.glob("*/checkpoints/torn.ckpt"))
    assert not list(sweep_dir.glob("*/.hydra.new"))
    rows = list(csv.DictReader((sweep_dir / "summary.csv").open()))
    assert sorted((row["model"], row["optimizer.lr"]) for row in rows) == [
        ("lenet", "0.01"),
        ("lenet", "0.1"),
        ("squeezenet", "0.01"),
        ("squeezenet", "0.1"),
    ]
    for row in rows:
        metrics = json.loads((tmp_path / row["run"] / "metrics.json").read_text())
        assert float(row["val/acc1"]) == metrics["val/acc1"]
        assert row["state"] == "finished"
    accuracies = [float(row["val/acc1"]) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    printed = [line.split()[-1] for line in resumed.stdout.splitlines() if re.search(r" \d_(lenet|squeeze)", line)]
    assert printed[-4:] == [row["run"].split("/")[-1] for row in rows]

    other = fork(*SWEEP[:2], "optimizer.lr=0.2,0.01", *SWEEP[3:], "run_dir=a sweep", cwd=tmp_path)
    assert other.returncode == 1
    assert "job 0 there is 'model=lenet optimizer.lr=0.1 " in other.stderr
    assert "in this sweep it is 'model=lenet optimizer.lr=0.2 " in other.stderr
    assert "Traceback" not in other.stdout + other.stderr
    assert [file_states(run_dir) for run_dir in finished] == before


def make_job(sweep_dir, name, *overrides, metrics=None, error=None, metric="val/acc1"):
    """Write the files of a job that a summary reads."""
    config_dir = sweep_dir / name / ".hydra"
    config_dir.mkdir(parents=True)
    (config_dir / "overrides.yaml").write_text("".join(f"- {override}\n" for override in overrides))
    (config_dir / "config.yaml").write_text(f"optimized_metric: {metric}\n")
    if metrics is not None:
        (sweep_dir / name / "metrics.json").write_text(json.dumps(metrics))
    if error is not None:
        (sweep_dir / name / "error.txt").write_text(error)
    return sweep_dir / name


def make_pending_job(run_dir, *overrides):
    """Write what Hydra writes before a job runs."""
    temporary = make_job(run_dir.parent, run_dir.name + ".tmp", *overrides)
    run_dir.mkdir(exist_ok=True)
    (temporary / ".hydra").rename(run_dir / ".hydra.new")
    temporary.rmdir()


def test_summary_is_sorted_and_names_failed_jobs(tmp_path):
    make_job(tmp_path, "0_a", "model=a", "seed=0", "optimizer.lr=0.1", metrics={"val/acc1": 0.5, "seconds": 3})
    make_job(tmp_path, "1_b", "model=b", "seed=0", metrics={"val/acc1": 0.75, "test/acc1": 0.7, "seconds": 12345.6})
    make_job(tmp_path, "2_c", "model=c", "seed=0", error="the loss is nan\n")
    make_job(tmp_path, "10_d", "model=d", "seed=0")
    rows = sweep.write_summary(tmp_path)
    assert [(row["job"], row["state"]) for row in rows] == [
        (1, "finished"),
        (0, "finished"),
        (2, "failed"),
        (10, "unfinished"),
    ]
    assert [row["optimizer.lr"] for row in rows] == ["", "0.1", "", ""]
    assert "seed" not in rows[0]  # it is the same in all jobs
    assert list(rows[0]) == [
        "job",
        "model",
        "optimizer.lr",
        "val/acc1",
        "test/acc1",
        "seconds",
        "state",
        "run",
        "error",
    ]
    csv_rows = list(csv.DictReader((tmp_path / "summary.csv").open()))
    assert [row["job"] for row in csv_rows] == ["1", "0", "2", "10"]
    Console(width=120, file=(terminal := io.StringIO())).print(sweep.summary_table(rows))
    lines = [line.split() for line in terminal.getvalue().splitlines()]
    assert lines[1] == ["1", "b", "0.7500", "0.7000", "12,346", "1_b"]
    assert lines[3] == ["2", "c", "2_c:", "the", "loss", "is", "nan"]


def test_summary_of_losses_has_smallest_first(tmp_path):
    make_job(tmp_path, "0_a", "seed=0", metrics={"val/loss": 0.5}, metric="val/loss")
    make_job(tmp_path, "1_a", "seed=1", metrics={"val/loss": 0.2}, metric="val/loss")
    assert [row["job"] for row in sweep.write_summary(tmp_path)] == [1, 0]
    assert sweep.write_summary(tmp_path / "nothing") == []


def test_run_job_repeats_failed_but_not_finished_jobs(tmp_path):
    run_dir = tmp_path / "3_a"
    calls = []

    def fail(resume):
        calls.append((resume, sorted(path.name for path in run_dir.iterdir())))
        raise UserError("no\nluck")

    make_pending_job(run_dir, "seed=0")
    with pytest.raises(UserError, match="no"):
        sweep.run_job(fail, run_dir)
    assert (run_dir / "error.txt").read_text() == "no luck\n"
    assert sweep.list_jobs(tmp_path)[0].state == "failed"
    (run_dir / "checkpoints").mkdir()
    (run_dir / "checkpoints/torn.tmp").touch()
    (run_dir / "train.log").touch()
    make_pending_job(run_dir, "seed=0")
    with pytest.raises(UserError, match="no"):
        sweep.run_job(fail, run_dir)  # starts again, because there is no checkpoint
    (run_dir / "checkpoints").mkdir()
    (run_dir / "checkpoints/last.ckpt").touch()
    (run_dir / "metrics.csv").touch()
    make_pending_job(run_dir, "seed=0")
    with pytest.raises(UserError, match="no"):
        sweep.run_job(fail, run_dir)
    assert calls == [
        (False, [".hydra"]),
        (False, [".hydra", "train.log"]),
        (True, [".hydra", "checkpoints", "metrics.csv", "train.log"]),
    ]

    def train(resume):
        assert resume
        (run_dir / "metrics.json").write_text('{"val/acc1": 0.25}')
        return 0.25

    make_pending_job(run_dir, "seed=0")
    assert sweep.run_job(train, run_dir) == 0.25
    make_pending_job(run_dir, "seed=0")
    assert sweep.run_job(fail, run_dir) == 0.25  # `fail` is not called
    assert not (run_dir / ".hydra.new").exists()
    assert (run_dir / ".hydra/overrides.yaml").read_text() == "- seed=0\n"


def test_run_job_with_other_overrides_raises(tmp_path):
    make_job(tmp_path, "0_a", "model=a", "seed=0", metrics={"val/acc1": 0.5})
    for run_dir, overrides in ((tmp_path / "0_a", ("model=a", "seed=1")), (tmp_path / "0_b", ("model=b", "seed=0"))):
        make_pending_job(run_dir, *overrides)
        with pytest.raises(sweep.SweepError, match=r"job 0 there is 'model=a seed=0', .* it is 'model=") as error:
            sweep.run_job(lambda resume: pytest.fail("trained"), run_dir)
        assert " ".join(overrides) in str(error.value)
    assert (tmp_path / "0_a/.hydra/overrides.yaml").read_text() == "- model=a\n- seed=0\n"
    make_pending_job(tmp_path / "0_a", "seed=0", "model=a")  # the same job, with its overrides in another order
    assert sweep.run_job(lambda resume: pytest.fail("trained"), tmp_path / "0_a") == 0.5


def test_sweep_into_run_and_sweep_without_m_raise(tmp_path):
    (tmp_path / "metrics.json").touch()
    with pytest.raises(UserError, match="holds a run, not a sweep"):
        cli.prepare(["-m", "seed=1,2", f"run_dir={tmp_path}"], job="train", help_text="")
    with pytest.raises(UserError, match="sweep=grid needs a multirun; add -m"):
        cli.prepare(["sweep=grid"], job="train", help_text="")


@pytest.mark.parametrize("choice", cli.ConfigTree("train").choices("sweep"))
def test_every_sweep_composes(choice):
    try:
        argv, _ = cli.prepare(["-m", f"sweep={choice}"], job="train", help_text="")
    except UserError as error:
        pytest.skip(str(error))
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        cfg = hydra.compose("train", overrides=argv[1:], return_hydra_config=True)
    assert cfg.hydra.sweep.dir.startswith("runs/sweeps/")
    assert (cfg.hydra.sweeper.get("params") is not None) == (choice in ("grid", "optuna"))
    assert ("submitit" in cfg.hydra.launcher._target_) == (choice in ("parallel", "slurm"))


@pytest.mark.parametrize(
    ("choice", "extra"),
    [
        ("optuna", "optuna"),
        ("slurm", "slurm"),
        ("parallel", "slurm"),
        ("[grid,slurm]", "slurm"),
    ],
)
def test_missing_plugin_raises_with_pip_command(choice, extra, monkeypatch):
    monkeypatch.setattr(sweep, "find_spec", lambda name: importlib.util.find_spec(f"nowhere.{name}"))
    name = choice.split(",")[-1].strip("]")
    with pytest.raises(UserError, match=rf'sweep={name} needs .* type pip install "cnnzoo\[{extra}\]"$'):
        cli.prepare(["-m", f"sweep={choice}"], job="train", help_text="")
