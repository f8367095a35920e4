"""The registry: for each model name its published facts and the constructor that builds the network."""

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from cnnzoo.checks import check_choice
from cnnzoo.errors import UserError, unknown

if TYPE_CHECKING:
    from cnnzoo.models.network import Network

STEMS = ("native", "small")
"""`native` is the network as published, `small` the family's variant for small images, such as 32 x 32."""


@dataclass(frozen=True)
class Paper:
    """The publication of a network. `arxiv` is the identifier, None if the paper is not on arXiv."""

    title: str
    year: int
    arxiv: str | None


@dataclass(frozen=True)
class Accuracy:
    """Published accuracies as fractions from 0 to 1. `source` says where and how they were measured."""

    top1: float
    top5: float | None
    source: str


@dataclass(frozen=True, kw_only=True)
class Info:
    """The facts about a registered model. Image sizes are the side of a square image in pixels."""

    name: str
    family: str
    paper: Paper
    parameters: int
    """Exact number of trainable parameters with the `num_classes` and `in_channels` below and the native stem."""
    multiply_accumulates: int | None = None
    """Multiply-accumulates of the convolutions and linear layers for one image of `input_size`."""
    num_classes: int = 1000
    """Number of classes of the paper's data set."""
    in_channels: int = 3
    """Number of channels of the paper's images."""
    input_size: int = 224
    """Image size that the paper trains on."""
    min_size: int
    """Smallest image size of the native stem, in training and in evaluation."""
    max_size: int | None = None
    """Largest image size of the native stem; None if there is no limit, because the head pools."""
    small_min_size: int | None = None
    """Smallest image size of the small stem; None if the network has no small stem."""
    accuracy: Accuracy | None = None
    torchvision: str | None = None
    """Name of the same network in torchvision.models; None if torchvision does not have it."""
    weights: tuple[str, ...] = ()
    """Members of torchvision's weights enum that can be loaded. "DEFAULT" is an alias of the best one."""

    def sizes(self, stem: str) -> tuple[int, int | None]:
        """The smallest and the largest image size (None: no limit) with this stem; `UserError` for an unknown stem."""
        if check_stem(stem) == "small" and self.small_min_size is not None:
            return self.small_min_size, None
        return self.min_size, self.max_size


@dataclass(frozen=True)
class ModelEntry:
    """A registered model: its facts, its constructor, and the constructor arguments that define this variant."""

    info: Info
    network: "Callable[..., Network]"
    arguments: Mapping[str, Any]
    pretrained_arguments: Mapping[str, Any]
    """Further constructor arguments that torchvision's weights require."""
    native_only: tuple[str, ...]
    """Constructor arguments that the small stem does not use."""


_MODELS: dict[str, ModelEntry] = {}


def register(
    info: Info,
    network: "Callable[..., Network]",
    *,
    pretrained_arguments: Mapping[str, Any] | None = None,
    native_only: tuple[str, ...] = (),
    **arguments: Any,
) -> None:
    """Register the model `info.name`, which `network(num_classes=..., in_channels=..., **arguments)` builds.

    A constructor with a parameter `stem` is also passed the stem. `pretrained_arguments` are further arguments that
    torchvision's weights require. `native_only` are arguments that the small stem does not use. Raises `ValueError` if
    the name is registered already.
    """
    if info.name in _MODELS:
        raise ValueError(f"the model '{info.name}' is registered twice: {_MODELS[info.name].network} and {network}")
    _MODELS[info.name] = ModelEntry(info, network, arguments, pretrained_arguments or {}, native_only)


def list_models(pattern: str | None = None, *, family: str | None = None, pretrained: bool | None = None) -> list[str]:
    """List the registered model names, grouped by family in the order of registration.

    pattern: a shell-style wildcard, such as "vgg*_bn"; a pattern without a match gives an empty list.
    family: only models of this family, such as "vgg"; an unknown family raises `UserError`.
    pretrained: True for models with torchvision weights, False for models without.
    """
    if pattern is not None and not isinstance(pattern, str):
        raise UserError(f"pattern={pattern}: expected a text such as 'vgg*_bn', or None")
    if family is not None and family not in _families():
        raise unknown("family", str(family), _families())
    check_choice("pretrained", pretrained, (None, True, False))
    return [
        name
        for name, entry in _MODELS.items()
        if (pattern is None or fnmatch.fnmatchcase(name, pattern))
        and (family is None or entry.info.family == family)
        and (pretrained is None or bool(entry.info.weights) == pretrained)
    ]


def info(name: str) -> Info:
    """The facts about the model `name`; raises `UserError` with the closest names if it is unknown."""
    return get_entry(name).info


def check_stem(stem: str) -> str:
    """Return `stem`; raises `UserError` if it is unknown."""
    if stem not in STEMS:
        raise unknown("stem", str(stem), STEMS)
    return stem


def get_entry(name: str) -> ModelEntry:
    """The registry entry of the model `name`; raises `UserError` with the closest names if it is unknown."""
    if not isinstance(name, str):
        raise UserError(f"name={name}: expected the name of a network, such as 'resnet50'; list_models() lists them")
    if name not in _MODELS:
        if name in _families():
            members = sorted(list_models(family=name), key=lambda member: not member.startswith(name))
            listed = ", ".join(members[:6]) + (", ..." if len(members) > 6 else "")
            raise UserError(f"unknown model '{name}': it is a family; its networks are {listed}")
        raise unknown("model", name, _MODELS)
    return _MODELS[name]


def rebuild(net: nn.Module, **changes: Any) -> "Network":
    """A new network with the constructor arguments of `net`, which `create_model` built, except for `changes`."""
    arguments: dict[str, Any] = dict(net.arguments)  # type: ignore[arg-type]
    entry = get_entry(arguments.pop("name"))
    return entry.network(**{**entry.arguments, **arguments, **changes})


def _families() -> list[str]:
    return list(dict.fromkeys(entry.info.family for entry in _MODELS.values()))
