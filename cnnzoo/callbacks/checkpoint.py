"""Checkpoints from which a run that was stopped or killed at any moment can be resumed."""

import random
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor, distributed

from cnnzoo.checks import check_number, create_directory
from cnnzoo.loggers.local import ResumableCSVLogger
from cnnzoo.runtime.files import atomic_write
from cnnzoo.runtime.signals import TrainingStopped, current_handler, signal_pending

Boundary = Literal["epoch", "batch"]
"""Where a checkpoint is written: between two epochs, or between two batches of an epoch."""

SYNC_EVERY_N_STEPS = 10
"""With several ranks, steps between two decisions on saving: agreeing across ranks waits for the device."""


class CheckpointSaver(Checkpoint):
    """Writes `last.ckpt`, from which a run resumes, and `best.ckpt`, the best epoch by `monitor`, to `dirpath`.

    `last.ckpt` is written after each epoch, every `every_minutes` minutes (0 turns that off), and on SIGTERM, SIGUSR1
    and Ctrl-C; `best.ckpt` after the validation that sets a new best. If several epochs tie for the best, the latest
    counts: a small validation split ties often.

    Checkpoints are written between two batches or two epochs, never within a step or a validation. A resumed run
    therefore ends with the same bits as one that was never stopped. Saving resnet50 takes about a third of a second on
    a fast disk. Raises UserError if the directory cannot be created, before training, and OSError if the file cannot be
    written.
    """

    def __init__(self, dirpath: str, *, monitor: str, every_minutes: float = 10.0) -> None:
        check_number("callbacks.checkpoint.every_minutes", every_minutes, minimum=0, note="(0 turns it off)")
        self.directory, self.monitor, self.every_minutes = Path(dirpath), monitor, every_minutes
        self.sign = -1.0 if monitor.endswith("loss") else 1.0
        self.best_value: float | None = None
        self._best_is_undecided = False  # there was a validation since `best_value` was last compared
        self._boundary: Boundary | None = None  # set while a checkpoint is written
        self._resume_state: dict[str, Any] = {}
        self._last_save = self._start_time = time.monotonic()
        self._previous_seconds = 0.0  # training time of the processes that this one resumes

    @property
    def seconds(self) -> float:
        """Training time of the run, over all processes that it was resumed in."""
        return self._previous_seconds + time.monotonic() - self._start_time

    def is_improvement(self, value: float | Tensor) -> bool:
        """Whether `value` of the monitored metric is at least as good as the best so far; NaN never is."""
        value = float(value)
        return value == value and (self.best_value is None or self.sign * value >= self.sign * self.best_value)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
            if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                create_directory("callbacks.checkpoint.dirpath", self.directory)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the random state of a resumed run; from here on, a signal saves a checkpoint."""
        if signal_pending():  # its exception was lost
            raise KeyboardInterrupt
        state, self._resume_state = self._resume_state, {}
        if state:
            random_states = state["random_states"]
            set_random_state(random_states[trainer.global_rank % len(random_states)])
            if state["boundary"] == "epoch":
                trainer.fit_loop.restarting = False  # otherwise Lightning ends the completed epoch a second time
        self._last_save = self._start_time = time.monotonic()
        _defer_signals(True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._best_is_undecided = not trainer.sanity_checking

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save the state after the previous batch, if `best.ckpt` or `last.ckpt` is due."""
        if not batch_idx or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._save_if_best(trainer, "batch")
        multi_rank = trainer.world_size > 1
        if batch_idx % trainer.accumulate_grad_batches or (multi_rank and batch_idx % SYNC_EVERY_N_STEPS):
            return
        if _just_validated(trainer, batch_idx):
            return  # a run resumed from here would validate a second time
        stop = signal_pending()
        due = 0 < 60 * self.every_minutes <= time.monotonic() - self._last_save
        if multi_rank:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if stop or due:
            self._save(trainer, "last", "batch")
        if stop:
            raise _training_stopped()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch and trainer.global_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save_after_epoch(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save_after_epoch(trainer)
        _defer_signals(False)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        _defer_signals(False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        _defer_signals(False)

    def state_dict(self) -> dict[str, Any]:
        """Plain types and tensors; `random_states` are those of all ranks, in order. A collective call."""
        return {
            "best_value": self.best_value,
            "boundary": self._boundary,
            "random_states": _gather_from_ranks(random_state()),
            "seconds": self.seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_value, self._previous_seconds = state_dict["best_value"], state_dict["seconds"]
        self._resume_state = state_dict  # restored in on_train_start, as what runs before may use random numbers

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Correct the loops' progress for the boundary, and store how many rows of metrics.csv belong to the run."""
        if self._boundary is not None:
            normalize_loop_state(checkpoint["loops"]["fit_loop"], self._boundary)
        checkpoint["rows"] = next(
            (logger.rows for logger in trainer.loggers if isinstance(logger, ResumableCSVLogger)), 0
        )

    def _save_after_epoch(self, trainer: Trainer) -> None:
        self._save_if_best(trainer, "epoch")
        self._save(trainer, "last", "epoch")
        stop = signal_pending()
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop and trainer.training:
            raise _training_stopped()

    def _save_if_best(self, trainer: Trainer, boundary: Boundary) -> None:
        undecided, self._best_is_undecided = self._best_is_undecided, False
        if not undecided or self.monitor not in trainer.callback_metrics:
            return
        value = trainer.callback_metrics[self.monitor]
        if trainer.strategy.reduce_boolean_decision(self.is_improvement(value)):
            self.best_value = float(value)
            self._save(trainer, "best", boundary)

    def _save(self, trainer: Trainer, name: str, boundary: Boundary) -> None:
        for logger in trainer.loggers:
            logger.save()  # metrics logged so far must be on the disk if the process is killed later
        self._boundary = boundary
        path = self.directory / f"{name}.ckpt"
        try:
            trainer.save_checkpoint(path, weights_only=False)
        except OSError as error:
            error.filename = error.filename or str(path)  # `failures_as_user_error` names the file
            raise
        finally:
            self._boundary = None
        if name == "last":
            self._last_save = time.monotonic()


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint only when the new file is complete and on the disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write the file. Raises OSError if that fails; the previous file stays."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed while it saved
            leftover.unlink(missing_ok=True)
        try:
            with atomic_write(path, "wb", fsync=True) as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None  # torch hides a failed write behind its own error
            raise


def normalize_loop_state(loops: dict[str, Any], boundary: Boundary) -> None:
    """Change the saved progress of Lightning's loops, in place, to that between two batches or two epochs.

    Lightning's hooks run after it has counted the next batch as started. Resetting that makes it the first batch of
    the resumed run.
    """
    progress = loops["epoch_progress" if boundary == "epoch" else "epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts["ready"] = counts["started"] = counts["processed"] = counts["completed"]
    if boundary == "batch":
        progress["is_last_batch"] = False


def random_state() -> dict[str, Any]:
    """State of the random generators of Python, NumPy, PyTorch and this rank's GPU, as tensors and plain types."""
    version, internal_state, next_gauss = random.getstate()
    algorithm, keys, *rest = np.random.get_state()
    state = {
        "python": [version, list(internal_state), next_gauss],
        "numpy": [algorithm, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore what `random_state` returned; the GPU's part is skipped without a GPU."""
    version, internal_state, next_gauss = state["python"]
    random.setstate((version, tuple(internal_state), next_gauss))
    algorithm, keys, *rest = state["numpy"]
    np.random.set_state((algorithm, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def _just_validated(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a validation within the epoch ran right before this batch."""
    interval = trainer.val_check_batch
    if interval in (None, float("inf")):
        return False
    batches = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    return batches % interval == 0


def _gather_from_ranks(state: dict[str, Any]) -> list[Any]:
    """The states of all ranks, in order, on each of them."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [state]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, state)
    return states


def _defer_signals(deferred: bool) -> None:
    """Whether a signal waits for the next checkpoint, which is so while training."""
    handler = current_handler()
    if handler is not None:
        handler.deferred = deferred


def _training_stopped() -> TrainingStopped:
    """The exception to stop with; another rank may be the one that received the signal, then it is a SIGTERM."""
    handler = current_handler()
    return TrainingStopped(handler.received if handler is not None and handler.received else signal.SIGTERM)
