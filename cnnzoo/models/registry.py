"""The names of the zoo: what belongs to a name, and the network it stands for."""

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from cnnzoo.errors import unknown

STEMS = ("native", "small")
"""The paper's form of a network, and the family's form for small images."""


@dataclass(frozen=True)
class Paper:
    """Where a network was published; `arxiv` is the identifier, None where the paper is not there."""

    title: str
    year: int
    arxiv: str | None


@dataclass(frozen=True)
class Accuracy:
    """Published accuracies, fractions from 0 to 1, and where and how they were measured."""

    top1: float
    top5: float | None
    source: str


@dataclass(frozen=True, kw_only=True)
class Info:
    """The facts that belong to a name. Sizes are the side of a square image, in pixels."""

    name: str
    family: str
    paper: Paper
    parameters: int
    """Exact number of trainable parameters with `num_classes` and `in_channels` as below, native stem."""
    multiply_accumulates: int | None = None
    """Of the convolutions and linear layers for one image of `input_size`."""
    num_classes: int = 1000
    """Of the paper's data set."""
    in_channels: int = 3
    """Of the paper's images."""
    input_size: int = 224
    """The native size."""
    min_size: int
    """The smallest image that the native form takes, in training as in evaluation."""
    max_size: int | None = None
    """The largest one; None where a pooled head takes any."""
    small_min_size: int | None = None
    """The smallest image that the small form takes; None where the network has one form only."""
    accuracy: Accuracy | None = None
    torchvision: str | None = None
    """The builder of the same network in torchvision.models."""
    weights: tuple[str, ...] = ()
    """The members of torchvision's weights enum that can be loaded; "DEFAULT" names the best of them."""

    def sizes(self, stem: str) -> tuple[int, int | None]:
        """Smallest and largest image side (None: no bound) of the form that `stem` names."""
        if check_stem(stem) == "small" and self.small_min_size is not None:
            return self.small_min_size, None
        return self.min_size, self.max_size


@dataclass(frozen=True)
class Entry:
    info: Info
    network: Callable[..., nn.Module]
    arguments: Mapping[str, Any]
    pretrained_arguments: Mapping[str, Any]


_MODELS: dict[str, Entry] = {}


def register(
    info: Info,
    network: Callable[..., nn.Module],
    *,
    pretrained_arguments: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> None:
    """Put a name into the zoo: `network(num_classes=, in_channels=, **arguments)` builds it.

    A network with a small-image form also takes `stem`. `pretrained_arguments` are those that torchvision's weights
    need.
    """
    if info.name in _MODELS:
        raise ValueError(f"the model '{info.name}' is registered twice: {_MODELS[info.name].network} and {network}")
    _MODELS[info.name] = Entry(info, network, arguments, pretrained_arguments or {})


def list_models(pattern: str | None = None, *, family: str | None = None, pretrained: bool | None = None) -> list[str]:
    """The names of the zoo, sorted by family as registered.

    pattern: of shell type, "vgg*_bn". family: "vgg". pretrained: True for those with torchvision weights, False for
    those without. An unknown family raises `UserError`; a pattern that matches nothing gives an empty list.
    """
    families = {entry.info.family: None for entry in _MODELS.values()}
    if family is not None and family not in families:
        raise unknown("family", family, families)
    return [
        name
        for name, entry in _MODELS.items()
        if (pattern is None or fnmatch.fnmatchcase(name, pattern))
        and (family is None or entry.info.family == family)
        and (pretrained is None or bool(entry.info.weights) == pretrained)
    ]


def info(name: str) -> Info:
    """The facts of the network `name`; raises `UserError` with the nearest names where there is none."""
    return get_entry(name).info


def check_stem(stem: str) -> str:
    """`stem`, if there is such a one."""
    if stem not in STEMS:
        raise unknown("stem", str(stem), STEMS)
    return stem


def get_entry(name: str) -> Entry:
    if name not in _MODELS:
        raise unknown("model", str(name), _MODELS)
    return _MODELS[name]
