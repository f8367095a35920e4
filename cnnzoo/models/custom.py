"""Networks of the user, which a function or a class outside of cnnzoo builds.

Nothing here imports what a file names: `build_custom` imports its `target`, and callers ask the user before they pass
one that a file names.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnnzoo.errors import UserCodeError, UserError, list_choices, nearest
from cnnzoo.models.output_check import describe_value
from cnnzoo.models.registry import Info, info, list_models
from cnnzoo.models.weights_file import Weights, read_weights_file
from cnnzoo.runtime.user_code import error_text, locate

KEY = "model.target"
AUTO = "auto"
CLASSES_ARGUMENTS = ("num_classes", "n_classes", "classes", "num_labels")
CHANNELS_ARGUMENTS = ("in_channels", "in_chans", "input_channels", "num_channels", "n_channels", "channels")
"""The usual names of the arguments with the number of classes and of image channels, the most usual first."""
ATTRIBUTES = ("arguments", "preprocess", "classes", "thresholds", "replaced_parameters", "weights_info")
"""Attributes that cnnzoo sets on a network."""
DEFAULT_IMAGE_SIZE = 224
"""Where neither data nor a file says which images the network takes."""


@dataclass(frozen=True)
class CustomInfo:
    """What is known about a network of the user, with the names of `Info`: it may accept any image size."""

    name: str
    small_min_size: int | None = None
    input_size: int = DEFAULT_IMAGE_SIZE

    def sizes(self, stem: str) -> tuple[int, int | None]:
        return 1, None


def is_custom(arguments: Mapping[str, Any]) -> bool:
    """Whether the `arguments` of a network, as its attribute or as in a file, are those of a network of the user."""
    return "target" in arguments


def build_custom(
    target: str,
    args: Mapping[str, Any],
    *,
    name: str = "custom",
    num_classes: int | None = None,
    in_channels: int | None = None,
    classes_argument: str | None = AUTO,
    channels_argument: str | None = AUTO,
) -> nn.Module:
    """Import `target` and call it with `args`: a network (N, in_channels, H, W) -> (N, num_classes).

    target: the dotted name of a function or class that returns an `nn.Module`, such as "mynet.TinyNet".
    args: keyword arguments, of plain types. They take precedence over the two numbers below.
    name: what tables and files call the network; none of the zoo's names.
    num_classes, in_channels: passed as keyword arguments, if the target takes them; None for its own defaults.
    classes_argument, channels_argument: their names; None for a target that takes none, "auto" for the first of the
        usual names that its signature has.

    The network has the attribute `arguments`: `rebuild_custom(net.arguments)` builds it again.

    Raises UserError if there is no such target, if it does not take the arguments, or if it returns something else, and
    UserCodeError if it raises an error.
    """
    if name in list_models():
        raise UserError(f"model.name={name}: is a network of cnnzoo; type another name for your own, or model=...")
    factory = locate(KEY, target)
    if isinstance(factory, nn.Module) or not callable(factory):
        kind = "a network" if isinstance(factory, nn.Module) else describe_value(factory)
        raise UserError(f"{KEY}={target}: is {kind}; expected a function or a class that builds a network")
    signature = _signature(factory)
    choices = [
        (num_classes, _candidates("classes", classes_argument, CLASSES_ARGUMENTS, signature, args, target)),
        (in_channels, _candidates("channels", channels_argument, CHANNELS_ARGUMENTS, signature, args, target)),
    ]
    while True:
        call = {names[0]: value for value, names in choices if value is not None and names[0] is not None}
        call |= args
        _check_call(signature, call, target)
        try:
            net = factory(**call)
            break
        except TypeError as error:  # of a function that accepts any keyword and passes it on
            match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            rejected = next((names for _, names in choices if match and len(names) > 1 and names[0] == match[1]), None)
            if rejected is None:
                raise UserCodeError(f"{KEY}={target}: {error_text(error)}") from error
            rejected.pop(0)
        except UserError:
            raise
        except Exception as error:
            raise UserCodeError(f"{KEY}={target}: {error_text(error)}") from error
    if not isinstance(net, nn.Module):
        raise UserError(f"{KEY}={target}: it returns {describe_value(net)}, expected a network (torch.nn.Module)")
    if (taken := [attribute for attribute in ATTRIBUTES if hasattr(net, attribute)]) and not _is_from_zoo(net):
        raise UserError(f"{KEY}={target}: its attribute '{taken[0]}' has a meaning in cnnzoo; give it another name")
    described = {"name": name, "target": target, "args": call, "num_classes": num_classes, "in_channels": in_channels}
    net.arguments = {key: value for key, value in described.items() if value is not None}  # type: ignore[assignment]
    return net


def rebuild_custom(arguments: Mapping[str, Any]) -> nn.Module:
    """Build a network again from its attribute `arguments`. It imports the target."""
    net = build_custom(arguments["target"], arguments["args"], name=arguments["name"])
    net.arguments = dict(arguments)  # type: ignore[assignment]
    return net


def size_limits(arguments: Mapping[str, Any]) -> Info | CustomInfo:
    """The facts about image sizes of the network with these `arguments`, of the zoo or of the user."""
    return CustomInfo(arguments["target"]) if is_custom(arguments) else info(arguments["name"])


def image_channels(net: nn.Module) -> int | None:
    """The channels of the images that the first convolution of a network takes; None without a convolution."""
    return next((module.in_channels for module in net.modules() if isinstance(module, nn.Conv2d)), None)


def read_custom_weights(target: str, weights: str | Path) -> Weights:
    """Read a file of weights for the network `target` of the user.

    Raises UserError if there is no such file, and for one of cnnzoo with the weights of another network.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(f"model.weights={weights}: there is no such file; {target} has no weights with names")
    found = read_weights_file(path)
    if found.arguments and found.arguments.get("target") != target:
        name = found.arguments.get("target", found.arguments["name"])
        raise UserError(f"model.weights={weights}: is a checkpoint of {name}, not of {target}")
    return found


def load_custom_weights(net: nn.Module, found: Weights, *, source: str) -> None:
    """Load weights into a network of the user as `create_model` does, and set the same attributes.

    source: the beginning of log and error messages.

    Raises UserError if they do not fit.
    """
    from cnnzoo.models.weights import load_weights  # here: it imports torchvision, which takes seconds

    arguments: dict[str, Any] = dict(net.arguments)  # type: ignore[arg-type]
    replaced = load_weights(
        net,
        found.state_dict,
        source=source,
        published=False,
        heads=custom_head_parameters(net),
        num_classes=arguments.get("num_classes", 0),
    )
    net.replaced_parameters = replaced  # type: ignore[assignment]
    known: dict[str, Any] = {"preprocess": found.preprocess}
    if not replaced:
        known |= {"classes": found.classes, "thresholds": found.thresholds}
    net.weights_info = {key: value for key, value in known.items() if value is not None}  # type: ignore[assignment]


def _is_from_zoo(net: nn.Module) -> bool:
    return "name" in getattr(net, "arguments", {})


def _signature(factory: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(factory)
    except (TypeError, ValueError):  # of a function in C
        return None


def _candidates(
    what: str,
    argument: str | None,
    usual: tuple[str, ...],
    signature: inspect.Signature | None,
    args: Mapping[str, Any],
    target: str,
) -> list[str | None]:
    """The names to try for the argument with the number of classes or channels; None is to pass no such argument."""
    names = [] if signature is None else list(signature.parameters)
    takes_any = signature is None or any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    if argument != AUTO:
        if argument is not None and argument not in names and not takes_any:
            raise UserError(f"model.{what}_argument={argument}: {target} has no such argument; {_expected(names)}")
        return [argument]
    if any(name in args for name in usual):
        return [None]
    if named := [name for name in usual if name in names]:
        return [named[0]]
    return [*usual[:2], None] if takes_any else [None]


def _check_call(signature: inspect.Signature | None, call: Mapping[str, Any], target: str) -> None:
    """Raise UserError if the arguments do not fit the signature."""
    if signature is None:
        return
    try:
        signature.bind(**call)
    except TypeError as error:
        names = list(signature.parameters)
        unknown = next((name for name in call if name not in names), None)
        if unknown is None:
            missing = re.sub(r".*'(\w+)'.*", r"\1", str(error))
            raise UserError(f"{KEY}={target}: needs the argument {missing}; type model.args.{missing}=...") from error
        similar = nearest(unknown, names, limit=1)
        hint = f"did you mean model.args.{similar[0]}?" if similar else _expected(names)
        raise UserError(f"model.args.{unknown}={call[unknown]}: {target} has no such argument; {hint}") from error


def _expected(names: list[str]) -> str:
    return f"expected one of: {list_choices(names)}" if names else "it takes no arguments"


def find_classifier(net: nn.Module) -> str | None:
    """The name of the layer whose outputs are the classes, or None.

    It is what the network's method `get_classifier` returns, as in timm, else the last linear layer or convolution with
    one output per class.
    """
    arguments: dict[str, Any] = dict(net.arguments)  # type: ignore[arg-type]
    names = {module: name for name, module in net.named_modules()}
    if hasattr(net, "get_classifier"):
        layer = net.get_classifier()  # type: ignore[operator]
        if isinstance(layer, nn.Module) and any(True for _ in layer.parameters()):
            return names[layer]
    layers = [
        name
        for module, name in names.items()
        if isinstance(module, nn.Linear | nn.Conv2d) and len(module.weight) == arguments.get("num_classes")
    ]
    return layers[-1] if layers else None


def custom_head_parameters(net: nn.Module) -> list[str]:
    """The names of the parameters of the layer that `find_classifier` finds; empty without such a layer."""
    path = find_classifier(net)
    return [] if path is None else [f"{path}.{name}" for name, _ in net.get_submodule(path).named_parameters()]


def meta_copy(net: nn.Module) -> nn.Module:
    """A copy of `net` on torch's meta device, for tracing; it copies no values."""
    memo: dict[int, Any] = {}
    for parameter in net.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in net.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return deepcopy(net, memo)
