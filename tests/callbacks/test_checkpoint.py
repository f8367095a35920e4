"""What is written while training: whole or not at all, and fit to go on from."""

import io
import os
import random
import signal
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning import Trainer

from cnnzoo.callbacks import CheckpointSaver
from cnnzoo.callbacks.checkpoint import AtomicCheckpointIO, random_state, set_random_state
from cnnzoo.errors import UserError
from cnnzoo.loggers.local import ResumableCSVLogger
from cnnzoo.runtime.signals import SIGNALS, InterruptHandler, TrainingStopped, handle_signals
from cnnzoo.training import fit, resume


def test_a_damaged_checkpoint_is_passed_over(tmp_path, caplog):
    (tmp_path / "checkpoints").mkdir()
    assert resume.find_checkpoint(tmp_path) is None
    for name, step in (("best", 20), ("last", 40)):
        torch.save(
            {"global_step": step, "loops": {}, "cnnzoo": {}, "rows": 3, "weights": torch.rand(3000)},
            tmp_path / f"checkpoints/{name}.ckpt",
        )
    assert resume.find_checkpoint(tmp_path)[1]["global_step"] == 40
    path = tmp_path / "checkpoints/last.ckpt"
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:-2000], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], b""):
        path.write_bytes(damaged)
        found, saved = resume.find_checkpoint(tmp_path)
        assert (found.name, saved["global_step"]) == ("best.ckpt", 20)
        assert f"{path} is damaged" in caplog.messages[-1]


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    """What was saved before stays, nothing half written does, and one line says what to do."""
    checkpoints = CheckpointSaver(str(tmp_path), monitor="val/acc1")

    class Trainer:
        loggers = ()

        def save_checkpoint(self, path, weights_only):
            AtomicCheckpointIO().save_checkpoint({"weight": torch.zeros(9)}, path)

    checkpoints._save(Trainer(), "last", "epochs")
    before = (tmp_path / "last.ckpt").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cnnzoo.callbacks.checkpoint.os.fsync", full)
    with pytest.raises(UserError, match=r"last\.ckpt cannot be written: No space left on device\. .* resume="):
        checkpoints._save(Trainer(), "last", "epochs")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_a_disk_that_gets_full_while_a_checkpoint_is_written(tmp_path):
    resource = pytest.importorskip("resource")  # not on Windows
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weight": torch.zeros(9)}, path)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            AtomicCheckpointIO().save_checkpoint({"weight": torch.zeros(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["last.ckpt"]


def test_rows_go_on_where_they_are_told_to(tmp_path):
    log = ResumableCSVLogger(str(tmp_path))
    log.log_metrics({"loss": 0.5, "epoch": 0.0}, 0)
    log.log_metrics({"acc": 0.25}, 1)
    log.log_metrics({"loss": 0.125, "later": 1.0}, 2)
    later = ResumableCSVLogger(str(tmp_path))
    later.resume_at(2)
    assert later.rows == 2
    later.log_metrics({"loss": 2.0}, 2)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "acc,epoch,loss,step",
        ",0,0.5,0",
        "0.25,,,1",
        ",,2.0,2",
    ]
    ResumableCSVLogger(str(tmp_path)).log_metrics({"loss": 3.0}, 0)  # a new run in an old place
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["loss,step", "3.0,0"]


def trainer_that(raises):
    def fit(*_, **__):
        raise raises

    return SimpleNamespace(fit=fit, current_epoch=2, global_step=40, world_size=1)


def test_under_slurm_a_job_whose_time_is_over_is_requeued(tmp_path, monkeypatch, caplog):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in {"NTASKS": "1", "JOB_NAME": "train", "JOB_ID": "17", "PROCID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        with pytest.raises(SystemExit) as end:
            fit.fit(None, None, trainer_that(TrainingStopped(number)), OmegaConf.create({"run_dir": "run"}), None)
        assert end.value.code == 128 + number
    assert (tmp_path / "said").read_text() == "requeue 17\n"


def test_random_states_come_back():
    state = random_state()
    torch.save(state, buffer := io.BytesIO())
    drawn = [torch.rand(3), np.random.rand(3), random.random()]
    buffer.seek(0)
    set_random_state(torch.load(buffer, weights_only=True))
    again = [torch.rand(3), np.random.rand(3), random.random()]
    assert all(np.array_equal(one, other) for one, other in zip(drawn, again, strict=True))


def test_ctrl_c_ahead_of_the_first_step_is_heard_even_where_its_exception_gets_lost(job, monkeypatch, caplog):
    def press(*_):
        with suppress(KeyboardInterrupt):  # as in a destructor
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(CheckpointSaver, "on_sanity_check_start", press)
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as end:
        job("model=lenet", "trainer.max_epochs=1")
    assert end.value.code == 130
    assert "stopped at once by SIGINT; nothing was saved yet" in caplog.text
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_after_training_ends_the_run_with_its_code_and_a_line(job, monkeypatch, caplog, tmp_path, number):
    monkeypatch.setattr(CheckpointSaver, "on_test_batch_start", lambda *_: signal.raise_signal(number), raising=False)
    before = [signal.getsignal(each) for each in SIGNALS]
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as end:
        job("model=lenet", "trainer.max_epochs=1", "trainer.limit_train_batches=2")
    assert end.value.code == 128 + number
    assert f"stopped at once by {number.name}; python train.py resume=" in caplog.text
    assert not (tmp_path / "run/metrics.json").exists()
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_lightning_takes_no_signals_and_asks_no_rank_about_them(tmp_path, monkeypatch):
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    asked = []
    monkeypatch.setattr(torch.distributed, "broadcast", lambda *_, **__: asked.append("the ranks"))
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor()
    assert asked == ["the ranks"]  # so Lightning does it by itself, in each step
    with handle_signals(trainer, tmp_path):
        trainer._signal_connector.register_signal_handlers()
        assert all(isinstance(signal.getsignal(number), InterruptHandler) for number in SIGNALS)
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor()
    assert asked == ["the ranks"]
