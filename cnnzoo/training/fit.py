"""Fitting: from the first step or a checkpoint to the last epoch, or to a signal."""

import logging
import shlex
from pathlib import Path

import pytorch_lightning as pl

from cnnzoo.data.datamodule import DataModule
from cnnzoo.runtime.command import job_command
from cnnzoo.runtime.files import display_path
from cnnzoo.runtime.formatting import plural
from cnnzoo.runtime.signals import TrainingStopped
from cnnzoo.training.lightning_internals import direct_hook_calls

log = logging.getLogger(__name__)


def fit(
    model: pl.LightningModule, data: DataModule, trainer: pl.Trainer, *, run_dir: Path, checkpoint: Path | None
) -> int | None:
    """Train, from `checkpoint` if one is given.

    Returns None after the last epoch, or the number of the signal that stopped training after a checkpoint was saved.
    All ranks stop after the same step.
    """
    weights_only = None if checkpoint is None else True
    try:
        with direct_hook_calls(trainer):
            trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=weights_only)
    except TrainingStopped as stop:
        log.info(
            "stopped by %s after %s and %s, and saved; %s resume=%s continues",
            stop,
            plural(trainer.current_epoch, "epoch"),
            plural(trainer.global_step, "step"),
            job_command("train"),
            shlex.quote(display_path(run_dir)),
        )
        return stop.number
    return None
