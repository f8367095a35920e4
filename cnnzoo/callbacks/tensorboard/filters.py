"""The first layer's filters as an image."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from cnnzoo.callbacks.steps import is_last_epoch, last_logged_step
from cnnzoo.callbacks.tensorboard.drawing import draw_filters
from cnnzoo.callbacks.tensorboard.time_budget import TimeBudget
from cnnzoo.callbacks.tensorboard.writer import add_image, summary_writers


class Filters(Callback):
    """Writes the first layer's filters before training and after epochs, as the image `net/filters`.

    Filters of RGB images are shown in color. A network whose first layer is not a convolution is skipped, as are
    sharded weights. The images take at most `max_time_fraction` of the training time: epochs that would exceed it are
    skipped, except the last one. An image of 64 filters takes 3 ms.
    """

    def __init__(self, *, max_time_fraction: float = 0.001) -> None:
        self.time_budget = TimeBudget(max_time_fraction, "callbacks.filters.max_time_fraction")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.time_budget.start()
        if not trainer.global_step:  # not in a resumed run
            self._write(trainer, pl_module, step=0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.time_budget.has_time_left or is_last_epoch(trainer):
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
    """Weight (N, C, H, W) of the first layer with parameters; None if that is no convolution or is sharded."""
    first = next((module for module in net.modules() if any(True for _ in module.parameters(recurse=False))), None)
    if not isinstance(first, nn.Conv2d) or hasattr(first.weight, "full_tensor") or first.weight.ndim != 4:
        return None
    return first.weight
