"""Building the optimizer: its parameter groups, checks of its arguments, and its settings in a resumed run."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from cnnzoo.errors import UserCodeError, UserError

MAX_DEPTHS = 8
"""Layers are divided into at most so many parts with different learning rates, as more groups take more time."""


def build_optimizer(
    factory: Callable[..., Optimizer],
    net: nn.Module,
    *,
    decay_norm_bias: bool = False,
    first_layer_lr_ratio: float = 1.0,
) -> Optimizer:
    """Call `factory` with the groups of `parameter_groups`. Raises UserError if it rejects a value."""
    groups = parameter_groups(net, decay_norm_bias=decay_norm_bias, first_layer_lr_ratio=first_layer_lr_ratio)
    optimizer: Optimizer = call_factory("optimizer", factory, groups)
    for group in optimizer.param_groups:
        group["lr"] *= group.get("lr_scale", 1.0)
    return optimizer


def parameter_groups(
    net: nn.Module, *, decay_norm_bias: bool = False, first_layer_lr_ratio: float = 1.0
) -> list[dict[str, Any]]:
    """The trainable parameters as groups for an optimizer: weights, and the parameters of normalization with biases.

    Parameters of normalization and biases have at most one dimension, the weights of a convolution or a linear layer
    more. Only weights decay, as in He et al. ("conv and fc weights"), unless `decay_norm_bias`.

    With a `first_layer_lr_ratio` other than 1 there are such groups for each of `MAX_DEPTHS` depths, the last layers
    first. Their `lr_scale` is the factor of the learning rate. It falls geometrically from 1 for the last layers to
    `first_layer_lr_ratio` for the first ones.
    """
    layers: list[list[nn.Parameter]] = [[]]
    for parameter in net.parameters():
        if parameter.ndim > 1 and any(p.ndim > 1 for p in layers[-1]):
            layers.append([])  # each weight begins a layer, and its bias and its normalization follow
        layers[-1].append(parameter)
    depths = 1 if first_layer_lr_ratio == 1 else min(len(layers), MAX_DEPTHS)
    groups: list[dict[str, Any]] = []
    for depth in reversed(range(depths)):
        parameters = [p for n, layer in enumerate(layers) for p in layer if n * depths // len(layers) == depth]
        settings = {"lr_scale": first_layer_lr_ratio ** (1 - depth / (depths - 1))} if depths > 1 else {}
        groups.append({"params": [p for p in parameters if p.requires_grad and p.ndim > 1], **settings})
        decay = {} if decay_norm_bias else {"weight_decay": 0.0}
        groups.append({"params": [p for p in parameters if p.requires_grad and p.ndim <= 1], **decay, **settings})
    return [group for group in groups if group["params"]]


def update_saved_settings(checkpoint: dict[str, Any], optimizer: Optimizer) -> None:
    """Replace the settings in a checkpoint's optimizer state by those of `optimizer`, which is newly built.

    So the settings of a resumed run count, such as its weight decay or its device's `fused`. Values that a schedule has
    changed follow: the present learning rate is scaled as its peak is. Raises UserError if that was 0 and now is not.
    """
    states, schedules = checkpoint.get("optimizer_states", ()), checkpoint.get("lr_schedulers", ())
    for state in states:
        for index, (saved, new) in enumerate(zip(state["param_groups"], optimizer.param_groups, strict=False)):
            scheduled = {"params", "lr"} | ({"momentum", "betas"} if "max_momentum" in saved else set())
            saved.update({name: value for name, value in new.items() if name not in scheduled})
            peak = saved.get("max_lr") or saved.get("initial_lr") or saved["lr"]
            if new["lr"] == peak:
                continue
            if not peak:  # the schedules have nothing to scale
                raise UserError("optimizer.lr: the run began with a learning rate of 0; start a new run to change it")
            ratio = new["lr"] / peak
            for name in ("lr", "initial_lr", "max_lr", "min_lr"):
                if name in saved:
                    saved[name] *= ratio
            for values in (schedule.get(name, []) for schedule in schedules for name in ("base_lrs", "_last_lr")):
                if index < len(values):
                    values[index] *= ratio


def call_factory(key: str, factory: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call `factory`; a value that it rejects becomes a `UserError` with all the values that the user set."""
    try:
        return factory(*args, **kwargs)
    except (TypeError, ValueError) as error:
        values = ", ".join(f"{key}.{name}={value}" for name, value in getattr(factory, "keywords", {}).items())
        raise UserCodeError(f"{key}: {error} ({values})") from error


def check_arguments(key: str, factory: Callable[..., Any] | None, *, given: Sequence[str] = ()) -> None:
    """Raise UserError if `factory` is a partial with an argument that its function does not name.

    Some optimizers accept any further argument and ignore it. The first argument and `given` are those that the caller
    of the factory adds.
    """
    if not isinstance(factory, functools.partial):
        return
    parameters = inspect.signature(factory.func).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)][1:]
    names = [name for name in names if name not in given]
    for name, value in factory.keywords.items():
        if name not in names:
            raise UserError(
                f"{key}.{name}={value}: {factory.func.__name__} has no such argument; expected {', '.join(names)}"
            )
