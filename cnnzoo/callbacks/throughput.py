"""How fast training goes, and how much of it is waiting for data."""

import time
from collections import deque
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from cnnzoo.errors import UserError


class Throughput(Callback):
    """Logs `perf/images_per_second` (over all ranks) and `perf/data_wait`, each over the last `window` steps.

    `perf/data_wait` is the share of the time, 0 to 1, that the training loop was blocked on the loader, as the loader
    itself measures it (`wait_seconds`); loaders that do not measure it have none.
    """

    def __init__(self, window: int = 10) -> None:
        if window < 1:
            raise UserError(f"callbacks.throughput.window={window}: at least 1 step")
        self._marks: deque[tuple[float, float, int]] = deque(maxlen=window + 1)  # seconds, seconds waited, images
        self._epoch_start = (0.0, 0.0, 0)
        self.images = 0
        self.epoch_images_per_second = 0.0  # over the last whole epoch of training
        self.epoch_data_wait: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start: a run that is resumed within an epoch has no start of one."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew, so that validation between the epochs does not count."""
        self._marks.clear()
        self._marks.append(self._mark(trainer))
        self._epoch_start = self._marks[0]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the figures of the last steps."""
        self.images += len(batch[1]) * trainer.world_size
        self._marks.append(self._mark(trainer))
        rate, wait = _rates(self._marks[0], self._marks[-1])
        pl_module.log("perf/images_per_second", rate, prog_bar=True)
        if hasattr(trainer.train_dataloader, "wait_seconds"):
            pl_module.log("perf/data_wait", wait)
        self.epoch_images_per_second, self.epoch_data_wait = _rates(self._epoch_start, self._marks[-1])

    def _mark(self, trainer: Trainer) -> tuple[float, float, int]:
        return time.perf_counter(), getattr(trainer.train_dataloader, "wait_seconds", 0.0), self.images


def _rates(start: tuple[float, float, int], end: tuple[float, float, int]) -> tuple[float, float]:
    """Images per second, and the share of the time spent waiting."""
    seconds = max(end[0] - start[0], 1e-9)
    return (end[2] - start[2]) / seconds, min(1.0, (end[1] - start[1]) / seconds)
