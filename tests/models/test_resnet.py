"""ResNet: the shapes of Table 1, the positions of the strides, and shortcuts without parameters."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import create_feature_extractor

from cnnzoo.models import create_model
from cnnzoo.models.layers import ZeroPadding
from cnnzoo.models.resnet import BasicBlock, Bottleneck, zero_padding
from tests.helpers.zoo import build_on_meta

BASIC = {"maxpool": (64, 56), "layer1": (64, 56), "layer2": (128, 28), "layer3": (256, 14), "layer4": (512, 7)}
WIDE = {"maxpool": (64, 56), "layer1": (256, 56), "layer2": (512, 28), "layer3": (1024, 14), "layer4": (2048, 7)}
CIFAR = {"layer1": (16, 32), "layer2": (32, 16), "layer3": (64, 8)}
V1_5 = {"layer2.0.bn1": (128, 56), "layer2.0.bn2": (128, 28), "layer2.0.downsample": (512, 28)}
V1 = {"layer2.0.bn1": (128, 28), "layer2.0.bn2": (128, 28), "layer2.0.downsample": (512, 28)}


@pytest.mark.parametrize(
    ("name", "side", "shapes"),
    [
        ("resnet18", 224, {"conv1": (64, 112), **BASIC}),
        ("resnet34_paper", 224, {"conv1": (64, 112), **BASIC}),
        ("resnet50", 224, {"conv1": (64, 112), **WIDE, **V1_5}),
        ("resnet50_paper", 224, {"conv1": (64, 112), **WIDE, **V1}),
        ("resnet101_paper", 224, {**WIDE, **V1}),
        ("resnet152_paper", 224, {**WIDE, **V1}),
        ("resnet20", 32, {"conv1": (16, 32), **CIFAR}),
        ("resnet56", 32, CIFAR),
    ],
)
def test_shapes(name: str, side: int, shapes: dict[str, tuple[int, int]]) -> None:
    net = build_on_meta(name).eval()
    out = create_feature_extractor(net, list(shapes))(torch.empty(1, 3, side, side, device="meta"))
    assert {key: tuple(out[key].shape) for key in shapes} == {key: (1, c, s, s) for key, (c, s) in shapes.items()}


@pytest.mark.parametrize("layers", [20, 32, 44, 56, 110, pytest.param(1202, marks=pytest.mark.zoo)])
def test_cifar_number_of_layers(layers: int) -> None:
    net = build_on_meta(f"resnet{layers}")
    weighted = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(weighted) == layers  # 6n + 2, and no projection
    assert {module.kernel_size for module in weighted if isinstance(module, nn.Conv2d)} == {(3, 3)}


@pytest.mark.parametrize("stride", [1, 2])
def test_option_a_subsamples_and_pads_with_zeros(stride: int) -> None:
    shortcut = ZeroPadding(3, 8, stride)
    assert list(shortcut.state_dict()) == []
    x = torch.randn(2, 3, 7, 6)
    y = shortcut(x)
    assert y.shape == (2, 8, 7 if stride == 1 else 4, 6 if stride == 1 else 3)
    for row in range(y.shape[2]):
        for column in range(y.shape[3]):
            assert torch.equal(y[:, :3, row, column], x[:, :, stride * row, stride * column])
    assert not y[:, 3:].any()


@pytest.mark.parametrize("name", ["resnet18_paper", "resnet34_paper", "resnet20", "resnet110"])
def test_option_a_is_used_where_the_shape_changes(name: str) -> None:
    net = build_on_meta(name)
    padded = [key for key, module in net.named_modules() if isinstance(module, ZeroPadding)]
    assert padded == [f"{stage}.0.downsample" for stage in net.stages[1:]]
    assert not any("downsample" in key for key in net.state_dict())


def test_block_with_zero_residual_equals_shortcut() -> None:
    x = torch.randn(2, 4, 6, 6)
    block = BasicBlock(4, 8, 2, shortcut=zero_padding)
    nn.init.zeros_(block.bn2.weight)
    torch.testing.assert_close(block(x), F.relu(F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 4))))
    block = BasicBlock(4, 4, 1)
    nn.init.zeros_(block.bn2.weight)
    torch.testing.assert_close(block(x), F.relu(x))


@pytest.mark.parametrize(("strided", "strides"), [(1, [2, 1, 1, 2]), (2, [1, 2, 1, 2])])
def test_bottleneck_strides(strided: int, strides: list[int]) -> None:
    block = Bottleneck(64, 128, 2, strided=strided)
    assert block.downsample is not None
    convolutions = [block.conv1, block.conv2, block.conv3, block.downsample[0]]
    assert [convolution.stride[0] for convolution in convolutions] == strides


@pytest.mark.parametrize(("paper", "other"), [("resnet18_paper", "resnet18"), ("resnet34_paper", "resnet34")])
def test_option_a_saves_the_macs_of_three_projections(paper: str, other: str) -> None:
    def count_macs(name: str) -> int:
        net = build_on_meta(name).eval()
        with FlopCounterMode(display=False) as counter, torch.device("meta"):
            net(torch.empty(1, 3, 224, 224))
        return counter.get_total_flops() // 2

    projections = 64 * 128 * 28**2 + 128 * 256 * 14**2 + 256 * 512 * 7**2
    assert count_macs(other) - count_macs(paper) == projections


def test_cifar_stem_has_no_effect() -> None:
    torch.manual_seed(0)
    native = create_model("resnet20").state_dict()
    torch.manual_seed(0)
    small = create_model("resnet20", stem="small").state_dict()
    assert all(torch.equal(native[key], small[key]) for key in native)
