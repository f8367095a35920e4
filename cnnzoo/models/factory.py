"""`create_model`: build a network by name."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cnnzoo.checks import check_int
from cnnzoo.errors import UserError, nearest
from cnnzoo.models.registry import ModelEntry, check_stem, get_entry


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

    num_classes: None for the number of classes of the paper's data set.
    weights: None (random initialization), a member of torchvision's weights enum for this network ("IMAGENET1K_V1",
        "DEFAULT"), or a local file (.pth, .pt, .safetensors, or a .ckpt of cnnzoo); see `cnnzoo.models.weights`.
    stem: "native" for the published network, or "small" for the family's variant for small images. A network without
        a small variant accepts both values.
    overrides: further arguments of the network's constructor, such as `dropout=0.2`.

    The network has an attribute `arguments`: `create_model(**net.arguments)` builds it again, without its weights.

    Raises `UserError` for an unknown name, stem, weights or override, and for weights that do not fit the network.
    """
    entry = get_entry(name)
    check_stem(stem)
    for argument, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value is not None:
            check_int(argument, value, minimum=1, note=f"for {name}")
    _check_overrides(entry, overrides)

    arguments = {**entry.arguments, **overrides, "in_channels": in_channels}
    arguments["num_classes"] = entry.info.num_classes if num_classes is None else num_classes
    if "stem" in inspect.signature(entry.network).parameters:
        arguments["stem"] = stem
    if weights is None:
        return _build(entry, arguments)

    # Imported here because torchvision takes seconds to load, and most callers need no weights.
    from cnnzoo.models.weights import is_published, load_weights, read_weights

    published = is_published(entry.info, weights)
    if published and stem != "native":
        raise UserError(f"weights={weights} for {name} are for stem=native, not stem={stem}: type stem=native")
    state_dict, checkpoint_arguments = read_weights(entry.info, weights)
    if published and in_channels == entry.info.in_channels:
        checkpoint_arguments = dict(entry.pretrained_arguments)
    arguments |= {
        key: checkpoint_arguments[key]
        for key in entry.pretrained_arguments
        if key in checkpoint_arguments and key not in overrides
    }
    net = _build(entry, arguments)
    load_weights(
        net,
        state_dict,
        source=f"weights={weights} for {name}",
        published=published,
        build=lambda **changes: entry.network(**{**arguments, **changes}),
        num_classes=arguments["num_classes"],
    )
    return net


def _build(entry: ModelEntry, arguments: dict[str, Any]) -> nn.Module:
    net = entry.network(**arguments)
    changed = {key: value for key, value in arguments.items() if entry.arguments.get(key, ...) is not value}
    net.arguments = {"name": entry.info.name, **changed}  # type: ignore[assignment]
    return net


def _check_overrides(entry: ModelEntry, overrides: Mapping[str, Any]) -> None:
    reserved = {"num_classes", "in_channels", "stem"}
    allowed = [argument for argument in inspect.signature(entry.network).parameters if argument not in reserved]
    for argument in overrides:
        if argument not in allowed:
            closest = nearest(argument, allowed, limit=1)
            suggestion = f" (did you mean {closest[0]}?)" if closest else ""
            expected = ", ".join(allowed) or "no further arguments"
            raise UserError(f"{entry.info.name} has no argument '{argument}'{suggestion}: expected {expected}")
