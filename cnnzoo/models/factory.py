"""`create_model`: from a name to a network."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cnnzoo.errors import UserError, nearest
from cnnzoo.models.registry import Entry, check_stem, get_entry


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    weights: str | Path | None = None,
    stem: str = "native",
    **overrides: Any,
) -> nn.Module:
    """Build the network `name`: (N, in_channels, H, W) float -> (N, num_classes) logits.

    num_classes: None for those of the paper's data set.
    weights: None (from scratch), a member of torchvision's weights enum for that network ("IMAGENET1K_V1",
        "DEFAULT"), or a local file (.pth, .pt, .safetensors, or a .ckpt of ours); see `cnnzoo.models.weights`.
    stem: "native", the paper's, or "small", the family's form for small images. A network that is small by nature has
        one form and takes either word.
    overrides: further arguments of the network's constructor, such as `dropout=0.2`.

    The network carries `.arguments`: what to call create_model with, to build it again without its weights.

    Raises `UserError` for a name, stem, weights or override that does not exist, and for weights that do not fit.
    """
    entry = get_entry(name)
    check_stem(stem)
    for argument, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f"{argument}={value!r} for {name}: expected a whole number of 1 or more")
    _check_overrides(entry, overrides)

    arguments = {**entry.arguments, **overrides, "in_channels": in_channels}
    arguments["num_classes"] = entry.info.num_classes if num_classes is None else num_classes
    if "stem" in inspect.signature(entry.network).parameters:
        arguments["stem"] = stem
    if weights is None:
        return _build(entry, arguments)

    from cnnzoo.models.weights import (
        fit_weights,
        is_published,
        read_weights,
    )  # here, because it reads this module's facts

    published = is_published(entry.info, weights)
    if published and stem != "native":
        raise UserError(f"weights={weights} for {name} are for stem=native, not stem={stem}: type stem=native")
    state, recorded = read_weights(entry.info, weights)
    if published and in_channels == entry.info.in_channels:
        recorded = dict(entry.pretrained_arguments)
    arguments |= {key: recorded[key] for key in entry.pretrained_arguments if key in recorded and key not in overrides}
    net = _build(entry, arguments)
    fit_weights(
        net,
        state,
        source=f"weights={weights} for {name}",
        published=published,
        build=lambda **changes: entry.network(**{**arguments, **changes}),
        num_classes=arguments["num_classes"],
    )
    return net


def _build(entry: Entry, arguments: dict[str, Any]) -> nn.Module:
    net = entry.network(**arguments)
    own = {key: value for key, value in arguments.items() if entry.arguments.get(key, ...) is not value}
    net.arguments = {"name": entry.info.name, **own}  # type: ignore[assignment]
    return net


def _check_overrides(entry: Entry, overrides: Mapping[str, Any]) -> None:
    own = {"num_classes", "in_channels", "stem"}
    allowed = [argument for argument in inspect.signature(entry.network).parameters if argument not in own]
    for argument in overrides:
        if argument not in allowed:
            near = nearest(argument, allowed, most=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            takes = ", ".join(allowed) or "no further arguments"
            raise UserError(f"{entry.info.name} takes no argument '{argument}'{meant}: it takes {takes}")
