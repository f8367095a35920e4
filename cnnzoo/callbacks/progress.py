"""Progress of a run: live bars on a terminal, elsewhere a log line at intervals."""

import logging
import math
import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar as LightningProgressBar

from cnnzoo.checks import check_number
from cnnzoo.runtime.console import LiveBar, TimeLeftEstimator, is_live_terminal
from cnnzoo.runtime.formatting import format_duration

log = logging.getLogger(__name__)

REFRESH_SECONDS = 0.25
"""Seconds between two updates: on a GPU, reading the metrics waits for the step to end."""
EVAL_STEP_COST = 1 / 3
"""Approximate time of a validation step, which has no backward pass, as a fraction of a training step's."""


class ProgressBar(LightningProgressBar):
    """Shows two bars: the present stage with loss, accuracy and time left, and the whole run with images per second.

    log_every_seconds: without a terminal, seconds between two log lines. Shorter epochs log none: `EpochTable` has a
        row for each.
    """

    def __init__(self, log_every_seconds: float = 60.0) -> None:
        super().__init__()
        self.log_every_seconds = check_number("callbacks.progress.log_every_seconds", log_every_seconds, above=0)
        self._enabled = True
        self._bar: LiveBar | None = None
        self._stage = ""
        self._stage_estimator, self._run_estimator = TimeLeftEstimator(), TimeLeftEstimator()
        self._last_refresh = self._last_log = 0.0

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        """Show nothing; Lightning calls this on all ranks but rank 0."""
        self._enabled = False

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_stage("validation")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._run_estimator = TimeLeftEstimator()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_stage("training")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._stage != "training":  # after a validation within the epoch
            self._start_stage("training")
        self._update(batch_idx + 1, self.total_train_batches, batch_idx + 1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._start_stage("validation")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.has_dataloader_changed(dataloader_idx)
        train_batches = 0
        if trainer.state.fn == "fit":
            train_batches = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        self._update(batch_idx + 1, self.total_val_batches_current_dataloader, train_batches)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_stage("testing")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.has_dataloader_changed(dataloader_idx)
        self._update(batch_idx + 1, self.total_test_batches_current_dataloader, 0)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_stage("predicting")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.has_dataloader_changed(dataloader_idx)
        self._update(batch_idx + 1, self.total_predict_batches_current_dataloader, 0)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _start_stage(self, stage: str) -> None:
        self._stage, self._stage_estimator = stage, TimeLeftEstimator()
        self._last_refresh, self._last_log = -math.inf, time.perf_counter()
        if self._enabled and self._bar is None and is_live_terminal():
            self._bar = LiveBar()

    def _update(self, done: int, total: float, train_batches: int) -> None:
        """Show `done` of the stage's `total` batches, and `train_batches` of the present epoch's training."""
        now = time.perf_counter()
        if not self._enabled or (now - self._last_refresh < REFRESH_SECONDS and done < total):
            return
        self._last_refresh = now
        stage_left = self._stage_estimator.estimate(done, total)
        trainer = self.trainer
        run_left, run_fraction = None, None
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            val_batches = done if self._stage == "validation" else 0
            run_epochs, epochs_done = total_epochs(trainer), completed_epochs(trainer, train_batches, val_batches)
            run_left = self._run_estimator.estimate(epochs_done, run_epochs)
            run_fraction = min(epochs_done / run_epochs, 1.0)
        if self._bar is not None:
            metrics = latest_metrics(trainer)
            learning = "  ".join(metrics[name] for name in ("loss", "acc1") if name in metrics)
            self._bar.show(
                self._stage, done, total, seconds_left=stage_left, count=f"{done}/{total:.0f}", details=learning
            )
            if run_fraction is not None:
                name, speed = f"epoch {epoch_label(trainer)}", metrics.get("images/s", "")
                self._bar.show(
                    name,
                    run_fraction,
                    1.0,
                    row="run",
                    seconds_left=run_left,
                    count=f"{run_fraction:.0%}",
                    details=speed,
                )
        elif now - self._last_log > self.log_every_seconds:
            self._last_log = now
            log.info("  ".join(self._log_parts(done, total, stage_left, run_left)))

    def _log_parts(self, done: int, total: float, stage_left: float | None, run_left: float | None) -> list[str]:
        """The parts of a log line: stage, step, metrics and time left in seconds."""
        in_fit = self.trainer.state.fn == "fit"
        parts = [f"epoch {epoch_label(self.trainer)}  {self._stage}" if in_fit else self._stage]
        parts.append(f"step {done}/{total:.0f}")
        if self._stage == "training":
            parts += latest_metrics(self.trainer).values()
        if stage_left is not None:
            run_text = "" if run_left is None else f", {format_duration(run_left)} left in the run"
            parts.append(f"{format_duration(stage_left)} left{run_text}")
        return parts

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def latest_metrics(trainer: Trainer) -> dict[str, str]:
    """Short name -> text, of training's latest loss, accuracy and images per second, as far as they are logged."""
    values = trainer.progress_bar_metrics if trainer.state.fn == "fit" else {}
    texts = {}
    for name in ("loss", "acc1"):
        if f"train/{name}" in values:
            texts[name] = f"{name} {float(values[f'train/{name}']):.3f}"
    if "perf/images_per_second" in values:
        texts["images/s"] = f"{float(values['perf/images_per_second']):,.0f} images/s"
    return texts


def epoch_label(trainer: Trainer) -> str:
    """The present epoch, counted from 1, such as `3/30`; just `3` if only steps are limited."""
    max_epochs = trainer.max_epochs
    return f"{trainer.current_epoch + 1}" + (f"/{max_epochs}" if max_epochs is not None and max_epochs > 0 else "")


def total_epochs(trainer: Trainer) -> float:
    """The run's length in epochs: a fraction if `max_steps` ends it within an epoch, infinite without a limit."""
    epochs = float(trainer.max_epochs) if trainer.max_epochs is not None and trainer.max_epochs > 0 else math.inf
    if trainer.max_steps > 0:
        epochs = min(epochs, trainer.max_steps * trainer.accumulate_grad_batches / max(trainer.num_training_batches, 1))
    return epochs


def completed_epochs(trainer: Trainer, train_batches: float, val_batches: float) -> float:
    """Epochs done so far, weighted by time, after `train_batches` and `val_batches` of the present epoch."""
    limits = trainer.num_val_batches
    val_cost = EVAL_STEP_COST * (sum(limits) if isinstance(limits, list) else limits)
    epoch_cost = max(trainer.num_training_batches + val_cost, 1)
    return trainer.current_epoch + min((train_batches + EVAL_STEP_COST * val_batches) / epoch_cost, 1.0)
