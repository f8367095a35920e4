"""`create_model`: build a network by name."""

import inspect
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cnnzoo.checks import check_int, check_number
from cnnzoo.errors import UserError, nearest
from cnnzoo.models.custom import custom_head_parameters, is_custom
from cnnzoo.models.network import Network
from cnnzoo.models.registry import ModelEntry, check_stem, get_entry

if TYPE_CHECKING:
    from cnnzoo.models.features import FeatureNetwork

log = logging.getLogger(__name__)

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
COMMON_ARGUMENTS = ("num_classes", "in_channels", "stem")
"""Arguments of `create_model` that all networks have."""


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | Path | None = None,
    stem: str | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    **overrides: Any,
) -> "Network | FeatureNetwork":
    """Build the network `name`: (N, in_channels, H, W) float -> (N, num_classes) logits.

    num_classes: None for that of the weights file, else of the paper's data set; 0 for a network without classes,
        (N, in_channels, H, W) -> (N, num_features), the input of its last layer.
    in_channels: None for that of the weights file, else 3.
    weights: None (random initialization), a member of torchvision's weights enum for this network ("IMAGENET1K_V1",
        "DEFAULT"), or a local file (.pth, .pt, .safetensors, or a .ckpt of cnnzoo); see `cnnzoo.models.weights_file`.
    stem: "native" for the published network, or "small" for the family's variant for small images. A network without
        a small variant accepts both values. None for that of a file of cnnzoo, else "native".
    features_only: return a `FeatureNetwork`, whose output is a list of feature maps, without classes.
    out_indices: with `features_only`, which of the maps it returns; None for all.
    overrides: further arguments of the network's constructor, such as `dropout=0.2`. A file of cnnzoo provides those
        that it was saved with.

    The network has an attribute `arguments`: `create_model(**net.arguments)` builds it again, without its weights. With
    `weights`, it has two more attributes. `replaced_parameters` lists the parameters of a head for another number of
    classes, which stay random. `weights_info` is a dict with what is known about the weights: "preprocess" (the
    arguments of `cnnzoo.data.Preprocess`) and, unless the head was replaced, "classes" (the names of the outputs) and
    "thresholds" (of a multi-label network).

    Raises `UserError` for an unknown name, stem, weights or override, for a value that a layer rejects, and for weights
    that do not fit the network.
    """
    if features_only:
        if num_classes:
            raise UserError(
                f"num_classes={num_classes}: a network with features_only=True has no classes; leave it out"
            )
        from cnnzoo.models.features import FeatureNetwork  # here: it imports torchvision, which takes seconds

        net = create_model(name, in_channels=in_channels, weights=weights, stem=stem, **overrides)
        return FeatureNetwork(net, out_indices)
    if out_indices is not None:
        raise UserError(f"out_indices={out_indices}: it selects feature maps; also type features_only=True")
    if num_classes == 0:
        net = create_model(name, in_channels=in_channels, weights=weights, stem=stem, **overrides)
        assert isinstance(net, Network)
        net.reset_classifier(0)
        return net
    entry = get_entry(name)
    requested: dict[str, Any] = {}
    if num_classes is not None:
        requested["num_classes"] = check_int("num_classes", num_classes, minimum=1, note=f"for {name}")
    if in_channels is not None:
        requested["in_channels"] = check_int("in_channels", in_channels, minimum=1, note=f"for {name}")
    if stem is not None:
        requested["stem"] = check_stem(stem)
    if weights is not None and not isinstance(weights, str | Path):
        names = (weights.name,) if hasattr(weights, "name") else entry.info.weights
        expected = "".join(f"'{member}', " for member in names)
        raise UserError(f"weights={_shorten(weights)}: expected {expected}a file, or None")
    _check_overrides(entry, overrides, stem or "native")
    if weights is None:
        return _build(entry, {**_default_arguments(entry), **requested, **overrides}, overrides)

    # Imported here because torchvision takes seconds to load, and most callers need no weights.
    from cnnzoo.models.weights import head_keys, inferred_arguments, is_published, load_weights, read_weights

    published = is_published(entry.info, weights)
    if published and stem == "small":
        raise UserError(f"weights={weights} for {name} are for stem=native, not stem={stem}: type stem=native")
    found = read_weights(entry.info, weights)
    arguments = {**_default_arguments(entry), **requested, **overrides}

    def build(**changes: Any) -> Network:
        return entry.network(**_accepted(entry, {**arguments, **changes}))

    if published:
        saved = dict(entry.pretrained_arguments) if arguments["in_channels"] == entry.info.in_channels else {}
    elif found.arguments:
        saved = _saved_arguments(entry, found.arguments, Path(weights))
    else:
        saved = inferred_arguments(found.state_dict, build, arguments["num_classes"])
    arguments = {**_default_arguments(entry), **saved, **requested, **overrides}
    if arguments["stem"] != (stem or "native"):
        _check_overrides(entry, overrides, arguments["stem"])
    source = f"weights={weights} for {name}"
    further = [key for key in saved if key not in (*COMMON_ARGUMENTS, *overrides)]
    if further and not published:
        log.info("%s: %s, as in the file", source, ", ".join(f"{key}={_shorten(saved[key])}" for key in further))
    net = _build(entry, arguments, overrides)
    replaced = load_weights(
        net,
        found.state_dict,
        source=source,
        published=published,
        heads=head_keys(net, build, arguments["num_classes"]),
        num_classes=arguments["num_classes"],
    )
    net.replaced_parameters = replaced
    known: dict[str, Any] = {"preprocess": found.preprocess}
    if not replaced:
        known |= {"classes": found.classes, "thresholds": found.thresholds}
    net.weights_info = {key: value for key, value in known.items() if value is not None}
    return net


def head_parameters(net: nn.Module) -> list[str]:
    """The names of the parameters whose shape depends on the number of classes, those of auxiliary heads included.

    net: built by `create_model`, or a network of the user; of the latter, those of its last layer.
    """
    arguments: dict[str, Any] = dict(net.arguments)  # type: ignore[arg-type]
    if is_custom(arguments):
        return custom_head_parameters(net)
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


def _default_arguments(entry: ModelEntry) -> dict[str, Any]:
    return {"num_classes": entry.info.num_classes, "in_channels": 3, "stem": "native", **entry.arguments}


def _saved_arguments(entry: ModelEntry, saved: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The arguments in a file of cnnzoo, without the name. Raises UserError if this version does not know one."""
    from cnnzoo.models.weights_file import other_version

    arguments = {key: value for key, value in saved.items() if key != "name"}
    try:
        _check_overrides(entry, {key: arguments[key] for key in arguments if key not in COMMON_ARGUMENTS}, "native")
    except UserError as error:
        raise other_version(path, str(error)) from error
    return arguments


def _accepted(entry: ModelEntry, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without the stem, if the constructor has none."""
    accepts_stem = "stem" in inspect.signature(entry.network).parameters
    return {key: value for key, value in arguments.items() if key != "stem" or accepts_stem}


def _build(entry: ModelEntry, arguments: dict[str, Any], overrides: Iterable[str]) -> Network:
    arguments = _accepted(entry, arguments)
    try:
        net = entry.network(**arguments)
    except (TypeError, ValueError) as error:  # a layer rejects a value
        given = ", ".join(f"{key}={_shorten(arguments[key])}" for key in overrides)
        raise UserError(f"{entry.info.name} with {given}: {error}") from error
    changed = {key: value for key, value in arguments.items() if entry.arguments.get(key, ...) is not value}
    net.arguments = {"name": entry.info.name, **changed}
    return net


def _shorten(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:37]}..."


def _check_overrides(entry: ModelEntry, overrides: Mapping[str, Any], stem: str) -> None:
    """Raise UserError for an argument that neither the network's constructor nor `create_model` has.

    Also for an argument that the small stem does not use, and a dropout that is no probability.
    """
    reserved = set(COMMON_ARGUMENTS)
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
