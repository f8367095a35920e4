"""What of a run is kept on the disk, so that it can be killed at any moment and lose little, and nothing for good."""

import logging
import os
import random
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor, distributed

from cnnzoo.errors import UserError
from cnnzoo.loggers.local import ResumableCSVLogger
from cnnzoo.runtime.signals import SIGNALS, TrainingStopped, signal_pending

log = logging.getLogger(__name__)

SYNC_EVERY_N_STEPS = 10
"""Steps between two times that several processes ask each other whether to save: asking waits for the device."""


class CheckpointSaver(Checkpoint):
    """Writes `last.ckpt`, from which a run goes on, and `best.ckpt`, its best epoch by `monitor`, to `dirpath`.

    Saved is between two epochs or two batches, never within a step or a validation, so that a run that goes on from
    there ends with the same bits as one that was never stopped: `last.ckpt` after each epoch, every `every_minutes`
    (0: not besides) and on SIGTERM, SIGUSR1 or Ctrl-C; `best.ckpt` after its validation. Among equally good epochs the
    latest is the best: a small validation split ties often.

    Saving resnet50 takes about a third of a second on a fast disk. Raises UserError where the disk cannot take it.
    """

    def __init__(self, dirpath: str, *, monitor: str, every_minutes: float = 10.0) -> None:
        if isinstance(every_minutes, bool) or not isinstance(every_minutes, int | float) or every_minutes < 0:
            raise UserError(f"callbacks.checkpoint.every_minutes={every_minutes}: a number from 0, which is never")
        self.directory, self.monitor, self.every_minutes = Path(dirpath), monitor, every_minutes
        self.sign = -1.0 if monitor.endswith("loss") else 1.0
        self.best: float | None = None
        self._measured = False  # since `best` was last decided upon
        self._between: str | None = None  # "epochs" or "batches", while a checkpoint is made
        self._loaded: dict[str, Any] = {}
        self._saved_at = self._started_at = time.monotonic()
        self._seconds = 0.0  # that earlier processes trained
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    @property
    def asked(self) -> int | None:
        """The signal that asked training to stop."""
        return self._signal

    @property
    def seconds(self) -> float:
        """How long the run has trained, in all its processes one after the other."""
        return self._seconds + time.monotonic() - self._started_at

    def improves(self, figure: float | Tensor) -> bool:
        """Whether it is at least as good as the best so far; nan never is."""
        now = float(figure)
        return now == now and (self.best is None or self.sign * now >= self.sign * self.best)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have checkpoints written whole or not at all."""
        if stage == "fit":
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
            self._signal = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up the state that a resumed run was left in; from here on a signal saves."""
        if signal_pending():
            raise KeyboardInterrupt
        loaded, self._loaded = self._loaded, {}
        if loaded:
            states = loaded["random"]
            set_random_state(states[trainer.global_rank % len(states)])
            if loaded["between"] == "epochs":
                trainer.fit_loop.restarting = False  # Lightning would take the epoch that ended for one to be ended
        self._saved_at = self._started_at = time.monotonic()
        self._listen()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """There is a figure to judge these weights by."""
        self._measured = not trainer.sanity_checking

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save what the batches before this one led to, where it is time."""
        if not batch_idx or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._save_best(trainer, "batches")
        several = trainer.world_size > 1
        if batch_idx % trainer.accumulate_grad_batches or (several and batch_idx % SYNC_EVERY_N_STEPS):
            return
        if _just_validated(trainer, batch_idx):
            return  # Lightning would validate again
        stop = self._signal is not None
        due = 0 < 60 * self.every_minutes <= time.monotonic() - self._saved_at
        if several:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if stop or due:
            self._save(trainer, "last", "batches")
        if stop:
            raise TrainingStopped(self._signal or signal.SIGTERM)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what the epochs before this one led to."""
        if trainer.current_epoch and trainer.global_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._after_epoch(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what all epochs led to."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._after_epoch(trainer)
        self._unlisten()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave signals as they were."""
        self._unlisten()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave signals as they were."""
        self._unlisten()

    def state_dict(self) -> dict[str, Any]:
        """Plain types; the random states of all processes, in the order of their ranks."""
        random = _gather_from_ranks(random_state())
        return {"best": self.best, "between": self._between, "random": random, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until training starts."""
        self.best, self._seconds = state_dict["best"], state_dict["seconds"]
        self._loaded = state_dict

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say of the loops what holds between batches or epochs, and how much has been logged so far."""
        if self._between is not None:
            normalize_loop_state(checkpoint["loops"]["fit_loop"], self._between)
        checkpoint["rows"] = next(
            (logger.rows for logger in trainer.loggers if isinstance(logger, ResumableCSVLogger)), 0
        )

    def _after_epoch(self, trainer: Trainer) -> None:
        self._save_best(trainer, "epochs")
        self._save(trainer, "last", "epochs")
        stop = self._signal is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop and trainer.training:
            raise TrainingStopped(self._signal or signal.SIGTERM)

    def _save_best(self, trainer: Trainer, between: str) -> None:
        measured, self._measured = self._measured, False
        if not measured or self.monitor not in trainer.callback_metrics:
            return
        now = trainer.callback_metrics[self.monitor]
        if trainer.strategy.reduce_boolean_decision(self.improves(now)):
            self.best = float(now)
            self._save(trainer, "best", between)

    def _save(self, trainer: Trainer, name: str, between: str) -> None:
        for logger in trainer.loggers:
            logger.save()  # so that what was logged up to here outlives this process
        self._between = between
        path = self.directory / f"{name}.ckpt"
        try:
            trainer.save_checkpoint(path, weights_only=False)
        except OSError as error:
            raise UserError(
                f"{path} cannot be written: {error.strerror or error}. What was saved before is as it was; make room, "
                f"then type: python train.py resume={self.directory.parent}"
            ) from error
        finally:
            self._between = None
        if name == "last":
            self._saved_at = time.monotonic()

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():  # where Python takes handlers
            self._handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}

    def _unlisten(self) -> None:
        while self._handlers:
            number, handler = self._handlers.popitem()
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        log.info("%s: saving after this step, or this validation, then stopping", signal.Signals(number).name)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, and puts it there once it is whole and on the disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write the file. Raises OSError where that fails; the file that was there before stays."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
                raise error.__context__ from None  # torch closes what could not be written, and complains of that
            raise


def normalize_loop_state(loops: dict[str, Any], between: str) -> None:
    """Change the saved progress of Lightning's loops to what holds between two "batches", or two "epochs".

    A step that has begun counts as not begun: its batch is the first that a resumed run takes.
    """
    progress = loops["epoch_progress" if between == "epochs" else "epoch_loop.batch_progress"]
    for part in (progress["total"], progress["current"]):
        part["ready"] = part["started"] = part["processed"] = part["completed"]
    if between == "batches":
        progress["is_last_batch"] = False


def random_state() -> dict[str, Any]:
    """The state of the generators of Python, NumPy, torch and this process's GPU, as tensors and plain types."""
    version, numbers, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    state = {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators where `random_state` found them; a GPU's only where there is one."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def _just_validated(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a validation within the epoch came right before this batch."""
    every = trainer.val_check_batch
    if every in (None, float("inf")):
        return False
    done = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
    return done % every == 0


def _gather_from_ranks(state: dict[str, Any]) -> list[Any]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return [state]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, state)
    return states
