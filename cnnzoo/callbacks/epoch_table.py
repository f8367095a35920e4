"""A table with one row per epoch, for the terminal and the log."""

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cnnzoo.callbacks.checkpoint import CheckpointSaver
from cnnzoo.callbacks.progress import completed_epochs, epoch_label, total_epochs
from cnnzoo.callbacks.throughput import Throughput
from cnnzoo.runtime.console import TimeLeftEstimator
from cnnzoo.runtime.formatting import format_duration

log = logging.getLogger(__name__)

METRIC_COLUMNS = {
    "loss": "train/loss_epoch",
    "acc1": "train/acc1_epoch",
    "val loss": "val/loss",
    "val acc1": "val/acc1",
}
MULTILABEL_COLUMNS = {"loss": "train/loss_epoch", "val loss": "val/loss", "val map": "val/map", "val f1": "val/f1"}
ROWS_PER_HEADER = 20
"""The header is repeated after this many rows."""


class EpochTable(Callback):
    """Logs a row for each epoch, at most 80 characters wide, to the terminal and `train.log`.

    `wait` is the fraction of the time spent waiting for data, `time` the duration of the epoch with its validation, and
    `left` the estimated time to the end of training. "best" marks the best epoch so far by the checkpoint's metric. A
    metric that the epoch did not measure, such as a validation that runs every few epochs, is a dash.
    """

    def __init__(self) -> None:
        self._run_estimator, self._epoch_start = TimeLeftEstimator(), 0.0
        self._num_rows, self._has_validation = 0, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._run_estimator, self._num_rows = TimeLeftEstimator(), 0
        # Lightning does not call on_train_epoch_start in a run that is resumed within an epoch.
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_start, self._has_validation = time.perf_counter(), False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Start the estimate of the time left after the first step, whose one-time costs it leaves out."""
        if not self._run_estimator.started:
            self._run_estimator.estimate(completed_epochs(trainer, batch_idx + 1, 0), total_epochs(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._has_validation = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds_left = self._run_estimator.estimate(trainer.current_epoch + 1, total_epochs(trainer))
        if not trainer.is_global_zero:
            return
        metrics = {
            name: value
            for name, value in trainer.callback_metrics.items()
            if self._has_validation or not name.startswith("val/")
        }
        cells = {"epoch": epoch_label(trainer)}
        is_multilabel = getattr(pl_module, "task", None) == "multilabel"
        for title, name in (MULTILABEL_COLUMNS if is_multilabel else METRIC_COLUMNS).items():
            cells[title] = f"{float(metrics[name]):.4f}" if name in metrics else "-"
        throughput = next((callback for callback in trainer.callbacks if isinstance(callback, Throughput)), None)  # type: ignore[attr-defined]
        if throughput is not None:
            cells["images/s"] = f"{throughput.epoch_images_per_second:,.0f}"
            cells["wait"] = f"{throughput.epoch_data_wait or 0:.0%}"
        seconds = time.perf_counter() - self._epoch_start
        cells["time"] = f"{seconds:.1f}s" if seconds < 10 else format_duration(seconds)
        cells["left"] = "-" if seconds_left is None or seconds_left == math.inf else format_duration(seconds_left)
        special_widths = {"epoch": max(len("epoch"), 2 * len(str(trainer.max_epochs)) + 1), "wait": 4}
        widths = {title: special_widths.get(title, max(len(title), 6)) for title in cells}
        if self._num_rows % ROWS_PER_HEADER == 0:
            log.info("%s", "  ".join(title.rjust(widths[title]) for title in cells))
        row = "  ".join(cell.rjust(widths[title]) for title, cell in cells.items())
        log.info("%s", row + (" best" if is_best_epoch(trainer, metrics) else ""))
        self._num_rows += 1


def is_best_epoch(trainer: Trainer, metrics: Mapping[str, Tensor]) -> bool:
    """Whether the present epoch is at least as good as all before it, by the checkpoint's metric."""
    saver = next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, CheckpointSaver)), None)
    return saver is not None and saver.monitor in metrics and saver.is_improvement(metrics[saver.monitor])
