"""Going on with a run that was stopped: with which configuration, and from which checkpoint. Knows no Hydra."""

import logging
import zipfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from cnnzoo.data.datamodule import DataModule
from cnnzoo.errors import UserError
from cnnzoo.loggers.local import ResumableCSVLogger, ResumableTensorBoardLogger
from cnnzoo.runtime.files import display_path

log = logging.getLogger(__name__)


def find_checkpoint(run_dir: Path) -> tuple[Path, dict[str, Any]] | None:
    """The last checkpoint, and what is in it; where it is damaged, the one with the most steps; None without any.

    A damaged one is named in the log. Only tensors and plain types are loaded. The best one may have more steps than
    the last, but was perhaps written right after a validation within an epoch, or while gradients were gathered.
    """
    import torch  # here: the command line is checked without it

    found: list[tuple[Path, dict[str, Any]]] = []
    for path in sorted((run_dir / "checkpoints").glob("*.ckpt"), key=lambda path: path.name != "last.ckpt"):
        try:
            with zipfile.ZipFile(path) as parts:
                if (torn := parts.testzip()) is not None:
                    raise ValueError(f"{torn} has another checksum")
            saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            if not {"loops", "cnnzoo", "rows"} <= saved.keys():
                raise ValueError("it is no checkpoint of a training run")
        except Exception as error:  # whatever zipfile, pickle and torch say of a damaged file
            reason = str(error).split("\n")[0]
            log.warning("%s is damaged (%s): going on from another", path, reason)
            continue
        if path.name == "last.ckpt":
            return path, saved
        found.append((path, saved))
    return max(found, key=lambda each: each[1]["global_step"]) if found else None


def record_resume(run_dir: Path, words: Sequence[str], checkpoint: Path | None, saved: dict[str, Any] | None) -> None:
    """Add to `resumes.yaml` when, from where and with which words a run went on."""
    entry = {
        "time": datetime.now().isoformat(timespec="seconds"),
        "overrides": list(words),
        "checkpoint": None if checkpoint is None else str(checkpoint.relative_to(run_dir)),
        "epoch": 0 if saved is None else saved["cnnzoo"]["epochs"],
        "step": 0 if saved is None else saved["global_step"],
    }
    with (run_dir / "resumes.yaml").open("a", encoding="utf-8") as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create([entry])))


def prepare_resume(
    run_dir: Path, data: DataModule, trainer: pl.Trainer, cfg: DictConfig
) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that a resumed run goes on from; None where it has none yet and begins.

    What loggers hold of steps after it is dropped. Raises UserError, before anything is changed, where the run has
    nothing left to do, and where the data is not what it was.
    """
    start = find_checkpoint(run_dir)
    path, saved = start if start is not None else (None, None)
    done, asked = (0, 0) if saved is None else (saved["cnnzoo"]["epochs"], saved["global_step"])
    most, finished = trainer.max_epochs or -1, (run_dir / "metrics.json").exists()
    if 0 < most < done or (finished and 0 < most == done):
        raise UserError(
            f"resume={display_path(run_dir)}: this run has trained {done} epochs, and trainer.max_epochs={most}; to train "
            f"longer type trainer.max_epochs={2 * done}"
        )
    if saved is not None:
        data.trainer = trainer  # which fit() would do; it tells how many devices there are
        data.load_state_dict(saved["DataModule"])
    if trainer.is_global_zero:
        record_resume(run_dir, cfg.resume, path, saved)
        (run_dir / "metrics.json").unlink(missing_ok=True)  # it marks a finished run
    for logger in trainer.loggers:
        if isinstance(logger, ResumableTensorBoardLogger):
            logger.resume_at(asked)
        elif isinstance(logger, ResumableCSVLogger):
            logger.resume_at(0 if saved is None else saved["rows"])
    if path is None:
        log.info("%s holds no checkpoint yet: the run begins", display_path(run_dir))
    else:
        log.info("going on from %s: %d epochs and %d steps are done", display_path(path), done, asked)
    return start
