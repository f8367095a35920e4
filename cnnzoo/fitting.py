"""Training, from the start or from a checkpoint on, to the end or to a signal."""

import logging
import shlex
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from cnnzoo import ranks
from cnnzoo.data.datamodule import DataModule
from cnnzoo.errors import UserError
from cnnzoo.loggers import CSV, TensorBoard
from cnnzoo.report import shown
from cnnzoo.resuming import newest, record
from cnnzoo.stopping import Stopped, leave
from cnnzoo.trouble import explained

log = logging.getLogger(__name__)


def going_on(
    run_dir: Path, data: DataModule, trainer: pl.Trainer, cfg: DictConfig
) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that a resumed run goes on from; None where it has none yet and begins.

    What loggers hold of steps after it is dropped. Raises UserError, before anything is changed, where the run has
    nothing left to do, and where the data is not what it was.
    """
    start = newest(run_dir)
    path, saved = start if start is not None else (None, None)
    done, asked = (0, 0) if saved is None else (saved["cnnzoo"]["epochs"], saved["global_step"])
    most, finished = trainer.max_epochs or -1, (run_dir / "metrics.json").exists()
    if 0 < most < done or (finished and 0 < most == done):
        raise UserError(
            f"resume={shown(run_dir)}: this run has trained {done} epochs, and trainer.max_epochs={most}; to train "
            f"longer type trainer.max_epochs={2 * done}"
        )
    if saved is not None:
        data.trainer = trainer  # which fit() would do; it tells how many devices there are
        data.load_state_dict(saved["DataModule"])
    if trainer.is_global_zero:
        record(run_dir, cfg.resume, path, saved)
        (run_dir / "metrics.json").unlink(missing_ok=True)  # it marks a finished run
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoard):
            logger.go_on(asked)
        elif isinstance(logger, CSV):
            logger.go_on(0 if saved is None else saved["rows"])
    if path is None:
        log.info("%s holds no checkpoint yet: the run begins", shown(run_dir))
    else:
        log.info("going on from %s: %d epochs and %d steps are done", shown(path), done, asked)
    return start


def fit(model: pl.LightningModule, data: DataModule, trainer: pl.Trainer, cfg: DictConfig, start: Path | None) -> None:
    """Train, from a checkpoint on where one is given; exits where a signal stopped it, with what to type to go on.

    Raises UserError where memory is full, and where another rank was lost.
    """
    stopped = None
    with ranks.together(trainer), explained(cfg):
        try:
            trainer.fit(model, datamodule=data, ckpt_path=start, weights_only=None if start is None else True)
        except Stopped as stop:  # in here: all ranks stop after the same step, and none is lost
            stopped = stop
    if stopped is None:
        return
    log.info(
        "stopped by %s after %d epochs and %d steps, and saved; python train.py resume=%s goes on",
        stopped,
        trainer.current_epoch,
        trainer.global_step,
        shlex.quote(shown(Path(cfg.run_dir))),
    )
    leave(stopped.number)
