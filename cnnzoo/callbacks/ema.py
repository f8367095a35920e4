"""A running average of the weights, which is what is validated, tested and loaded."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cnnzoo.errors import UserError


class EMA(Callback):
    """Averages the weights and batch-norm statistics exponentially over the steps (Polyak and Juditsky, 1992).

    After each optimizer step `average += (1 - decay) * (weights - average)`, where `decay` is at most
    `(1 + steps) / (10 + steps)`, so that the first steps are soon forgotten. Validation is of the average, and a
    checkpoint holds it as its `state_dict`; what training goes on with lies beside it, as `raw_state_dict`. After
    training the network is the average.

    Costs the memory of the weights once more. Raises UserError for a decay outside 0 to 1, and with sharded weights.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 < decay < 1:
            raise UserError(f"ema={decay}: a number between 0 and 1, such as 0.999, or null for none")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self._steps = 0
        self._swapped = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the weights as they are."""
        if any(hasattr(value, "full_tensor") for value in _named_tensors(pl_module).values()):
            raise UserError(
                f"ema={self.decay}: weights that are sharded (trainer=fsdp) cannot be averaged; type ema=null"
            )
        if not self.average:
            self.average = {name: value.detach().clone() for name, value in _named_tensors(pl_module).items()}
        for name, value in _named_tensors(pl_module).items():
            self.average[name] = self.average[name].to(value.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the weights of a step to the average."""
        if trainer.global_step == self._steps:
            return  # gradients are being gathered: no step was taken
        self._steps = trainer.global_step
        share = 1 - min(self.decay, (1 + self._steps) / (10 + self._steps))
        state = _named_tensors(pl_module)
        names = [name for name, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.average[name] for name in names], [state[name] for name in names], share)
        for name in state.keys() - set(names):
            self.average[name].copy_(state[name])  # counters

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        if trainer.state.fn == "fit":
            self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train on the weights."""
        if self._swapped:
            self._swap(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the network with the average; what was trained is in the last checkpoint."""
        self._swap(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the average in the place of the weights, and those beside it."""
        if not self.average:
            return
        state = checkpoint["state_dict"]
        held = {name: state[name] for name in self.average}
        raw, average = (self.average, held) if self._swapped else (held, self.average)
        checkpoint["raw_state_dict"] = dict(raw)
        checkpoint["state_dict"] = {**state, **average}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take up both."""
        if "raw_state_dict" not in checkpoint:
            raise UserError("ema: the run that is to go on has no averaged weights: leave ema out, or start a new run")
        self.average = {name: checkpoint["state_dict"][name].clone() for name in checkpoint["raw_state_dict"]}
        self._steps = checkpoint["global_step"]
        pl_module.load_state_dict({**checkpoint["state_dict"], **checkpoint["raw_state_dict"]})

    @torch.no_grad()
    def _swap(self, pl_module: LightningModule) -> None:
        for name, value in _named_tensors(pl_module).items():
            kept = value.detach().clone()
            value.copy_(self.average[name])
            self.average[name].copy_(kept)
        self._swapped = not self._swapped


def _named_tensors(pl_module: LightningModule) -> dict[str, Tensor]:
    """The network's weights and buffers, under the names that a checkpoint has them by."""
    return {f"net.{name}": value for name, value in pl_module.net.state_dict().items()}  # type: ignore[union-attr]
