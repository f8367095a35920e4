"""Several ranks: the same as one with a larger batch, one run directory, and one end for all."""

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
from tests.helpers import ROOT
from tests.helpers.run_files import metrics_rows, tensorboard_events

TRAIN = str(ROOT / "train.py")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2")
CPU = ("model=lenet", "trainer=ddp", "trainer.accelerator=cpu")
ON = {
    "lightning": (sys.executable, TRAIN, *CPU, "trainer.devices=2"),
    "torchrun": (*TORCHRUN, "--standalone", TRAIN, *CPU),
}
pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="ranks on the CPU need gloo")


@contextmanager
def started(*command, cwd, **environment):
    """The command's process with its output in `.stdout` and in `.mark` what all that it starts can be told by.

    None of them is alive in the end.
    """
    mark = f"CNNZOO_TEST={uuid.uuid4()}"
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "120",
            **dict([mark.split("=")]),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    process.mark = mark
    try:
        yield process
    finally:
        for number in alive(process).values():
            os.kill(number, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def ended(*command, cwd, **environment):
    """What a command printed, which must succeed."""
    with started(*command, cwd=cwd, **environment) as process:
        said = process.communicate(timeout=120)[0]
        assert process.returncode == 0, said
    return said


def alive(process):
    """What it started and itself, as far as alive: each one's number by its local rank, or by itself if it has none."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "environ").read_text().split("\0")
        except OSError:  # another's, or gone
            continue
        if process.mark in words:
            number = int(place.name)
            values = dict(word.partition("=")[::2] for word in words)
            own = 0 if "torch.distributed.run" not in process.args else number
            found[int(values.get("LOCAL_RANK", own))] = number
    return found


def weights(run_dir):
    return torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    "way", ["lightning", *(pytest.param(way, marks=pytest.mark.long) for way in ("torchrun", "fsdp"))]
)
def test_two_ranks_are_one_with_the_doubled_batch(way, tmp_path):
    typed = ("trainer.max_epochs=2", "optimizer.lr=0.05")
    started_by = [word.replace("ddp", way) for word in ON["lightning"]] if way == "fsdp" else ON[way]
    said = ended(*started_by, *typed, "data.batch_size=32", "run_dir=two", cwd=tmp_path)
    assert "batches of 32 on each of 2 devices" in said
    assert re.findall(r"^ +(\d)/2 ", said, re.MULTILINE) == ["1", "2"]
    assert "Traceback" not in said
    ended(sys.executable, TRAIN, *CPU, *typed, "data.batch_size=64", "run_dir=one", "trainer.devices=1", cwd=tmp_path)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    start = weights_at_start()
    for name in one:
        moved = (one[name] - start[name]).norm()
        assert (one[name] - two[name]).norm() < 1e-3 * moved, name
    figures = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("one", "two")]
    for name in ("train/acc1", "train/loss", "val/acc1", "val/loss", "test/acc1", "test/loss"):
        assert figures[1][name] == pytest.approx(figures[0][name], abs=1e-4), name
    one_writes(tmp_path / "two", CPU[0])
    images = torch.rand(4, 1, 32, 32)
    with torch.no_grad():
        first, second = (cnnzoo.load_run(tmp_path / run)(images) for run in ("one", "two"))
    assert (first - second).abs().max() < 0.01


def weights_at_start():
    """LeNet-5 as seed 0 begins."""
    from cnnzoo import create_model
    from cnnzoo.training import train

    train.seed_everything(0)
    return {f"net.{name}": value for name, value in create_model("lenet5", in_channels=1).state_dict().items()}


def one_writes(run_dir, word, *, starts=1):
    """One process, and no other, wrote the configuration, the log and the curves."""
    assert (run_dir / ".hydra/overrides.yaml").read_text().startswith(f"- {word}\n- trainer=")
    assert [path.name for path in run_dir.glob("*.log")] == ["train.log"]
    log = (run_dir / "train.log").read_text().splitlines()
    assert sum("parameters" in line for line in log) == starts
    rows = list(csv.DictReader((run_dir / "metrics.csv").open()))
    validated = [row["epoch"] for row in rows if row["val/acc1"]]
    assert validated == sorted(set(validated))


@pytest.mark.long
def test_stopped_ranks_go_on_together_however_they_are_started(tmp_path):
    """A signal that the first rank alone gets stops all after the same step; torchrun goes on with Lightning's run."""
    words = (
        "trainer.max_epochs=2",
        "data.batch_size=32",
        "callbacks=full",
        "+callbacks.killer._target_=tests.helpers.killer.Killer",
    )
    ended(*ON["lightning"], *words, "run_dir=whole", cwd=tmp_path)
    with started(*ON["lightning"], *words, "run_dir=run", cwd=tmp_path, KILL="SIGTERM on_train_batch_end 25") as cut:
        said = cut.communicate(timeout=120)[0]
        assert cut.returncode == 128 + signal.SIGTERM, said
    assert "stopped by SIGTERM after 1 epochs and 30 steps, and saved" in said  # they ask each other every ten steps
    assert "Traceback" not in said
    said = ended(*TORCHRUN, "--standalone", TRAIN, "resume=run", cwd=tmp_path)
    assert said.count("going on from run/checkpoints/last.ckpt: 1 epochs and 30 steps are done") == 1
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(one[name], other[name]) for name in one)
    one_writes(tmp_path / "run", CPU[0], starts=2)
    assert metrics_rows(tmp_path / "run") == metrics_rows(tmp_path / "whole")
    assert tensorboard_events(tmp_path / "run") == tensorboard_events(tmp_path / "whole")


@pytest.mark.parametrize(
    ("way", "lost"),
    [
        ("lightning", 1),
        pytest.param("lightning", 0, marks=pytest.mark.long),
        pytest.param("torchrun", 0, marks=pytest.mark.long),
        pytest.param("torchrun", 1, marks=pytest.mark.long),
    ],
)
def test_a_killed_rank_ends_all_and_is_named(way, lost, tmp_path):
    with started(*ON[way], "trainer.max_epochs=2000", "run_dir=run", cwd=tmp_path) as process:
        while not re.match(r" +2/2000 ", line := process.stdout.readline()):
            assert line, "it ended too soon"
        os.kill(number := alive(process)[lost], signal.SIGKILL)
        begun = time.monotonic()
        said = process.stdout.read()  # until nobody is left to write
        process.wait(timeout=60)
        assert time.monotonic() - begun < 60
        assert process.returncode != 0
        assert not alive(process)
    assert "Error executing job" not in said
    if way == "torchrun":  # its own report
        assert f"{lost} (pid: {number})" in said or f"local_rank: {lost} (pid: {number})" in said
        assert "SIGKILL" in said
        assert "error: rank" not in said
    elif lost:
        assert said.strip() == f"error: rank 1 (process {number}) was killed by signal 9 (SIGKILL): the other ranks end"
    else:
        assert said.strip() == f"error: rank 0 (process {number}) was killed: the other ranks end"


@pytest.mark.parametrize("way", ["torchrun", pytest.param("lightning", marks=pytest.mark.long)])
def test_an_error_in_one_rank_is_its_line_and_ends_all(way, tmp_path):
    for name, color in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        for n in range(24):
            path = tmp_path / "train" / name / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), color).save(path)
            other = tmp_path / "val" / name / f"{n}.png"
            other.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), color).save(other)
    (tmp_path / "val/blue/1.png").write_bytes(b"no image")  # at place 1 of the order: rank 1's
    words = ("data=folder", f"data.root={tmp_path}", "data.cache.mode=none", "data.batch_size=4", "run_dir=run")
    begun = time.monotonic()
    with started(*ON[way], *words, "data.image_size=32", "trainer.max_epochs=3", cwd=tmp_path) as process:
        said = process.communicate(timeout=120)[0]
        assert process.returncode != 0
        assert not alive(process)
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, said
    assert errors[0].startswith(f"error: rank 1: {tmp_path}/val/blue/1.png: cannot be read")
    assert "Error executing job" not in said
    assert time.monotonic() - begun < 90


@pytest.mark.long
def test_two_machines_train_together_in_one_run_directory(tmp_path):
    for n in range(24):
        for split, name in (("train", "red"), ("train", "blue"), ("val", "red"), ("val", "blue")):
            path = tmp_path / "data" / split / name / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), (200, 30, 30) if name == "red" else (30, 30, 200)).save(path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machine = (sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1")
    address = ("--master-addr=127.0.0.1", f"--master-port={port}")
    words = ("data=folder", f"data.root={tmp_path}/data", "data.batch_size=4", "trainer.max_epochs=2")
    first = (*machine, *address, "--node-rank=0", TRAIN, *CPU, *words)
    second = (*machine, *address, "--node-rank=1", TRAIN, *CPU, *words)
    with started(*first, cwd=tmp_path) as one, started(*second, cwd=tmp_path) as two:
        said, other = one.communicate(timeout=120)[0], two.communicate(timeout=120)[0]
        assert (one.returncode, two.returncode) == (0, 0), said + other
    assert "batches of 4 on each of 2 devices" in said
    assert said.count("cache:") == 1  # each fills its own, and one speaks
    assert "epoch" not in other
    (run,) = tmp_path.glob("runs/folder/lenet5/*")  # named by a clock, of the first
    one_writes(run, CPU[0])
    assert json.loads((run / "metrics.json").read_text())["val/acc1"] == 1.0
