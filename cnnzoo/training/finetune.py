"""The defaults of runs that start from pretrained weights: a lower learning rate, fewer epochs, the head first."""

import logging

from omegaconf import DictConfig
from torch import nn

from cnnzoo.callbacks.freeze import FreezeBackbone
from cnnzoo.errors import UserError
from cnnzoo.models.factory import head_parameters
from cnnzoo.runtime.formatting import plural

AUTO = "auto"
FIRST_LAYER_LR_RATIO = 0.1
"""`first_layer_lr_ratio=auto` with pretrained weights."""

log = logging.getLogger(__name__)


def apply_finetune_defaults(cfg: DictConfig) -> None:
    """With `model.weights`, replace the learning rates and the epochs of `model.recipe` by those for fine-tuning.

    A learning rate or a number of epochs that was set elsewhere does not refer to `model.recipe`, and stays. The
    configuration of an earlier version lacks `first_layer_lr_ratio`: such a run had no defaults for fine-tuning.
    """
    if "first_layer_lr_ratio" not in cfg:
        return
    if cfg.model.weights is None:
        if cfg.first_layer_lr_ratio == AUTO:
            cfg.first_layer_lr_ratio = 1.0
        return
    recipe = cfg.model.recipe
    recipe.epochs = recipe.finetune.epochs
    for settings in recipe.values():
        if isinstance(settings, DictConfig) and "lr" in settings:
            settings.lr *= recipe.finetune.lr_factor
    if cfg.first_layer_lr_ratio == AUTO:
        cfg.first_layer_lr_ratio = FIRST_LAYER_LR_RATIO
    log.info(
        "fine-tuning: %s, learning rate %g in the last layer and %g in the first",
        plural(cfg.trainer.max_epochs, "epoch"),
        cfg.optimizer.lr,
        cfg.optimizer.lr * cfg.first_layer_lr_ratio,
    )


def freeze_callbacks(cfg: DictConfig, net: nn.Module) -> list[FreezeBackbone]:
    """The callbacks for `freeze_epochs`: none, or one `FreezeBackbone`. `auto` is replaced in `cfg`.

    Raises UserError if it cannot work: without pretrained weights, with a network without parameters in the head, and
    with sharded weights.
    """
    epochs, replaced = cfg.get("freeze_epochs", 0), getattr(net, "replaced_parameters", [])
    if epochs == AUTO:
        can_freeze = isinstance(cfg.trainer.strategy, str) and cfg.trainer.max_epochs not in (None, -1, 1)
        epochs = cfg.freeze_epochs = int(bool(replaced) and can_freeze)
    if not epochs:
        return []
    if cfg.model.weights is None and "target" not in cfg.model:  # a network of the user may load its weights itself
        raise UserError(f"freeze_epochs={epochs}: the weights are random; type model.weights=FILE, or freeze_epochs=0")
    if not isinstance(cfg.trainer.strategy, str):
        raise UserError(f"freeze_epochs={epochs}: sharded weights cannot be frozen; type freeze_epochs=0")
    head = replaced or head_parameters(net)
    if not head and "target" in cfg.model:
        raise UserError(
            f"freeze_epochs={epochs}: {cfg.model.target} has no layer with one output per class; type freeze_epochs=0, "
            "or give it a method get_classifier that returns its last layer"
        )
    if not head:
        raise UserError(f"freeze_epochs={epochs}: the last layer of {cfg.model.name} has no parameters; leave it out")
    return [FreezeBackbone(epochs, head)]
