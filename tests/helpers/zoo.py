"""What the tests of the networks share: the names to test, and the list of counts that they are held to."""

import csv

import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from cnnzoo.models import create_model, info, list_models
from tests.helpers import ROOT

ONE_PER_FAMILY = [
    "lenet5",
    "alexnet",
    "zfnet_fig3",
    "nin_cifar",
    "vgg11_bn",
    "googlenet",
    "resnet18",
    "wrn_16_8",
    "resnext50_32x4d",
    "resnet110_stochastic_depth",
    "fractalnet20",
    "densenet121",
    "squeezenet1_1",
]


def names(*, twin: bool = False) -> list:
    """Parameters for pytest: one name per family, and with `-m zoo` every name; of them those with a twin."""

    def fits(name: str) -> bool:
        return not (twin and info(name).torchvision is None)

    every = [pytest.param(name, marks=pytest.mark.zoo, id=f"{name}-zoo") for name in list_models() if fits(name)]
    return [pytest.param(name, id=name) for name in ONE_PER_FAMILY if fits(name)] + every


def on_meta(name: str, **arguments: object) -> nn.Module:
    """The network without its numbers: shapes only, nothing computed."""
    with torch.device("meta"):
        return create_model(name, **{"in_channels": info(name).in_channels, **arguments})


def shapes(name: str, nodes: list[str], *, side: int | None = None, **arguments: object) -> list[tuple[int, ...]]:
    """What the layers `nodes` give for one image of the native size: (C, H, W), or (C,) of a vector."""
    net, side = on_meta(name, **arguments).eval(), side or info(name).input_size
    maps = create_feature_extractor(net, nodes)(torch.empty(1, info(name).in_channels, side, side, device="meta"))
    return [tuple(maps[node].shape[1:]) for node in nodes]


def smallest(name: str, **arguments: object) -> tuple[nn.Module, int]:
    """The smallest form of a network, for 10 classes, and the smallest image side that it takes."""
    torch.manual_seed(0)
    arguments = {"num_classes": 10, "stem": "small", **arguments}
    return create_model(name, **arguments), info(name).sizes("small")[0]


def rows() -> list[dict[str, str]]:
    """The rows of tests/zoo.csv."""
    with (ROOT / "tests" / "zoo.csv").open() as file:
        return list(csv.DictReader(file))
