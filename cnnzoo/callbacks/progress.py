"""What the terminal shows while training."""

import logging

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console

from cnnzoo.callbacks.speed import Speed

log = logging.getLogger(__name__)

SHORT = {
    "train/loss": "loss",
    "train/acc1": "acc1",
    "val/acc1": "val acc1",
    "perf/images_per_second": "images/s",
}
"""What the bar shows, under a name short enough for 80 columns."""


class ProgressBar(RichProgressBar):
    """Rich's bar with loss, accuracy and images per second, on a terminal alone; what stays is `EpochLine`'s."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=10)  # times a second: the default of 100 takes time from training
        if not Console().is_terminal:
            self.disable()

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The figures at the end of the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        shown: dict[str, int | str | float | dict[str, float]] = {}
        for name, short in SHORT.items():
            value = metrics.get(name)
            if isinstance(value, (int, float)):
                shown[short] = f"{value:,.0f}" if short == "images/s" else f"{value:.3f}"
        return shown


class EpochLine(Callback):
    """One line for each epoch, which stays on the screen and in `train.log`."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the line."""
        if not trainer.is_global_zero:
            return
        now = trainer.callback_metrics
        words = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"]
        for name, label in (
            ("train/loss_epoch", "train loss"),
            ("train/acc1_epoch", "acc1"),
            ("val/loss", "val loss"),
            ("val/acc1", "acc1"),
        ):
            if name in now:
                words.append(f"{label} {float(now[name]):.4f}")
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Speed):
                words.append(f"{callback.epoch_images_per_second:,.0f} images/s")
                words.append(f"data wait {callback.epoch_data_wait or 0:.0%}")
        log.info("  ".join(words))
