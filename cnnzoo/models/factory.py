"""`create_model`: build a network by name."""

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnnzoo.checks import check_int, check_number
from cnnzoo.errors import UserError, nearest
from cnnzoo.models.registry import ModelEntry, check_stem, get_entry

IN_CHANNELS = "the number of image channels is in_channels=..."
NUM_CLASSES = "the number of classes is num_classes=..."
OTHER_LIBRARIES = {
    "pretrained": 'type weights="DEFAULT" for published weights, and leave it out for random ones',
    "checkpoint_path": 'type weights="FILE"',
    "checkpoint": 'type weights="FILE"',
    "in_chans": IN_CHANNELS,
    "num_channels": IN_CHANNELS,
    "channels": IN_CHANNELS,
    "n_classes": NUM_CLASSES,
    "classes": NUM_CLASSES,
    "progress": "a download always shows its progress; leave it out",
    "drop_rate": "networks with dropout call it dropout=...",
}
"""Arguments of torchvision and timm, and what to type instead."""
CONFIG_KEYS = ("name", "num_classes", "stem", "weights")
"""Arguments of `create_model` that are keys of `model` in a configuration."""


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

    The network has an attribute `arguments`: `create_model(**net.arguments)` builds it again, without its weights. With
    `weights`, `replaced_parameters` lists the parameters of a head for another number of classes, which stay random.

    Raises `UserError` for an unknown name, stem, weights or override, for a value that a layer rejects, and for weights
    that do not fit the network.
    """
    entry = get_entry(name)
    check_stem(stem)
    if num_classes is not None:
        num_classes = check_int("num_classes", num_classes, minimum=1, note=f"for {name}")
    in_channels = check_int("in_channels", in_channels, minimum=1, note=f"for {name}")
    if weights is not None and not isinstance(weights, str | Path):
        names = (weights.name,) if hasattr(weights, "name") else entry.info.weights
        expected = "".join(f"'{member}', " for member in names)
        raise UserError(f"weights={_shorten(weights)}: expected {expected}a file, or None")
    _check_overrides(entry, overrides, stem)

    arguments = {**entry.arguments, **overrides, "in_channels": in_channels}
    arguments["num_classes"] = entry.info.num_classes if num_classes is None else num_classes
    if "stem" in inspect.signature(entry.network).parameters:
        arguments["stem"] = stem
    if weights is None:
        return _build(entry, arguments, overrides)

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
    net = _build(entry, arguments, overrides)
    net.replaced_parameters = load_weights(  # type: ignore[assignment]
        net,
        state_dict,
        source=f"weights={weights} for {name}",
        published=published,
        build=lambda **changes: entry.network(**{**arguments, **changes}),
        num_classes=arguments["num_classes"],
    )
    return net


def head_parameters(net: nn.Module) -> list[str]:
    """The names of the parameters whose shape depends on the number of classes, those of auxiliary heads included.

    net: built by `create_model`.
    """
    arguments: dict[str, Any] = dict(net.arguments)  # type: ignore[arg-type]
    with torch.device("meta"):
        other = create_model(**{**arguments, "num_classes": arguments["num_classes"] + 1})
    shapes = {name: parameter.shape for name, parameter in other.named_parameters()}
    return [name for name, parameter in net.named_parameters() if parameter.shape != shapes[name]]


def config_overrides(args: Mapping[Any, Any]) -> dict[str, Any]:
    """`model.args` of a configuration as `overrides` of `create_model`; `UserError` for its other arguments."""
    for name, value in args.items():
        if name in CONFIG_KEYS:
            raise UserError(f"model.args.{name}={_shorten(value)}: type model.{name}={_shorten(value)} instead")
        if name == "in_channels":
            raise UserError(f"model.args.in_channels={_shorten(value)}: the input determines it; leave it out")
    return {str(name): value for name, value in args.items()}


def _build(entry: ModelEntry, arguments: dict[str, Any], overrides: Iterable[str]) -> nn.Module:
    try:
        net = entry.network(**arguments)
    except (TypeError, ValueError) as error:  # a layer rejects a value
        given = ", ".join(f"{key}={_shorten(arguments[key])}" for key in overrides)
        raise UserError(f"{entry.info.name} with {given}: {error}") from error
    changed = {key: value for key, value in arguments.items() if entry.arguments.get(key, ...) is not value}
    net.arguments = {"name": entry.info.name, **changed}  # type: ignore[assignment]
    return net


def _shorten(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:37]}..."


def _check_overrides(entry: ModelEntry, overrides: Mapping[str, Any], stem: str) -> None:
    """Raise UserError for an argument that neither the network's constructor nor `create_model` has.

    Also for an argument that the small stem does not use, and a dropout that is no probability.
    """
    reserved = {"num_classes", "in_channels", "stem"}
    allowed = [argument for argument in inspect.signature(entry.network).parameters if argument not in reserved]
    for argument, value in overrides.items():
        if argument in allowed:
            if argument == "dropout" and isinstance(value, int | float | str):  # FractalNet also takes a sequence
                check_number(argument, value, minimum=0, maximum=1, note=f"(a probability) for {entry.info.name}")
            if stem == "small" and argument in entry.native_only:
                raise UserError(
                    f"{argument}={_shorten(value)}: {entry.info.name} has no {argument} with the small stem; leave it "
                    "out, or choose stem=native"
                )
            continue
        error = f"{entry.info.name} has no argument '{argument}'"
        if argument in OTHER_LIBRARIES:
            raise UserError(f"{error}: {OTHER_LIBRARIES[argument]}")
        closest = nearest(argument, [*allowed, *reserved, "weights"], limit=1)
        if closest:
            raise UserError(f"{error}: did you mean {closest[0]}?")
        raise UserError(f"{error}: expected {', '.join([*sorted(reserved), 'weights', *allowed])}")
