"""Sweeps: the table of their jobs, and going on where one was killed."""

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

QUICK = ("trainer=cpu", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1")
SWEEP = ("-m", "model=lenet,squeezenet", "optimizer.lr=0.1,0.01", *QUICK, "test=false", "callbacks=minimal")


def state(run_dir):
    """What a job's directory holds, and since when."""
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def test_a_sweep_killed_after_two_of_four_jobs_finishes_the_other_two(shell, tmp_path):
    command = [sys.executable, str(cli.CONF.parent / "train.py"), *SWEEP, "run_dir=a sweep"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        said = ""
        while not re.search("^run .*2_squeezenet1_1$", said, re.MULTILINE):
            said += (line := process.stdout.readline())
            assert line, said
        process.send_signal(signal.SIGKILL)
    sweep = tmp_path / "a sweep"
    done = [sweep / "0_lenet5", sweep / "1_lenet5"]
    assert [path.parent for path in sorted(sweep.glob("*/metrics.json"))] == done
    before = [state(path) for path in done]
    (sweep / "2_squeezenet1_1/checkpoints").mkdir(exist_ok=True)
    (sweep / "2_squeezenet1_1/checkpoints/torn.ckpt").touch()  # as a killed job may leave it

    again = shell(*SWEEP, "run_dir=a sweep", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("is finished already") == 2
    assert len(re.findall("^model ", again.stdout, re.MULTILINE)) == 2  # trained now
    assert [state(path) for path in done] == before
    assert not list(sweep.glob("*/checkpoints/torn.ckpt"))
    assert not list(sweep.glob("*/.hydra.new"))
    rows = list(csv.DictReader((sweep / "summary.csv").open()))
    assert sorted((row["model"], row["optimizer.lr"]) for row in rows) == [
        ("lenet", "0.01"),
        ("lenet", "0.1"),
        ("squeezenet", "0.01"),
        ("squeezenet", "0.1"),
    ]
    for row in rows:
        figures = json.loads((tmp_path / row["run"] / "metrics.json").read_text())
        assert float(row["val/acc1"]) == figures["val/acc1"]
        assert row["state"] == "finished"
    values = [float(row["val/acc1"]) for row in rows]
    assert values == sorted(values, reverse=True)
    shown = [line.split()[-1] for line in again.stdout.splitlines() if re.search(r" \d_(lenet|squeeze)", line)]
    assert shown[-4:] == [row["run"].split("/")[-1] for row in rows]

    other = shell(*SWEEP[:2], "optimizer.lr=0.2,0.01", *SWEEP[3:], "run_dir=a sweep", cwd=tmp_path)
    assert other.returncode == 1
    assert "job 0 there is 'model=lenet optimizer.lr=0.1 " in other.stderr
    assert "in this sweep it is 'model=lenet optimizer.lr=0.2 " in other.stderr
    assert "Traceback" not in other.stdout + other.stderr
    assert [state(path) for path in done] == before


def made(sweep_dir, name, *words, figures=None, error=None, metric="val/acc1"):
    """A job's directory, as far as a summary looks at it."""
    configured = sweep_dir / name / ".hydra"
    configured.mkdir(parents=True)
    (configured / "overrides.yaml").write_text("".join(f"- {word}\n" for word in words))
    (configured / "config.yaml").write_text(f"optimized_metric: {metric}\n")
    if figures is not None:
        (sweep_dir / name / "metrics.json").write_text(json.dumps(figures))
    if error is not None:
        (sweep_dir / name / "error.txt").write_text(error)
    return sweep_dir / name


def arriving(run_dir, *words):
    made(run_dir.parent, run_dir.name + ".tmp", *words)
    run_dir.mkdir(exist_ok=True)
    (run_dir.parent / (run_dir.name + ".tmp") / ".hydra").rename(run_dir / ".hydra.new")
    (run_dir.parent / (run_dir.name + ".tmp")).rmdir()


def test_the_summary_is_sorted_and_names_what_failed(tmp_path):
    made(tmp_path, "0_a", "model=a", "seed=0", "optimizer.lr=0.1", figures={"val/acc1": 0.5, "seconds": 3})
    made(tmp_path, "1_b", "model=b", "seed=0", figures={"val/acc1": 0.75, "test/acc1": 0.7, "seconds": 12345.6})
    made(tmp_path, "2_c", "model=c", "seed=0", error="the loss is nan\n")
    made(tmp_path, "10_d", "model=d", "seed=0")
    rows = sweep.summarize(tmp_path)
    assert [(row["job"], row["state"]) for row in rows] == [
        (1, "finished"),
        (0, "finished"),
        (2, "failed"),
        (10, "unfinished"),
    ]
    assert [row["optimizer.lr"] for row in rows] == ["", "0.1", "", ""]
    assert "seed" not in rows[0]  # the same in all
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
    written = list(csv.DictReader((tmp_path / "summary.csv").open()))
    assert [row["job"] for row in written] == ["1", "0", "2", "10"]
    Console(width=120, file=(terminal := io.StringIO())).print(sweep.summary_table(rows))
    lines = [line.split() for line in terminal.getvalue().splitlines()]
    assert lines[1] == ["1", "b", "0.7500", "0.7000", "12,346", "1_b"]
    assert lines[3] == ["2", "c", "2_c:", "the", "loss", "is", "nan"]


def test_a_smaller_loss_is_the_better(tmp_path):
    made(tmp_path, "0_a", "seed=0", figures={"val/loss": 0.5}, metric="val/loss")
    made(tmp_path, "1_a", "seed=1", figures={"val/loss": 0.2}, metric="val/loss")
    assert [row["job"] for row in sweep.summarize(tmp_path)] == [1, 0]
    assert sweep.summarize(tmp_path / "nothing") == []


def test_a_job_is_done_once_and_a_failed_one_again(tmp_path):
    run = tmp_path / "3_a"
    seen = []

    def fail(resume):
        seen.append((resume, sorted(path.name for path in run.iterdir())))
        raise UserError("no\nluck")

    arriving(run, "seed=0")
    with pytest.raises(UserError, match="no"):
        sweep.run_job(fail, run)
    assert (run / "error.txt").read_text() == "no luck\n"
    assert sweep.list_jobs(tmp_path)[0].state == "failed"
    (run / "checkpoints").mkdir()
    (run / "checkpoints/torn.tmp").touch()
    (run / "train.log").touch()
    arriving(run, "seed=0")
    with pytest.raises(UserError, match="no"):
        sweep.run_job(fail, run)  # afresh, but for its log
    (run / "checkpoints").mkdir()
    (run / "checkpoints/last.ckpt").touch()
    (run / "metrics.csv").touch()
    arriving(run, "seed=0")
    with pytest.raises(UserError, match="no"):
        sweep.run_job(fail, run)
    assert seen == [
        (False, [".hydra"]),
        (False, [".hydra", "train.log"]),
        (True, [".hydra", "checkpoints", "metrics.csv", "train.log"]),
    ]

    def train(resume):
        assert resume
        (run / "metrics.json").write_text('{"val/acc1": 0.25}')
        return 0.25

    arriving(run, "seed=0")
    assert sweep.run_job(train, run) == 0.25
    arriving(run, "seed=0")
    assert sweep.run_job(fail, run) == 0.25  # not called
    assert not (run / ".hydra.new").exists()
    assert (run / ".hydra/overrides.yaml").read_text() == "- seed=0\n"


def test_another_job_in_its_place_is_an_error_with_both(tmp_path):
    made(tmp_path, "0_a", "model=a", "seed=0", figures={"val/acc1": 0.5})
    for run, words in ((tmp_path / "0_a", ("model=a", "seed=1")), (tmp_path / "0_b", ("model=b", "seed=0"))):
        arriving(run, *words)
        with pytest.raises(sweep.SweepError, match=r"job 0 there is 'model=a seed=0', .* it is 'model=") as error:
            sweep.run_job(lambda resume: pytest.fail("trained"), run)
        assert " ".join(words) in str(error.value)
    assert (tmp_path / "0_a/.hydra/overrides.yaml").read_text() == "- model=a\n- seed=0\n"
    arriving(tmp_path / "0_a", "seed=0", "model=a")  # another order of the same words is the same job
    assert sweep.run_job(lambda resume: pytest.fail("trained"), tmp_path / "0_a") == 0.5


def test_a_run_is_no_sweep_and_a_sweeper_needs_a_multirun(tmp_path):
    (tmp_path / "metrics.json").touch()
    with pytest.raises(UserError, match="holds a run, not a sweep"):
        cli.prepare(["-m", "seed=1,2", f"run_dir={tmp_path}"], config="train", help_text="")
    with pytest.raises(UserError, match="sweep=grid needs a multirun: add -m"):
        cli.prepare(["sweep=grid"], config="train", help_text="")


@pytest.mark.parametrize("choice", cli.choices("sweep"))
def test_every_sweep_composes(choice):
    try:
        words, _ = cli.prepare(["-m", f"sweep={choice}"], config="train", help_text="")
    except UserError as error:
        pytest.skip(str(error))
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        cfg = hydra.compose("train", overrides=words[1:], return_hydra_config=True)
    assert cfg.hydra.sweep.dir.startswith("runs/sweeps/")
    assert (cfg.hydra.sweeper.get("params") is not None) == (choice in ("grid", "optuna"))
    assert ("submitit" in cfg.hydra.launcher._target_) == (choice in ("parallel", "slurm"))


@pytest.mark.parametrize(
    ("choice", "package"),
    [
        ("optuna", "hydra-optuna-sweeper"),
        ("slurm", "hydra-submitit-launcher"),
        ("parallel", "hydra-submitit-launcher"),
        ("[grid,slurm]", "hydra-submitit-launcher"),
    ],
)
def test_a_missing_plugin_is_a_line_with_what_to_type(choice, package, monkeypatch):
    monkeypatch.setattr(sweep, "find_spec", lambda name: importlib.util.find_spec(f"nowhere.{name}"))
    with pytest.raises(
        UserError, match=f"sweep={choice.split(',')[-1].strip(']')} needs .* type pip install {package}$"
    ):
        cli.prepare(["-m", f"sweep={choice}"], config="train", help_text="")
