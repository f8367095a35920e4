"""The step that a metric is logged at, whether the present step or epoch logs, and logging of a step's values."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

PROGRESS_BAR_VALUES = ("train/loss", "train/acc1", "perf/images_per_second")
"""The values of a step that progress bars show."""


def logged_step(trainer: Trainer) -> int:
    """The step at which Lightning logs the metrics of a training batch, a validation or a test."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def last_logged_step(trainer: Trainer) -> int:
    """The step of the epoch's last batch, for `on_train_epoch_end`, where Lightning's counter is one ahead."""
    return logged_step(trainer) - 1


def is_logging_step(trainer: Trainer) -> bool:
    """Whether the metrics of the present training step are logged."""
    return trainer._logger_connector.should_update_logs


def is_logged_step(trainer: Trainer) -> bool:
    """In `on_train_batch_end`: whether the step is complete, as its gradients are accumulated, and is logged."""
    return is_logging_step(trainer) and not trainer.fit_loop._should_accumulate()


def log_step(pl_module: LightningModule, values: Mapping[str, Tensor | float]) -> None:
    """Log values of the present training step, if it is a logged one.

    `Classifier` reads the values of all callbacks together, without waiting for the device more than once. Other
    modules log each with `LightningModule.log`.
    """
    collect: Any = getattr(pl_module, "log_step", None)
    if collect is not None:
        collect(values)
        return
    for name, value in values.items():
        pl_module.log(name, value, prog_bar=name in PROGRESS_BAR_VALUES, rank_zero_only=name.startswith("perf/gpu"))


def is_last_epoch(trainer: Trainer) -> bool:
    """Whether training ends with this epoch, as far as is known now."""
    is_max_epoch = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
    return is_max_epoch or trainer.should_stop or trainer.global_step == trainer.max_steps
