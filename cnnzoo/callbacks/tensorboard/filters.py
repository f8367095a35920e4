"""The first layer's filters as a picture."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from cnnzoo.callbacks.steps import is_last_epoch, last_logged_step
from cnnzoo.callbacks.tensorboard.drawing import draw_filters
from cnnzoo.callbacks.tensorboard.time_budget import TimeBudget
from cnnzoo.callbacks.tensorboard.writer import add_image, summary_writers


class Filters(Callback):
    """Writes the first layer's filters, before training and after epochs, as `net/filters`; for RGB images in colour.

    A network whose first layer is no convolution has none, nor one whose weights are parted among ranks. `max_time_fraction` of the
    training time is what it may take; epochs that would exceed it are left out, but not the last one. A picture of 64
    filters takes 3 ms.
    """

    def __init__(self, *, max_time_fraction: float = 0.001) -> None:
        self.time_budget = TimeBudget(max_time_fraction, "callbacks.filters.max_time_fraction")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write those that training begins with, unless it began earlier."""
        self.time_budget.start()
        if not trainer.global_step:
            self._write(trainer, pl_module, step=0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write them, where there is time."""
        if self.time_budget.left or is_last_epoch(trainer):
            self._write(trainer, pl_module, step=last_logged_step(trainer))

    def _write(self, trainer: Trainer, pl_module: LightningModule, *, step: int) -> None:
        net: Any = pl_module.net
        weight = first_layer_weight(net)
        if weight is None:
            return
        with self.time_budget:
            for writer in summary_writers(trainer):
                add_image(writer, "net/filters", draw_filters(weight), step)


def first_layer_weight(net: nn.Module) -> Tensor | None:
    """(N, C, H, W) weights of the first layer that has any, if that is a convolution and all of it is here."""
    first = next((module for module in net.modules() if any(True for _ in module.parameters(recurse=False))), None)
    if not isinstance(first, nn.Conv2d) or hasattr(first.weight, "full_tensor") or first.weight.ndim != 4:
        return None
    return first.weight
