"""Training the head of a pretrained network alone, before the whole network."""

import logging
from collections.abc import Collection
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from cnnzoo.runtime.formatting import plural

log = logging.getLogger(__name__)


class FreezeBackbone(Callback):
    """Trains only the parameters `head` of `pl_module.net` in the first `epochs` epochs, and then all of them.

    Meanwhile the other parameters get no gradients, and the modules that do not hold parameters of the head are in
    evaluation mode: batch norm uses and keeps the pretrained statistics, and dropout is off. A head that starts with
    random weights would otherwise send large gradients through the pretrained layers.

    head: names of the parameters, as in `net.named_parameters()`.
    """

    def __init__(self, epochs: int, head: Collection[str]) -> None:
        self.epochs, self.head = epochs, set(head)
        self._is_frozen = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning does not call on_train_epoch_start in a run that is resumed within an epoch.
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        net: Any = pl_module.net
        freeze = trainer.current_epoch < self.epochs
        if freeze != self._is_frozen:
            backbone = [parameter for name, parameter in net.named_parameters() if name not in self.head]
            for parameter in backbone:
                parameter.requires_grad_(not freeze)
                parameter.grad = None
            layers = f"only {', '.join(sorted(self.head))}" if freeze else "all layers"
            during = f" for {plural(self.epochs - trainer.current_epoch, 'epoch')}" if freeze else ""
            log.info("training %s%s", layers, during)
            self._is_frozen = freeze
            net.train()  # Lightning restores the modes that the modules had before a validation
        if freeze:
            set_head_training(net, self.head)


def set_head_training(net: nn.Module, head: Collection[str]) -> None:
    """Put `net` into evaluation mode, except for the modules that hold the parameters `head`."""
    net.eval()
    for name in head:
        net.get_submodule(name.rpartition(".")[0]).train()
