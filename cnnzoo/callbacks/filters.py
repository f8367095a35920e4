"""The first layer's filters as a picture."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from cnnzoo.callbacks.allowance import Allowance
from cnnzoo.callbacks.board import add_picture, last_epoch, last_step, writers
from cnnzoo.callbacks.pictures import filters


class Filters(Callback):
    """Writes the first layer's filters, before training and after epochs, as `net/filters`; for RGB images in colour.

    A network whose first layer is no convolution has none, nor one whose weights are parted among ranks. `share` of the
    training time is what it may take; epochs that would exceed it are left out, but not the last one. A picture of 64
    filters takes 3 ms.
    """

    def __init__(self, *, share: float = 0.001) -> None:
        self.allowance = Allowance(share, "callbacks.filters.share")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write those that training begins with, unless it began earlier."""
        self.allowance.start()
        if not trainer.global_step:
            self._write(trainer, pl_module, step=0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write them, where there is time."""
        if self.allowance.left or last_epoch(trainer):
            self._write(trainer, pl_module, step=last_step(trainer))

    def _write(self, trainer: Trainer, pl_module: LightningModule, *, step: int) -> None:
        net: Any = pl_module.net
        weight = first_filters(net)
        if weight is None:
            return
        with self.allowance:
            for writer in writers(trainer):
                add_picture(writer, "net/filters", filters(weight), step)


def first_filters(net: nn.Module) -> Tensor | None:
    """(N, C, H, W) weights of the first layer that has any, if that is a convolution and all of it is here."""
    first = next((module for module in net.modules() if any(True for _ in module.parameters(recurse=False))), None)
    if not isinstance(first, nn.Conv2d) or hasattr(first.weight, "full_tensor") or first.weight.ndim != 4:
        return None
    return first.weight
