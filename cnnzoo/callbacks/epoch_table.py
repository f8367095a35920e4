"""One line for each epoch, which can be read afterwards."""

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

COLUMNS = {"loss": "train/loss_epoch", "acc1": "train/acc1_epoch", "val loss": "val/loss", "val acc1": "val/acc1"}
ROWS_PER_HEADER = 20  # lines between two headings


class EpochTable(Callback):
    """A table with a row for each epoch, on the screen and in `train.log`, at most 80 characters wide.

    `wait` is the share of the time spent waiting for data, `time` that of the epoch with its validation, `left` that of
    the rest of the run. "best" marks the best epoch so far, by what the checkpoint goes by. What was not measured in an
    epoch, as validation may be, is a dash.
    """

    def __init__(self) -> None:
        self._run, self._started = TimeLeftEstimator(), 0.0
        self._rows, self._validated = 0, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure the run, and a table; a run that is resumed within an epoch has no start of one."""
        self._run, self._rows = TimeLeftEstimator(), 0
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure an epoch."""
        self._started, self._validated = time.perf_counter(), False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the first step of the run for the beginning: what came before it comes once."""
        if not self._run.began:
            self._run.left(completed_epochs(trainer, batch_idx + 1, 0), total_epochs(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that this epoch has figures of validation."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the row."""
        left = self._run.left(trainer.current_epoch + 1, total_epochs(trainer))
        if not trainer.is_global_zero:
            return
        now = {
            name: value
            for name, value in trainer.callback_metrics.items()
            if self._validated or not name.startswith("val/")
        }
        cells = {"epoch": epoch_label(trainer)}
        cells |= {title: f"{float(now[name]):.4f}" if name in now else "-" for title, name in COLUMNS.items()}
        speed = next((each for each in trainer.callbacks if isinstance(each, Throughput)), None)  # type: ignore[attr-defined]
        if speed is not None:
            cells["images/s"] = f"{speed.epoch_images_per_second:,.0f}"
            cells["wait"] = f"{speed.epoch_data_wait or 0:.0%}"
        took = time.perf_counter() - self._started
        cells["time"] = f"{took:.1f}s" if took < 10 else format_duration(took)
        cells["left"] = "-" if left is None or left == math.inf else format_duration(left)
        widths = {"epoch": max(len("epoch"), 2 * len(str(trainer.max_epochs)) + 1), "wait": 4}
        widths = {title: widths.get(title, max(len(title), 6)) for title in cells}
        if self._rows % ROWS_PER_HEADER == 0:
            log.info("%s", "  ".join(title.rjust(widths[title]) for title in cells))
        row = "  ".join(cell.rjust(widths[title]) for title, cell in cells.items())
        log.info("%s", row + (" best" if is_best_epoch(trainer, now) else ""))
        self._rows += 1


def is_best_epoch(trainer: Trainer, now: Mapping[str, Tensor]) -> bool:
    """Whether the epoch that ends is at least as good as all before, by what the checkpoint goes by."""
    checkpoint = next((each for each in trainer.checkpoint_callbacks if isinstance(each, CheckpointSaver)), None)
    return checkpoint is not None and checkpoint.monitor in now and checkpoint.improves(now[checkpoint.monitor])
