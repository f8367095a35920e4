"""Exponential moving average of the weights; validation, test and inference use the average."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from cnnzoo.checks import check_number
from cnnzoo.errors import UserError


class EMA(Callback):
    """Averages the weights and batch-norm statistics exponentially over the steps (Polyak and Juditsky, 1992).

    After each optimizer step, `average += (1 - decay) * (weights - average)`. In the first steps the decay is lower,
    `(1 + steps) / (10 + steps)`, so that the average soon forgets the initial weights. Validation uses the average. A
    checkpoint stores the average as `state_dict` and the weights to continue training from as `raw_state_dict`. After
    training, the network holds the average.

    Needs memory for a second copy of the weights. Raises UserError for a decay outside (0, 1) and for sharded weights.
    """

    def __init__(self, decay: float = 0.999) -> None:
        check_number("ema", decay, above=0, below=1, note="such as 0.999, or null to turn averaging off")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self._steps = 0
        self._pairs: list[tuple[list[Tensor], list[Tensor]]] = []  # the average and the network: floats, then integers
        self._swapped = False  # True while the network holds the average, and `average` the raw weights

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if any(hasattr(value, "full_tensor") for value in _net_state(pl_module).values()):
            raise UserError(f"ema={self.decay}: sharded weights (trainer=fsdp) cannot be averaged; type ema=null")
        if not self.average:
            self.average = {name: value.detach().clone() for name, value in _net_state(pl_module).items()}
        for name, value in _net_state(pl_module).items():
            self.average[name] = self.average[name].to(value.device)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the tensors once: building a state dict in every step takes longer than averaging it."""
        state = _net_state(pl_module)
        names = [[n for n, v in state.items() if v.is_floating_point() == is_float] for is_float in (True, False)]
        self._pairs = [([self.average[n] for n in group], [state[n].detach() for n in group]) for group in names]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._steps:
            return  # gradients are being accumulated: there was no optimizer step
        self._steps = trainer.global_step
        decay = min(self.decay, (1 + self._steps) / (10 + self._steps))
        (averages, weights), (average_counters, counters) = self._pairs
        torch._foreach_lerp_(averages, weights, 1 - decay)
        if counters:  # integers, such as batch norm's counter
            torch._foreach_copy_(average_counters, counters)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._swap(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A swap, not a copy: Lightning runs the checkpoint callback after this one, and it saves the raw weights too.
        self._swap(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not self.average:
            return
        state = checkpoint["state_dict"]
        net_state = {name: state[name] for name in self.average}
        raw, average = (self.average, net_state) if self._swapped else (net_state, self.average)
        checkpoint["raw_state_dict"] = dict(raw)
        checkpoint["state_dict"] = {**state, **average}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return  # validation and test use `state_dict`, the average, which is already loaded
        if "raw_state_dict" not in checkpoint:
            raise UserError(
                f"ema={self.decay}: the run to resume has no averaged weights; leave ema out, or start a new run"
            )
        self.average = {name: checkpoint["state_dict"][name].clone() for name in checkpoint["raw_state_dict"]}
        self._steps = checkpoint["global_step"]
        pl_module.load_state_dict({**checkpoint["state_dict"], **checkpoint["raw_state_dict"]})

    @torch.no_grad()
    def _swap(self, pl_module: LightningModule) -> None:
        """Exchange the network's tensors with the average, in place."""
        for name, value in _net_state(pl_module).items():
            previous = value.detach().clone()
            value.copy_(self.average[name])
            self.average[name].copy_(previous)
        self._swapped = not self._swapped


def _net_state(pl_module: LightningModule) -> dict[str, Tensor]:
    """The network's weights and buffers, under their names in a checkpoint."""
    return {f"net.{name}": value for name, value in pl_module.net.state_dict().items()}  # type: ignore[union-attr]
