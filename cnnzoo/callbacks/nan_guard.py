"""Stops a run whose loss is NaN or infinite."""

import math
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cnnzoo.callbacks.steps import is_logged_step
from cnnzoo.errors import UserError


class NanGuard(Callback):
    """Raises UserError when the training loss is NaN or infinite, and before such weights are saved.

    It looks at the loss after each logged step, at the mean loss after each epoch, and at the latest loss before a
    checkpoint is written; in between, reading the loss would make a GPU wait.
    """

    def __init__(self) -> None:
        self._loss: Tensor | None = None  # of the latest step, on the device
        self._was_logged = False  # whether that step was

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._was_logged:
            self._was_logged = False
            logged = getattr(pl_module, "logged_values", {})  # numbers, which Classifier has read already
            self._check(trainer, logged.get("train/loss", self._loss))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._loss = outputs["loss"].detach()
        self._was_logged = is_logged_step(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._was_logged = False
        self._check(trainer, trainer.callback_metrics.get("train/loss_epoch", self._loss))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check(trainer, self._loss)

    def _check(self, trainer: Trainer, loss: Tensor | float | None) -> None:
        if loss is None or math.isfinite(loss):
            return
        group = trainer.optimizers[0].param_groups[0]
        lr, initial_lr = group["lr"], group.get("initial_lr", group["lr"])
        remedies = [f"optimizer.lr={initial_lr / 10:.2g}", "trainer.gradient_clip_val=1", "scheduler.warmup_epochs=1"]
        if str(trainer.precision).startswith("16"):
            remedies.append("trainer.precision=bf16-mixed")
        raise UserError(
            f"the loss is {float(loss)} at step {trainer.global_step} (epoch {trainer.current_epoch + 1}), "
            f"learning rate {lr:.3g}; type {' or '.join(remedies)}. Checkpoints, if there are any, were saved before "
            "this step. callbacks.nan_guard=null turns this check off"
        )
