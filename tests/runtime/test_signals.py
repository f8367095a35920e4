"""Signals that end a run: what they do before, during and after training."""

import os
import signal
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Trainer

from cnnzoo.callbacks import CheckpointSaver
from cnnzoo.runtime.signals import (
    SIGNALS,
    InterruptHandler,
    TrainingStopped,
    current_handler,
    exit_for_signal,
    handle_signals,
    signal_pending,
)
from cnnzoo.training.fit import fit


def fake_trainer(error):
    """A trainer whose `fit` raises `error`."""

    def raise_error(*_, **__):
        raise error

    loop = SimpleNamespace(epoch_loop=SimpleNamespace())
    return SimpleNamespace(
        fit=raise_error,
        profiler=None,
        current_epoch=2,
        global_step=40,
        fit_loop=loop,
        _signal_connector=SimpleNamespace(),
    )


def test_fit_stopped_by_signal_returns_its_number(tmp_path, caplog):
    trainer = fake_trainer(TrainingStopped(signal.SIGTERM))
    with caplog.at_level("INFO"):
        assert fit(None, None, trainer, run_dir=tmp_path / "my run", checkpoint=None) == signal.SIGTERM
    assert "stopped by SIGTERM after 2 epochs and 40 steps, and saved; cnnzoo train resume='" in caplog.text


def test_slurm_job_after_sigusr1_is_requeued(tmp_path, monkeypatch):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in {"NTASKS": "1", "JOB_NAME": "train", "JOB_ID": "17", "PROCID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        with pytest.raises(SystemExit) as exit_:
            exit_for_signal(number)
        assert exit_.value.code == 128 + number
    assert (tmp_path / "calls").read_text() == "requeue 17\n"


def test_handler_deferred_records_then_acts_at_once(tmp_path, caplog):
    with handle_signals(fake_trainer(None), tmp_path):
        handler = current_handler()
        handler.deferred = True
        with caplog.at_level("INFO"):
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
        assert caplog.messages == [
            f"{name}: saving after this step or validation, then stopping" for name in ("SIGTERM", "SIGINT")
        ]
        assert signal_pending()
        assert handler.received == signal.SIGINT
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # the second one kills
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert current_handler() is None
    assert not signal_pending()


def test_sigint_before_training_is_not_lost(job, monkeypatch, caplog):
    def press(*_):
        with suppress(KeyboardInterrupt):  # as in a destructor
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(CheckpointSaver, "on_sanity_check_start", press)
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as exit_:
        job("model=lenet", "trainer.max_epochs=1")
    assert exit_.value.code == 130
    assert "stopped immediately by SIGINT; no checkpoint was saved yet" in caplog.text
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_during_test_ends_run_with_code(job, monkeypatch, caplog, tmp_path, number):
    monkeypatch.setattr(CheckpointSaver, "on_test_batch_start", lambda *_: signal.raise_signal(number), raising=False)
    before = [signal.getsignal(other) for other in SIGNALS]
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as exit_:
        job("model=lenet", "trainer.max_epochs=1", "trainer.limit_train_batches=2")
    assert exit_.value.code == 128 + number
    assert f"stopped immediately by {number.name}; cnnzoo train resume=" in caplog.text
    assert not (tmp_path / "run/metrics.json").exists()
    assert [signal.getsignal(other) for other in SIGNALS] == before


def test_lightning_signal_handling_is_disabled(tmp_path, monkeypatch):
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    broadcasts = []
    monkeypatch.setattr(torch.distributed, "broadcast", lambda *_, **__: broadcasts.append("ranks"))
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor()
    assert broadcasts == ["ranks"]  # Lightning does so in every step
    with handle_signals(trainer, tmp_path):
        trainer._signal_connector.register_signal_handlers()
        assert all(isinstance(signal.getsignal(number), InterruptHandler) for number in SIGNALS)
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor()
    assert broadcasts == ["ranks"]
