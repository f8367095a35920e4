"""Stops a run whose loss is NaN or infinite."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cnnzoo.errors import UserError


class NanGuard(Callback):
    """Raises UserError when the training loss is NaN or infinite, and before such weights are saved.

    Reading the loss makes a GPU wait, so it is read only at logged steps, at an epoch's last step, and before a
    checkpoint is written.
    """

    def __init__(self) -> None:
        self.loss: Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.loss = outputs["loss"].detach()
        log_interval = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.is_last_batch or (batch_idx + 1) % log_interval == 0:
            self._check_loss(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check_loss(trainer)

    def _check_loss(self, trainer: Trainer) -> None:
        if self.loss is None or bool(torch.isfinite(self.loss)):
            return
        group = trainer.optimizers[0].param_groups[0]
        lr, initial_lr = group["lr"], group.get("initial_lr", group["lr"])
        remedies = [f"optimizer.lr={initial_lr / 10:.2g}", "trainer.gradient_clip_val=1", "scheduler.warmup_epochs=1"]
        if str(trainer.precision).startswith("16"):
            remedies.append("trainer.precision=bf16-mixed")
        raise UserError(
            f"the loss is {self.loss.item()} at step {trainer.global_step} (epoch {trainer.current_epoch + 1}), "
            f"learning rate {lr:.3g}; type {' or '.join(remedies)}. Checkpoints, if there are any, were saved before "
            "this step. callbacks.nan_guard=null turns this check off"
        )
