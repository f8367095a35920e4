"""`tune=lr` and `tune=batch_size`: Lightning's finders, before a run. `tuned.json` keeps what they found."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.tuner import Tuner

from cnnzoo.data.datamodule import DataModule
from cnnzoo.errors import UserError
from cnnzoo.runtime.distributed import has_several_ranks
from cnnzoo.runtime.failures import failures_as_user_error
from cnnzoo.runtime.files import write_json
from cnnzoo.training.classifier import Classifier
from cnnzoo.training.device_defaults import find_device

Build = Callable[[DictConfig], tuple[DataModule, Classifier, pl.Trainer]]

FILE = "tuned.json"
KEYS = {"lr": "optimizer.lr", "batch_size": "data.batch_size"}
LR_STEPS = 100
LR_RANGE = (1e-3, 1e2)
"""Learning rates that are tried, relative to the configured one."""
SKIPPED_STEPS = 10
"""Steps at the beginning, whose smoothed loss is still uncertain."""
MIN_FALL_STEPS = 10
"""The least number of steps during which the loss must fall."""
MAX_BATCH_SIZE = 8192

log = logging.getLogger(__name__)


def apply_tuning(cfg: DictConfig, build: Build) -> None:
    """Set the key that belongs to `cfg.tune` in `cfg` to what a finder finds; a resumed run uses the saved value.

    build: builds the data, the classifier and the trainer of a configuration. The finder gets its own, so that the run
    begins as if the value had been typed.

    Raises UserError with several devices, without a GPU for the batch size, and if the finder finds nothing.
    """
    key, run_dir = KEYS[cfg.tune], Path(cfg.run_dir)
    if any(str(override).startswith(f"{key}=") for override in cfg.resume or ()):
        return  # a new value, which was typed for this resume
    if cfg.resume is not None and (run_dir / FILE).exists():
        value = json.loads((run_dir / FILE).read_text())[key]
    else:
        _check(cfg, run_dir)
        with failures_as_user_error(cfg):
            value = (find_lr if cfg.tune == "lr" else find_batch_size)(cfg, build)
        write_json(run_dir / FILE, {key: value})
    log.info("tune=%s: %s=%g", cfg.tune, key, value)
    group, name = key.split(".")
    cfg[group][name] = value


def find_lr(cfg: DictConfig, build: Build) -> float:
    """The rate at which the loss falls most steeply, to two digits; the rates rise geometrically from step to step."""
    lr, (lowest, highest) = cfg.optimizer.lr, LR_RANGE
    log.info("tune=lr: trying %d learning rates from %.2g to %.2g", LR_STEPS, lowest * lr, highest * lr)
    with _quiet():
        data, classifier, trainer = build(_trial_config(cfg))
        classifier.scheduler = None
        finder = Tuner(trainer).lr_find(
            classifier,
            datamodule=data,
            min_lr=lowest * lr,
            max_lr=highest * lr,
            num_training=LR_STEPS,
            update_attr=False,
        )
    assert finder is not None
    found = steepest_rate(finder.results["lr"], finder.results["loss"])
    if found is None:
        raise UserError(
            "tune=lr: the loss falls at none of these rates; type another optimizer.lr, around which to try"
        )
    return float(f"{found:.2g}")


def steepest_rate(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate at which the loss falls most steeply on a logarithmic scale, before its minimum; None if it rises.

    Lightning's own suggestion is the steepest fall on a linear scale, which is at far too low rates.
    """
    rate, loss = torch.tensor(lrs[SKIPPED_STEPS:-1]), torch.tensor(losses[SKIPPED_STEPS:-1])
    rate, loss = rate[loss.isfinite()], loss[loss.isfinite()]
    end = int(loss.argmin()) + 1 if len(loss) else 0
    if end < MIN_FALL_STEPS:
        return None
    (slope,) = torch.gradient(loss[:end], spacing=(rate[:end].log(),))
    return float(rate[slope.argmin()])


def find_batch_size(cfg: DictConfig, build: Build) -> int:
    """The largest power of two that fits into the GPU's memory in three training steps, at most `MAX_BATCH_SIZE`."""
    with _quiet():
        data, classifier, trainer = build(_trial_config(cfg))
        classifier.scheduler = None
        trials = _TrialData(data)
        # Lightning returns the first size that it does not try, if all that it tries fit.
        found = Tuner(trainer).scale_batch_size(
            classifier, datamodule=trials, init_val=min(8, trials.largest), max_val=2 * trials.largest
        )
    assert found is not None
    return min(found, trials.largest)


class _TrialData(pl.LightningDataModule):
    """Batches of `batch_size` images of `data`; the size may change between two calls of `train_dataloader`."""

    def __init__(self, data: DataModule) -> None:
        super().__init__()
        train = data.split("train")
        assert train is not None
        self.data, self.batch_size, self.loader = data, 1, None
        self.largest = 1 << min(len(train), MAX_BATCH_SIZE).bit_length() - 1  # a power of two
        self.on_after_batch_transfer = data.on_after_batch_transfer  # type: ignore[method-assign]

    def train_dataloader(self) -> Any:
        self.teardown()
        self.data.trainer = self.trainer
        self.data.batch_size = min(self.batch_size, self.largest)
        self.loader = self.data.build_loader("train")
        return self.loader

    def val_dataloader(self) -> Any:
        return []

    def teardown(self, stage: str | None = None) -> None:
        if self.loader is not None:
            self.loader.close()


def _check(cfg: DictConfig, run_dir: Path) -> None:
    if cfg.resume is not None and any((run_dir / "checkpoints").glob("*.ckpt")):
        raise UserError(f"tune={cfg.tune}: the run has begun without it; leave it out, or start a new run")
    if has_several_ranks(cfg.trainer):
        raise UserError(
            f"tune={cfg.tune}: it uses one device; find the value with trainer.devices=1, then type {KEYS[cfg.tune]}"
        )
    if cfg.tune == "lr" and not cfg.optimizer.get("lr"):
        raise UserError("tune=lr: it tries the rates around optimizer.lr; set that to a number > 0")
    if cfg.trainer.fast_dev_run:
        raise UserError(f"tune={cfg.tune}: trainer.fast_dev_run runs too few steps for it; leave one of them out")
    if cfg.tune == "batch_size" and find_device(cfg.trainer.accelerator).type != "cuda":
        raise UserError("tune=batch_size: it fills a GPU's memory, and this run is on the CPU; type data.batch_size")


def _trial_config(cfg: DictConfig) -> DictConfig:
    """The configuration without what a finder does not need."""
    trial = deepcopy(cfg)
    trial.callbacks, trial.logger = {}, {}
    trial.ema, trial.compile, trial.freeze_epochs = None, False, 0
    trial.data.cache.mode = "none"  # the run itself fills it
    changes = {
        "max_epochs": -1,
        "max_steps": -1,
        "max_time": None,
        "val_check_interval": None,
        "check_val_every_n_epoch": 10**9,
        "num_sanity_val_steps": 0,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "profiler": None,
    }
    for name, value in changes.items():
        trial.trainer[name] = value
    return trial


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the finder's progress bar, and without the log lines and warnings that the run shows again."""
    logger = logging.getLogger("cnnzoo")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
