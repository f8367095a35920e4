"""VGG: the shapes after the pools and the columns of Table 1."""

import pytest
from torch import nn

from cnnzoo.models import list_models
from tests.helpers.zoo import build_on_meta, node_shapes

# Number of convolutions in each block, for the columns of Table 1.
COLUMNS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


def kernel_sizes(name: str) -> list[list[int]]:
    """The kernel sizes of the convolutions of each block."""
    blocks: list[list[int]] = [[]]
    for module in build_on_meta(name).features:
        if isinstance(module, nn.Conv2d):
            blocks[-1].append(module.kernel_size[0])
        elif isinstance(module, nn.MaxPool2d):
            blocks.append([])
    assert blocks.pop() == []
    return blocks


@pytest.mark.parametrize("name", list_models(family="vgg"))
def test_shapes_after_the_pools(name: str) -> None:
    features = build_on_meta(name).features
    pools = [f"features.{i}" for i, module in enumerate(features) if isinstance(module, nn.MaxPool2d)]
    expected = [(64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7)]
    assert node_shapes(name, [*pools, "avgpool"]) == [*expected, (512, 7, 7)]


@pytest.mark.parametrize("name", list_models(family="vgg"))
def test_columns_of_table_1(name: str) -> None:
    if name == "vgg16_c":
        assert kernel_sizes(name) == [[3, 3], [3, 3], [3, 3, 1], [3, 3, 1], [3, 3, 1]]
    else:
        assert kernel_sizes(name) == [[3] * count for count in COLUMNS[name.removesuffix("_bn")]]
    layers = [module for module in build_on_meta(name).modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == int(name[3:5])  # the number of weight layers in the name


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("vgg11", 128_807_306), ("vgg13", 128_991_818), ("vgg16", 134_301_514), ("vgg19", 139_611_210)],
)
def test_parameters_for_10_classes(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in build_on_meta(name, num_classes=10).parameters()) == parameters
