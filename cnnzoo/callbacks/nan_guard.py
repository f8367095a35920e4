"""A loss that is no number any more ends the run."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cnnzoo.errors import UserError


class NanGuard(Callback):
    """Raises UserError once the training loss is nan or infinite, and before such weights are saved.

    It looks at the steps that are logged, at an epoch's last and before a checkpoint is written; at others a look
    would make a GPU wait.
    """

    def __init__(self) -> None:
        self.loss: Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss; look at it where that costs nothing."""
        self.loss = outputs["loss"].detach()
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.is_last_batch or (batch_idx + 1) % every == 0:
            self._look(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look at the loss of the last step, while nothing is written yet."""
        self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        if self.loss is None or bool(torch.isfinite(self.loss)):
            return
        group = trainer.optimizers[0].param_groups[0]
        rate, highest = group["lr"], group.get("initial_lr", group["lr"])
        ways = [f"optimizer.lr={highest / 10:.2g}", "trainer.gradient_clip_val=1", "scheduler.warmup_epochs=1"]
        if str(trainer.precision).startswith("16"):
            ways.append("trainer.precision=bf16-mixed")
        raise UserError(
            f"the loss is {self.loss.item()} at step {trainer.global_step} (epoch {trainer.current_epoch + 1}), "
            f"learning rate {rate:.3g}: type {' or '.join(ways)}; checkpoints are of before, if there are any "
            "(callbacks.nan_guard=null goes on regardless)"
        )
