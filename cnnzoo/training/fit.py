"""Training, from the start or from a checkpoint on, to the end or to a signal."""

import logging
import shlex
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig

from cnnzoo.data.datamodule import DataModule
from cnnzoo.runtime import distributed
from cnnzoo.runtime.failures import oom_as_user_error
from cnnzoo.runtime.files import display_path
from cnnzoo.runtime.signals import TrainingStopped, exit_for_signal

log = logging.getLogger(__name__)


def fit(model: pl.LightningModule, data: DataModule, trainer: pl.Trainer, cfg: DictConfig, start: Path | None) -> None:
    """Train, from a checkpoint on where one is given; exits where a signal stopped it, with what to type to go on.

    Raises UserError where memory is full, and where another rank was lost.
    """
    stopped = None
    with distributed.supervise_ranks(trainer), oom_as_user_error(cfg):
        try:
            trainer.fit(model, datamodule=data, ckpt_path=start, weights_only=None if start is None else True)
        except TrainingStopped as stop:  # in here: all ranks stop after the same step, and none is lost
            stopped = stop
    if stopped is None:
        return
    log.info(
        "stopped by %s after %d epochs and %d steps, and saved; python train.py resume=%s goes on",
        stopped,
        trainer.current_epoch,
        trainer.global_step,
        shlex.quote(display_path(Path(cfg.run_dir))),
    )
    exit_for_signal(stopped.number)
