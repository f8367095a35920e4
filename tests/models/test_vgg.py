"""VGG: the sizes after the pools and the columns of Table 1."""

import pytest
from torch import nn

from cnnzoo.models import list_models
from tests.helpers.zoo import on_meta, shapes

# column of Table 1, convolutions in each of its blocks
COLUMNS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


def blocks(name: str) -> list[list[int]]:
    """The kernel sizes of the convolutions, block by block."""
    found: list[list[int]] = [[]]
    for module in on_meta(name).features:
        if isinstance(module, nn.Conv2d):
            found[-1].append(module.kernel_size[0])
        elif isinstance(module, nn.MaxPool2d):
            found.append([])
    assert found.pop() == []
    return found


@pytest.mark.parametrize("name", list_models(family="vgg"))
def test_shapes_after_the_pools(name: str) -> None:
    features = on_meta(name).features
    pools = [f"features.{i}" for i, module in enumerate(features) if isinstance(module, nn.MaxPool2d)]
    expected = [(64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7)]
    assert shapes(name, [*pools, "avgpool"]) == [*expected, (512, 7, 7)]


@pytest.mark.parametrize("name", list_models(family="vgg"))
def test_columns(name: str) -> None:
    if name == "vgg16_c":
        assert blocks(name) == [[3, 3], [3, 3], [3, 3, 1], [3, 3, 1], [3, 3, 1]]
    else:
        assert blocks(name) == [[3] * count for count in COLUMNS[name.removesuffix("_bn")]]
    layers = [module for module in on_meta(name).modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == int(name[3:5])  # layers with weights, after which the networks are named


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("vgg11", 128_807_306), ("vgg13", 128_991_818), ("vgg16", 134_301_514), ("vgg19", 139_611_210)],
)
def test_parameters_for_10_classes(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in on_meta(name, num_classes=10).parameters()) == parameters
