"""Helpers for the tests of the networks: model names as parameters, networks without weights, and tests/zoo.csv."""

import csv

import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from cnnzoo.models import create_model, info, list_models
from tests.helpers import ROOT

_CHOSEN = [
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
_OTHERS = [name for name in list_models() if info(name).family not in {info(chosen).family for chosen in _CHOSEN}]
ONE_PER_FAMILY = _CHOSEN + list({info(name).family: name for name in reversed(_OTHERS)}.values())
"""The networks that the tests of all families take: of a family without a chosen one, the first."""
SMALL_DEPTHS: dict[str, dict[str, object]] = {
    **{f"densenet{layers}": {"depths": (2, 3, 2, 2)} for layers in (121, 161, 169, 201, 264)},
    **{f"densenet_{kind}": {"depth": 22} for kind in ("100_12", "100_24", "bc_190_40", "bc_250_24")},
    **{f"resnet{layers}{suffix}": {"depths": (2, 2, 2, 2)} for layers in (101, 152) for suffix in ("", "_paper")},
    **{f"resnext101_{groups}": {"depths": (2, 2, 2, 2)} for groups in ("32x4d", "32x8d", "64x4d")},
    **{name: {"depth": 2} for name in ("resnet110", "resnet1202", "preresnet110", "preresnet164", "preresnet1001")},
    **{f"resnet{layers}_stochastic_depth": {"depth": 2} for layers in (110, 1202)},
    "resnet152_stochastic_depth": {"depths": (2, 2, 2, 2)},
    "resnext50_32x4d": {"depths": (2, 2, 2, 2)},
    "wide_resnet101_2": {"depths": (2, 2, 2, 2)},
}


def name_params(*, torchvision_only: bool = False) -> list:
    """Model names for `pytest.mark.parametrize`: one per family, and the others with `-m zoo`.

    torchvision_only: only networks that torchvision has too.
    """

    def is_selected(name: str) -> bool:
        return not (torchvision_only and info(name).torchvision is None)

    others = [name for name in list_models() if name not in ONE_PER_FAMILY and is_selected(name)]
    return [pytest.param(name, id=name) for name in ONE_PER_FAMILY if is_selected(name)] + [
        pytest.param(name, marks=pytest.mark.zoo, id=f"{name}-zoo") for name in others
    ]


def shallow_params() -> list:
    """Model names and arguments for `pytest.mark.parametrize`: one small network per family, the others with `-m zoo`.

    Tracing a network takes time in proportion to its number of layers, which are of the same kinds in a small one. So
    the deep ones are small with `-m zoo` as well, which has those of each family in full.
    """
    small = [
        pytest.param(name, SMALL_DEPTHS.get(name, {}), marks=param.marks, id=param.id)
        for param in name_params()
        for name in param.values
    ]
    in_full = [name for name in ONE_PER_FAMILY if name in SMALL_DEPTHS]
    return small + [pytest.param(name, {}, marks=pytest.mark.zoo, id=f"{name}-zoo") for name in in_full]


def build_on_meta(name: str, **arguments: object) -> nn.Module:
    """Build the network on the meta device: it has shapes, but no values."""
    with torch.device("meta"):
        return create_model(name, **{"in_channels": info(name).in_channels, **arguments})


def node_shapes(name: str, nodes: list[str], *, size: int | None = None, **arguments: object) -> list[tuple[int, ...]]:
    """The output shapes, (C, H, W) or (C,), of the layers `nodes` for one image of the native or the given size."""
    net, size = build_on_meta(name, **arguments).eval(), size or info(name).input_size
    outputs = create_feature_extractor(net, nodes)(torch.empty(1, info(name).in_channels, size, size, device="meta"))
    return [tuple(outputs[node].shape[1:]) for node in nodes]


def build_small(name: str, **arguments: object) -> tuple[nn.Module, int]:
    """Build the network with the small stem and 10 classes; returns it with its smallest image size."""
    torch.manual_seed(0)
    arguments = {"num_classes": 10, "stem": "small", **arguments}
    return create_model(name, **arguments), info(name).sizes("small")[0]


def set_batch_norm_statistics(net: nn.Module, images: torch.Tensor) -> None:
    """Set the running statistics to those of the images; else an untrained deep network gives equal logits to all."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    net.train()(images)


def read_zoo_csv() -> list[dict[str, str]]:
    """The rows of tests/zoo.csv."""
    with (ROOT / "tests" / "zoo.csv").open() as file:
        return list(csv.DictReader(file))
