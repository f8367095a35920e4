"""Checkpoints from which a run that was stopped or killed at any moment can be resumed."""

import logging
import random
import signal
import time
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor, distributed

from cnnzoo.callbacks.checkpoint_io import AtomicCheckpointIO, BackgroundCheckpointIO
from cnnzoo.callbacks.steps import logged_step
from cnnzoo.checks import check_bool, check_int, check_number, create_directory
from cnnzoo.loggers.local import ResumableCSVLogger
from cnnzoo.runtime.signals import TrainingStopped, current_handler, signal_pending

Boundary = Literal["epoch", "batch"]
"""Where a checkpoint is written: between two epochs, or between two batches of an epoch."""

log = logging.getLogger(__name__)


class Action(IntEnum):
    """What to do at a boundary; with several ranks, the highest action of all ranks is taken."""

    CONTINUE = 0
    SAVE = 1
    STOP = 2


class CheckpointSaver(Checkpoint):
    """Writes `last.ckpt`, from which a run resumes, and `best.ckpt`, the best epoch by `monitor`, to `dirpath`.

    `best.ckpt` is written after the validation that sets a new best. If several epochs tie for the best, the latest
    counts: a small validation split ties often. `last.ckpt` is written every `every_n_epochs` epochs, when
    `every_n_seconds` have passed since it was last written (None turns either off), after the first epoch, with each
    new best at the end of an epoch, on SIGTERM, SIGUSR1 and Ctrl-C, and at the end of training.

    Checkpoints are taken between two batches or two epochs, never within a step or a validation. A resumed run
    therefore ends with the same bits as one that was never stopped. Several ranks agree on saving and on signals only
    after logged steps, because that waits for the device.

    With `background`, training waits only until the weights are copied to the CPU's memory: 0.04 s for resnet18, 0.06 s
    for resnet50. A thread writes the file, and holds at most three such copies, usually one. Everything is on the disk
    when training ends, or stops for a signal or an error. Without `background`, each file is waited for.

    Raises UserError if the directory cannot be created, before training, and OSError if a file cannot be written, at
    the next boundary.
    """

    def __init__(
        self,
        dirpath: str,
        *,
        monitor: str,
        every_n_epochs: int | None = 1,
        every_n_seconds: float | None = 600,
        background: bool = True,
    ) -> None:
        key, note = "callbacks.checkpoint", "(null turns it off)"
        if every_n_epochs is not None:
            check_int(f"{key}.every_n_epochs", every_n_epochs, minimum=1, note=note)
        if every_n_seconds is not None:
            check_number(f"{key}.every_n_seconds", every_n_seconds, above=0, note=note)
        self.every_n_epochs, self.every_n_seconds = every_n_epochs, every_n_seconds
        self.background = check_bool(f"{key}.background", background)
        self.directory, self.monitor = Path(dirpath), monitor
        self.sign = -1.0 if monitor.endswith("loss") else 1.0
        self.best_value: float | None = None
        self._io = BackgroundCheckpointIO()
        self._best_is_undecided = False  # there was a validation since `best_value` was last compared
        self._boundary: Boundary | None = None  # set while a checkpoint is taken
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
            trainer.strategy.checkpoint_io = self._io
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
        self._io.raise_error()
        if self._is_new_best(trainer):
            self._save(trainer, ["best"], "batch")
        if batch_idx % trainer.accumulate_grad_batches:
            return
        if trainer.world_size > 1 and logged_step(trainer) % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        if _just_validated(trainer, batch_idx):
            return  # a run resumed from here would validate a second time
        action = highest_of_ranks(trainer, self._action())
        if action:
            self._save(trainer, ["last"], "batch")
        if action == Action.STOP:
            self._wait(trainer)
            raise _training_stopped()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epochs = trainer.current_epoch
        if not epochs or not trainer.global_step or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        best = ["best"] if self._is_new_best(trainer) else []
        # After the first epoch there is a last.ckpt: from a best.ckpt within an epoch, a run does not resume exactly.
        is_due = epochs == 1 or (self.every_n_epochs is not None and epochs % self.every_n_epochs == 0)
        action = highest_of_ranks(trainer, self._action(is_due))
        if best or action:
            self._save(trainer, [*best, "last"], "epoch")
        if action == Action.STOP:
            self._wait(trainer)
            raise _training_stopped()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Otherwise Lightning does not update the schedules by epoch after the epoch within which a run was resumed.
        # With trainer.max_steps it turns the assignment into True, and then the run would not make a step more.
        if trainer.fit_loop.restarting and trainer.max_steps == -1:
            trainer.fit_loop.restarting = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            best = ["best"] if self._is_new_best(trainer) else []
            self._save(trainer, [*best, "last"], "epoch")
            self._wait(trainer)
            if highest_of_ranks(trainer, self._action()) == Action.STOP and trainer.training:
                raise _training_stopped()
        _defer_signals(False)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        _defer_signals(False)
        if stage == "fit":
            self._io.wait()  # for what other callbacks saved
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()  # what is saved after training is waited for

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        _defer_signals(False)
        try:
            self._io.wait()
        except OSError as error:  # `exception` is the one to report
            log.warning("%s: cannot be written: %s", error.filename, error.strerror)

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

    def _is_new_best(self, trainer: Trainer) -> bool:
        """Whether a validation since the last call set a new best; a collective call after a validation."""
        undecided, self._best_is_undecided = self._best_is_undecided, False
        if not undecided or self.monitor not in trainer.callback_metrics:
            return False
        value = trainer.callback_metrics[self.monitor]
        if not trainer.strategy.reduce_boolean_decision(self.is_improvement(value)):
            return False
        self.best_value = float(value)
        return True

    def _action(self, is_due: bool = False) -> Action:
        """What this rank wants to do; `is_due`: `last.ckpt` is due whenever it was last written."""
        if signal_pending():
            return Action.STOP
        seconds = time.monotonic() - self._last_save
        is_due = is_due or (self.every_n_seconds is not None and seconds >= self.every_n_seconds)
        return Action.SAVE if is_due else Action.CONTINUE

    def _save(self, trainer: Trainer, names: Sequence[str], boundary: Boundary) -> None:
        """Save the present state as each of the files `names`."""
        for logger in trainer.loggers:
            logger.save()  # metrics logged so far must be on the disk if the process is killed later
        path, *copies = (self.directory / f"{name}.ckpt" for name in names)
        self._boundary, self._io.copies = boundary, copies
        try:
            trainer.save_checkpoint(path, weights_only=False)
        finally:
            self._boundary, self._io.copies = None, ()
        if not self.background:
            self._io.wait()
        if "last" in names:
            self._last_save = time.monotonic()

    def _wait(self, trainer: Trainer) -> None:
        """Return when the checkpoints are on the disk; on all ranks, of which only the first one writes."""
        self._io.wait()
        trainer.strategy.barrier("checkpoints written")


def highest_of_ranks(trainer: Trainer, action: Action) -> Action:
    """The highest of the actions of all ranks. With several ranks, one collective call, which waits for the device."""
    if trainer.world_size == 1:
        return action
    value = torch.tensor(int(action), device=trainer.strategy.root_device)
    distributed.all_reduce(value, distributed.ReduceOp.MAX)
    return Action(int(value))


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
