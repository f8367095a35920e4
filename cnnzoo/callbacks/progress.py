"""How far a run is, while it runs: a bar on a terminal, elsewhere a line now and then."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar as Base

from cnnzoo.data.cache.fill import Report, log_progress
from cnnzoo.errors import UserError
from cnnzoo.runtime.console import LiveBar, TimeLeftEstimator, is_live_terminal, live_bar
from cnnzoo.runtime.formatting import format_bytes, format_duration

log = logging.getLogger(__name__)

REFRESH_SECONDS = 0.25  # seconds between two looks at the figures: on a GPU each look waits for the step to end
EVAL_STEP_COST = (
    1 / 3
)  # the share of a training step's time that a step of validation takes, about: it has no backward pass


class ProgressBar(Base):
    """A row for what runs now, with loss, accuracy and time left, and one for the whole run, with images per second.

    log_every_seconds: seconds between two lines where there is no terminal; epochs that are shorter have none but `EpochLine`'s.
    """

    def __init__(self, log_every_seconds: float = 60.0) -> None:
        super().__init__()
        if (
            isinstance(log_every_seconds, bool)
            or not isinstance(log_every_seconds, int | float)
            or log_every_seconds <= 0
        ):
            raise UserError(
                f"callbacks.progress.log_every_seconds={log_every_seconds}: the seconds between two lines, above 0"
            )
        self.log_every_seconds = log_every_seconds
        self._enabled, self._bar = True, None  # type: tuple[bool, LiveBar | None]
        self._stage, self._total = "", 0.0
        self._of_stage, self._of_run = TimeLeftEstimator(), TimeLeftEstimator()
        self._looked = self._spoken = 0.0

    def enable(self) -> None:
        """Show it, on the first process."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing; Lightning asks for it on all processes but the first."""
        self._enabled = False

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar: the first batches of validation may take their time."""
        self._begin("validation")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure the run."""
        self._of_run = TimeLeftEstimator()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the row of an epoch."""
        self._begin("training")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show a step of training."""
        if self._stage != "training":  # back from a validation in mid-epoch
            self._begin("training")
        self._step(batch_idx + 1, self.total_train_batches, batch_idx + 1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the row of a validation."""
        if not trainer.sanity_checking:
            self._begin("validation")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show a step of validation."""
        self.has_dataloader_changed(dataloader_idx)
        trained = trainer.fit_loop.epoch_loop.batch_progress.current.completed if trainer.state.fn == "fit" else 0
        self._step(batch_idx + 1, self.total_val_batches_current_dataloader, trained)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the row of a test."""
        self._begin("testing")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show a step of testing."""
        self.has_dataloader_changed(dataloader_idx)
        self._step(batch_idx + 1, self.total_test_batches_current_dataloader, 0)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the row of a prediction."""
        self._begin("predicting")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show a step of prediction."""
        self.has_dataloader_changed(dataloader_idx)
        self._step(batch_idx + 1, self.total_predict_batches_current_dataloader, 0)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the bar away."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the bar away, so that what is said of it stands alone."""
        self._close()

    def _begin(self, stage: str) -> None:
        """Another thing runs from now on."""
        self._stage, self._of_stage = stage, TimeLeftEstimator()
        self._looked, self._spoken = -math.inf, time.perf_counter()
        if self._enabled and self._bar is None and is_live_terminal():
            self._bar = LiveBar()

    def _step(self, done: int, total: float, trained: int) -> None:
        """Show that `done` of `total` batches of this stage are through, and `trained` of the epoch's for training."""
        now = time.perf_counter()
        if not self._enabled or (now - self._looked < REFRESH_SECONDS and done < total):
            return
        self._looked = now
        left = self._of_stage.left(done, total)
        trainer = self.trainer
        run_left, share = None, None
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            validated = done if self._stage == "validation" else 0
            whole, so_far = total_epochs(trainer), completed_epochs(trainer, trained, validated)
            run_left, share = self._of_run.left(so_far, whole), min(so_far / whole, 1.0)
        if self._bar is not None:
            figures = latest_metrics(trainer)
            learning = "  ".join(figures[name] for name in ("loss", "acc1") if name in figures)
            self._bar.show(self._stage, done, total, left=left, count=f"{done}/{total:.0f}", figures=learning)
            if share is not None:
                name, speed = f"epoch {epoch_label(trainer)}", figures.get("images/s", "")
                self._bar.show(name, share, 1.0, row="run", left=run_left, count=f"{share:.0%}", figures=speed)
        elif now - self._spoken > self.log_every_seconds:
            self._spoken = now
            log.info("  ".join(self._words(done, total, left, run_left)))

    def _words(self, done: int, total: float, left: float | None, run_left: float | None) -> list[str]:
        """What a line says."""
        where = self._stage if self.trainer.state.fn != "fit" else f"epoch {epoch_label(self.trainer)}  {self._stage}"
        words = [where, f"step {done}/{total:.0f}"]
        if self._stage == "training":
            words += latest_metrics(self.trainer).values()
        if left is not None:
            words.append(
                f"{format_duration(left)} left"
                + (f", {format_duration(run_left)} in all" if run_left is not None else "")
            )
        return words

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextmanager
def cache_progress(total: int) -> Iterator[Report]:
    """Show how far the filling of a cache of `total` images is: a bar on a terminal, lines in the log elsewhere."""
    with live_bar() as bar:
        if bar is None:
            with log_progress(total) as report:
                yield report
            return
        started, time_left = time.perf_counter(), TimeLeftEstimator()

        def show(done: int, used: int) -> None:
            rate = done / max(time.perf_counter() - started, 1e-9)
            bar.show(
                "filling cache",
                done,
                total,
                left=time_left.left(done, total),
                count=f"{done:,}/{total:,}",
                figures=f"{rate:,.0f} images/s  {format_bytes(used)}",
            )

        yield show


def latest_metrics(trainer: Trainer) -> dict[str, str]:
    """The latest loss, accuracy and images per second of training, each with its short name."""
    now = trainer.progress_bar_metrics if trainer.state.fn == "fit" else {}
    figures = {}
    for name in ("loss", "acc1"):
        if f"train/{name}" in now:
            figures[name] = f"{name} {float(now[f'train/{name}']):.3f}"
    if "perf/images_per_second" in now:
        figures["images/s"] = f"{float(now['perf/images_per_second']):,.0f} images/s"
    return figures


def epoch_label(trainer: Trainer) -> str:
    """`3/30`; without the second number where only steps are limited."""
    most = trainer.max_epochs
    return f"{trainer.current_epoch + 1}" + (f"/{most}" if most is not None and most > 0 else "")


def total_epochs(trainer: Trainer) -> float:
    """How many epochs the run has, a fraction where a number of steps ends it; infinite without an end."""
    most = float(trainer.max_epochs) if trainer.max_epochs is not None and trainer.max_epochs > 0 else math.inf
    if trainer.max_steps > 0:
        most = min(most, trainer.max_steps * trainer.accumulate_grad_batches / max(trainer.num_training_batches, 1))
    return most


def completed_epochs(trainer: Trainer, trained: float, validated: float) -> float:
    """How many epochs are through, counted by the time that they take: `trained` and `validated` are batches."""
    batches = trainer.num_val_batches
    validation = EVAL_STEP_COST * (sum(batches) if isinstance(batches, list) else batches)
    one = max(trainer.num_training_batches + validation, 1)
    return trainer.current_epoch + min((trained + EVAL_STEP_COST * validated) / one, 1.0)
