"""Several ranks: same result as one rank with a larger batch, one run directory, and all end together."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

import cnnzoo
from cnnzoo.data import DigitsMultilabel
from cnnzoo.data.datamodule import DataModule
from cnnzoo.evaluate.evaluation import evaluate
from tests.helpers import ROOT
from tests.helpers.run_files import metrics_rows, tensorboard_events

TRAIN = str(ROOT / "train.py")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2")
CPU = ("model=lenet", "trainer=ddp", "trainer.accelerator=cpu")
COMMANDS = {
    "lightning": (sys.executable, TRAIN, *CPU, "trainer.devices=2"),
    "torchrun": (*TORCHRUN, "--standalone", TRAIN, *CPU),
}
pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="ranks on the CPU need gloo")


@contextmanager
def start_process(*command, cwd, **environment):
    """Start the command, with stdout and stderr in `.stdout`, and kill all its processes at the end.

    All processes that it starts inherit the environment variable `.marker`, by which `live_processes` finds them.
    """
    marker = f"CNNZOO_TEST={uuid.uuid4()}"
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "120",
            **dict([marker.split("=")]),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    process.marker = marker
    try:
        yield process
    finally:
        for pid in live_processes(process).values():
            os.kill(pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def run_command(*command, cwd, **environment):
    """The output of a command that must succeed."""
    with start_process(*command, cwd=cwd, **environment) as process:
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0, output
    return output


@pytest.mark.long
def test_multilabel_metrics_are_those_of_all_ranks(tmp_path):
    task = ("data=digits_multilabel", "task=multilabel", "trainer.max_epochs=1", "trainer.limit_train_batches=4")
    run_command(*COMMANDS["lightning"], *task, "callbacks=minimal", "run_dir=run", cwd=tmp_path)
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    for split in ("val", "test"):
        result = evaluate(cnnzoo.load_run(tmp_path / "run"), DataModule(DigitsMultilabel), split=split).metrics
        expected = {name: metrics[f"{split}/{name}"] for name in result}
        assert result == pytest.approx(expected, abs=1e-5)


def live_processes(process):
    """The process and those that it started: {local rank: process id}. The key of torchrun itself is its process id."""
    pids = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            variables = (directory / "environ").read_text().split("\0")
        except OSError:  # of another user, or already gone
            continue
        if process.marker in variables:
            pid = int(directory.name)
            values = dict(variable.partition("=")[::2] for variable in variables)
            default = 0 if "torch.distributed.run" not in process.args else pid
            pids[int(values.get("LOCAL_RANK", default))] = pid
    return pids


def weights(run_dir):
    return torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["lightning", "torchrun", "fsdp"])
def test_two_ranks_equal_one_with_twice_the_batch(launcher, fork, tmp_path):
    overrides = ("trainer.max_epochs=2", "optimizer.lr=0.05")
    if launcher == "fsdp":
        command = [argument.replace("ddp", "fsdp") for argument in COMMANDS["lightning"]]
    else:
        command = COMMANDS[launcher]
    output = run_command(*command, *overrides, "data.batch_size=32", "run_dir=two", cwd=tmp_path)
    assert "batches of 32 on each of 2 devices" in output
    assert re.findall(r"^ +(\d)/2 ", output, re.MULTILINE) == ["1", "2"]
    assert "Traceback" not in output
    single = fork(*CPU, *overrides, "data.batch_size=64", "run_dir=one", "trainer.devices=1", cwd=tmp_path)
    assert single.returncode == 0, single.stderr
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    initial = initial_weights()
    for name in one:
        change = (one[name] - initial[name]).norm()
        assert (one[name] - two[name]).norm() < 1e-3 * change, name
    metrics = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("one", "two")]
    evaluated = [f"{stage}/{name}" for stage in ("val", "test") for name in ("acc1", "balanced_acc", "f1", "loss")]
    for name in ("train/acc1", "train/loss", *evaluated):
        assert metrics[1][name] == pytest.approx(metrics[0][name], abs=1e-4), name
    assert_one_writer(tmp_path / "two", CPU[0])
    images = torch.rand(4, 1, 32, 32)
    with torch.no_grad():
        first, second = (cnnzoo.load_run(tmp_path / run)(images) for run in ("one", "two"))
    assert (first - second).abs().max() < 0.01


def initial_weights():
    """The state dict of LeNet-5 with seed 0."""
    from cnnzoo import create_model
    from cnnzoo.training import train

    train.seed_everything(0)
    return {f"net.{name}": value for name, value in create_model("lenet5", in_channels=1).state_dict().items()}


def assert_one_writer(run_dir, override, *, starts=1):
    """Only one process wrote the configuration, the log and the metrics."""
    assert (run_dir / ".hydra/overrides.yaml").read_text().startswith(f"- {override}\n- trainer=")
    assert [path.name for path in run_dir.glob("*.log")] == ["train.log"]
    log = (run_dir / "train.log").read_text().splitlines()
    assert sum("parameters" in line for line in log) == starts
    rows = list(csv.DictReader((run_dir / "metrics.csv").open()))
    validated = [row["epoch"] for row in rows if row["val/acc1"]]
    assert validated == sorted(set(validated))


@pytest.mark.long
def test_stopped_ranks_resume_with_another_launcher(tmp_path):
    """A signal to rank 0 stops all ranks after the same step. torchrun resumes a run that Lightning started."""
    overrides = (
        "trainer.max_epochs=2",
        "data.batch_size=32",
        "callbacks=full",
        "+callbacks.killer._target_=tests.helpers.killer.Killer",
    )
    run_command(*COMMANDS["lightning"], *overrides, "run_dir=unbroken", cwd=tmp_path)
    kill = "SIGTERM on_train_batch_end 25"
    with start_process(*COMMANDS["lightning"], *overrides, "run_dir=run", cwd=tmp_path, KILL=kill) as process:
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 128 + signal.SIGTERM, output
    assert "stopped by SIGTERM after 1 epoch and 30 steps, and saved" in output  # ranks agree after logged steps
    assert "Traceback" not in output
    output = run_command(*TORCHRUN, "--standalone", TRAIN, "resume=run", cwd=tmp_path)
    assert output.count("resuming from run/checkpoints/last.ckpt after 1 epoch and 30 steps") == 1
    one, other = weights(tmp_path / "unbroken"), weights(tmp_path / "run")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert_one_writer(tmp_path / "run", CPU[0], starts=2)
    assert metrics_rows(tmp_path / "run") == metrics_rows(tmp_path / "unbroken")
    assert tensorboard_events(tmp_path / "run") == tensorboard_events(tmp_path / "unbroken")


@pytest.mark.parametrize(
    ("launcher", "killed_rank"),
    [
        pytest.param("lightning", 1, marks=pytest.mark.long),
        pytest.param("lightning", 0, marks=pytest.mark.long),
        pytest.param("torchrun", 0, marks=pytest.mark.long),
        pytest.param("torchrun", 1, marks=pytest.mark.long),
    ],
)
def test_killed_rank_ends_all_ranks_and_is_named(launcher, killed_rank, tmp_path):
    with start_process(*COMMANDS[launcher], "trainer.max_epochs=2000", "run_dir=run", cwd=tmp_path) as process:
        while not re.match(r" +2/2000 ", line := process.stdout.readline()):
            assert line, "the run ended too early"
        os.kill(pid := live_processes(process)[killed_rank], signal.SIGKILL)
        killed_at = time.monotonic()
        output = process.stdout.read()  # returns when the last process has closed the pipe
        process.wait(timeout=60)
        assert time.monotonic() - killed_at < 60
        assert process.returncode != 0
        assert not live_processes(process)
    assert "Error executing job" not in output
    if launcher == "torchrun":  # torchrun's own report
        assert f"{killed_rank} (pid: {pid})" in output or f"local_rank: {killed_rank} (pid: {pid})" in output
        assert "SIGKILL" in output
        assert "error: rank" not in output
    elif killed_rank:
        assert output.strip() == f"error: rank 1 (process {pid}) was killed by signal 9 (SIGKILL): the other ranks end"
    else:
        assert output.strip() == f"error: rank 0 (process {pid}) was killed: the other ranks end"


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["torchrun", "lightning"])
def test_error_in_one_rank_is_one_line_and_ends_all(launcher, tmp_path):
    for name, color in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        for n in range(24):
            path = tmp_path / "train" / name / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), color).save(path)
            other = tmp_path / "val" / name / f"{n}.png"
            other.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), color).save(other)
    (tmp_path / "val/blue/1.png").write_bytes(b"no image")  # index 1 of the validation set, which rank 1 reads
    overrides = ("data=folder", f"data.root={tmp_path}", "data.cache.mode=none", "data.batch_size=4", "run_dir=run")
    command = (*COMMANDS[launcher], *overrides, "data.image_size=32", "trainer.max_epochs=3")
    started_at = time.monotonic()
    with start_process(*command, cwd=tmp_path) as process:
        output = process.communicate(timeout=120)[0]
        assert process.returncode != 0
        assert not live_processes(process)
    errors = [line for line in output.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, output
    assert errors[0].startswith(f"error: rank 1: {tmp_path}/val/blue/1.png: cannot be read")
    assert "Error executing job" not in output
    assert time.monotonic() - started_at < 90


@pytest.mark.long
def test_two_machines_share_one_run_directory(tmp_path):
    for n in range(24):
        for split, name in (("train", "red"), ("train", "blue"), ("val", "red"), ("val", "blue")):
            path = tmp_path / "data" / split / name / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), (200, 30, 30) if name == "red" else (30, 30, 200)).save(path)
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        port = free_socket.getsockname()[1]
    machine = (sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1")
    address = ("--master-addr=127.0.0.1", f"--master-port={port}")
    overrides = ("data=folder", f"data.root={tmp_path}/data", "data.batch_size=4", "trainer.max_epochs=2")
    first = (*machine, *address, "--node-rank=0", TRAIN, *CPU, *overrides)
    second = (*machine, *address, "--node-rank=1", TRAIN, *CPU, *overrides)
    with start_process(*first, cwd=tmp_path) as one, start_process(*second, cwd=tmp_path) as two:
        output, other_output = one.communicate(timeout=120)[0], two.communicate(timeout=120)[0]
        assert (one.returncode, two.returncode) == (0, 0), output + other_output
    assert "batches of 4 on each of 2 devices" in output
    assert output.count("cache:") == 1  # each machine fills its own cache, and only rank 0 logs it
    assert "epoch" not in other_output
    (run,) = tmp_path.glob("runs/folder/lenet5/*")  # the name is the time on the first machine
    assert_one_writer(run, CPU[0])
    assert json.loads((run / "metrics.json").read_text())["val/acc1"] == 1.0
