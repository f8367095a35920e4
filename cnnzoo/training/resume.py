"""Resuming a stopped run: find its checkpoint, check that epochs are left, and truncate its logs."""

import logging
import os
import zipfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from cnnzoo.callbacks import EarlyStopping
from cnnzoo.data.datamodule import DataModule
from cnnzoo.errors import UserError
from cnnzoo.loggers.local import ResumableCSVLogger, ResumableTensorBoardLogger
from cnnzoo.runtime.files import display_path
from cnnzoo.runtime.formatting import plural

log = logging.getLogger(__name__)


def prepare_resume(
    run_dir: Path, data: DataModule, trainer: pl.Trainer, cfg: DictConfig
) -> tuple[Path, dict[str, Any]] | None:
    """Prepare data, loggers and run directory to continue a run; returns the checkpoint's path and contents.

    Returns None if the run has no checkpoint yet: it starts from the beginning. Loggers drop what they have of later
    steps than the checkpoint's.

    Raises UserError, before anything is changed, if the run has no epochs left or if the data has changed.
    """
    found = find_checkpoint(run_dir)
    path, checkpoint = found if found is not None else (None, None)
    epochs = 0 if checkpoint is None else checkpoint["cnnzoo"]["epochs"]
    steps = 0 if checkpoint is None else checkpoint["global_step"]
    max_epochs, finished = trainer.max_epochs or -1, (run_dir / "metrics.json").exists()
    if 0 < max_epochs < epochs or (finished and 0 < max_epochs == epochs):
        raise UserError(
            f"resume={display_path(run_dir)}: the run has trained {plural(epochs, 'epoch')} and "
            f"trainer.max_epochs={max_epochs}; to train longer type trainer.max_epochs={2 * epochs}"
        )
    states = {} if checkpoint is None or not finished else checkpoint["callbacks"]
    for callback in trainer.early_stopping_callbacks:
        if isinstance(callback, EarlyStopping) and callback.state_key in states:
            callback.load_state_dict(states[callback.state_key])
            if callback.is_exhausted:
                raise UserError(
                    f"resume={display_path(run_dir)}: the run stopped early after {plural(epochs, 'epoch')}; to train "
                    f"longer type callbacks.early_stopping.patience={2 * callback.patience}"
                )
    if checkpoint is not None:
        data.trainer = trainer  # as Trainer.fit() does: the data module needs the number of devices
        data.load_state_dict(checkpoint["DataModule"])
    if trainer.is_global_zero:
        record_resume(run_dir, cfg.resume, path, checkpoint)
        (run_dir / "metrics.json").unlink(missing_ok=True)  # it marks a finished run
    for logger in trainer.loggers:
        if isinstance(logger, ResumableTensorBoardLogger):
            logger.resume_at(steps)
        elif isinstance(logger, ResumableCSVLogger):
            logger.resume_at(0 if checkpoint is None else checkpoint["rows"])
    if path is None:
        log.info("%s has no checkpoint yet: starting from the beginning", display_path(run_dir))
    else:
        done = f"{plural(epochs, 'epoch')} and {plural(steps, 'step')}"
        log.info("resuming from %s after %s", display_path(path), done)
    return found


def find_checkpoint(run_dir: Path) -> tuple[Path, dict[str, Any]] | None:
    """The path and the contents of `last.ckpt`; if that is missing or damaged, of the checkpoint with the most steps.

    None if there is no usable checkpoint. Damaged ones are logged. Loads only tensors and plain types.

    `last.ckpt` comes first even if `best.ckpt` has more steps. The latter may be from right after a validation within
    an epoch, or from the middle of a gradient accumulation.
    """
    others: list[tuple[Path, dict[str, Any]]] = []
    for path in sorted((run_dir / "checkpoints").glob("*.ckpt"), key=lambda path: path.name != "last.ckpt"):
        try:
            with zipfile.ZipFile(path) as archive:
                if (damaged := archive.testzip()) is not None:
                    raise ValueError(f"{damaged} has another checksum")
            # Windows cannot replace a file that is mapped.
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=os.name != "nt")
            if not {"loops", "cnnzoo", "rows"} <= checkpoint.keys():
                raise ValueError("it is not a checkpoint of a training run")
        except Exception as error:  # zipfile, pickle and torch raise many types for a damaged file
            reason = str(error).split("\n")[0]
            log.warning("%s is damaged (%s): looking for another checkpoint", path, reason)
            continue
        if path.name == "last.ckpt":
            return path, checkpoint
        others.append((path, checkpoint))
    return max(others, key=lambda found: found[1]["global_step"]) if others else None


def record_resume(
    run_dir: Path, overrides: Sequence[str], path: Path | None, checkpoint: dict[str, Any] | None
) -> None:
    """Append an entry to `resumes.yaml`: the time, the new overrides, and the checkpoint with its epoch and step."""
    entry = {
        "time": datetime.now().isoformat(timespec="seconds"),
        "overrides": list(overrides),
        "checkpoint": None if path is None else str(path.relative_to(run_dir)),
        "epoch": 0 if checkpoint is None else checkpoint["cnnzoo"]["epochs"],
        "step": 0 if checkpoint is None else checkpoint["global_step"],
    }
    with (run_dir / "resumes.yaml").open("a", encoding="utf-8") as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create([entry])))
