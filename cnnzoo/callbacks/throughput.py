"""Images per second, and the fraction of the time spent waiting for data."""

import time
from collections import deque
from typing import Any, NamedTuple

from pytorch_lightning import Callback, LightningModule, Trainer

from cnnzoo.callbacks.steps import log_step
from cnnzoo.checks import check_int


class _Sample(NamedTuple):
    """Readings at one moment; all three only grow."""

    seconds: float
    wait_seconds: float
    images: int


class Throughput(Callback):
    """Logs `perf/images_per_second` (over all ranks) and `perf/data_wait`, each over the last `window` steps.

    `perf/data_wait` is the fraction of the time, 0 to 1, in which training waited for the loader. It is logged for
    loaders that measure it as `wait_seconds`. With a GPU, it is the time in which the GPU had finished a step, but the
    next batch was not there. The latest steps may be left out, because the GPU has not reached them yet.
    """

    def __init__(self, window: int = 10) -> None:
        check_int("callbacks.throughput.window", window, minimum=1)
        self._samples: deque[_Sample] = deque(maxlen=window + 1)
        self._epoch_start = _Sample(0.0, 0.0, 0)
        self._measures_wait = False
        self.images = 0
        """Images that were trained on, over all ranks."""
        self.epoch_images_per_second = 0.0
        """Over the latest epoch of training, validation left out."""
        self.epoch_data_wait: float | None = None
        """Over the latest epoch of training; None before the first step."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning does not call on_train_epoch_start in a run that is resumed within an epoch.
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a new window, so that validation between two epochs does not count."""
        self._measures_wait = hasattr(trainer.train_dataloader, "wait_seconds")
        self._samples.clear()
        self._samples.append(self._sample(trainer))
        self._epoch_start = self._samples[0]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images += len(batch[1]) * trainer.world_size
        self._samples.append(self._sample(trainer))
        images_per_second, data_wait = _rates(self._samples[0], self._samples[-1])
        values = {"perf/images_per_second": images_per_second}
        if self._measures_wait:
            values["perf/data_wait"] = data_wait
        log_step(pl_module, values)
        self.epoch_images_per_second, self.epoch_data_wait = _rates(self._epoch_start, self._samples[-1])

    def _sample(self, trainer: Trainer) -> _Sample:
        wait_seconds = trainer.train_dataloader.wait_seconds if self._measures_wait else 0.0  # type: ignore[union-attr]
        return _Sample(time.perf_counter(), wait_seconds, self.images)


def _rates(start: _Sample, end: _Sample) -> tuple[float, float]:
    """Images per second, and the fraction of the time spent waiting for data."""
    seconds = max(end.seconds - start.seconds, 1e-9)
    return (end.images - start.images) / seconds, min(1.0, (end.wait_seconds - start.wait_seconds) / seconds)
