"""Wide ResNet: shapes and widths of the paper, the shared pre-activation, and the position of dropout."""

import pytest
import torch
from torch import nn

from cnnzoo.errors import UserError
from cnnzoo.models import create_model
from cnnzoo.models.wide_resnet import WideBlock
from tests.helpers.zoo import build_on_meta, node_shapes


@pytest.mark.parametrize(("name", "k"), [("wrn_16_8", 8), ("wrn_28_10", 10), ("wrn_40_4", 4)])
def test_cifar_shapes(name: str, k: int) -> None:
    nodes = ["conv1", "layer1", "layer2", "layer3", "relu", "avgpool"]
    assert node_shapes(name, nodes) == [
        (16, 32, 32),
        (16 * k, 32, 32),
        (32 * k, 16, 16),
        (64 * k, 8, 8),
        (64 * k, 8, 8),
        (64 * k, 1, 1),
    ]


@pytest.mark.parametrize("name", ["wrn_16_8", "wrn_28_10", "wrn_40_4"])
def test_number_of_layers(name: str) -> None:
    """The paper counts the convolutions with the three projections, without the linear layer."""
    convs = {key: m for key, m in build_on_meta(name).named_modules() if isinstance(m, nn.Conv2d)}
    assert len(convs) == int(name.split("_")[1])
    assert [key for key in convs if "projection" in key] == [f"layer{i}.0.projection" for i in (1, 2, 3)]
    assert all(conv.bias is None for conv in convs.values())


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({"depth": 40, "widening_factor": 1}, 563_930),
        ({"depth": 40, "widening_factor": 2}, 2_243_546),
        ({"depth": 22, "widening_factor": 8}, 17_158_106),
        ({"depth": 28, "widening_factor": 12}, 52_517_850),
        ({"depth": 40, "widening_factor": 10, "num_classes": 100}, 55_899_444),
    ],
)
def test_cifar_overrides_parameters(arguments: dict, parameters: int) -> None:
    assert sum(p.numel() for p in build_on_meta("wrn_16_8", **arguments).parameters()) == parameters


@pytest.mark.parametrize("name", ["wide_resnet50_2", "wide_resnet101_2"])
def test_imagenet_shapes(name: str) -> None:
    """Twice ResNet's width inside a bottleneck, and ResNet's width at its output."""
    nodes = [f"layer{i}.{part}" for i in (1, 2, 3, 4) for part in ("1.conv1", "1.conv2", "1.conv3")]
    expected = []
    for i in range(4):
        inner, outer, side = 128 * 2**i, 256 * 2**i, 56 // 2**i
        expected += [(inner, side, side), (inner, side, side), (outer, side, side)]
    assert node_shapes(name, nodes) == expected


def test_projection_follows_the_first_activation() -> None:
    """Figure 1: if the channels change, the shortcut projects relu(bn(x)); otherwise it is x."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    projected, identity = (WideBlock(4, width, stride=stride, dropout=0.0).eval() for width, stride in ((8, 2), (4, 1)))
    for block in (projected, identity):
        nn.init.zeros_(block.conv2.weight)  # only the shortcut remains
        nn.init.constant_(block.bn1.bias, 0.3)
    torch.testing.assert_close(projected(x), projected.projection(torch.relu(projected.bn1(x))))
    torch.testing.assert_close(identity(x), x)
    assert isinstance(projected.projection, nn.Conv2d)  # no batch norm


def test_residual_is_preactivated() -> None:
    torch.manual_seed(0)
    block = WideBlock(4, 4, stride=1, dropout=0.0).eval()
    for norm in (block.bn1, block.bn2):
        nn.init.uniform_(norm.weight), nn.init.normal_(norm.bias)
    x = torch.randn(2, 4, 6, 6)
    expected = x + block.conv2(torch.relu(block.bn2(block.conv1(torch.relu(block.bn1(x))))))
    torch.testing.assert_close(block(x), expected)
    assert (block(x) < 0).any()  # no activation after the addition


def test_dropout_is_between_the_two_convolutions() -> None:
    """With dropout=1 the output of the first convolution is nonzero, and that of the second is zero."""
    torch.manual_seed(0)
    block = WideBlock(4, 8, stride=1, dropout=1.0).train()
    x = torch.randn(2, 4, 6, 6)
    outputs: dict[str, torch.Tensor] = {}
    for key in ("conv1", "dropout", "conv2"):
        getattr(block, key).register_forward_hook(lambda _, __, out, key=key: outputs.update({key: out}))
    out = block(x)
    assert outputs["conv1"].any()
    assert not outputs["dropout"].any()
    assert not outputs["conv2"].any()
    assert out.any()  # the shortcut is not dropped


def test_dropout_argument() -> None:
    rates = [m.p for m in build_on_meta("wrn_28_10", dropout=0.3).modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.3] * 12
    assert {m.p for m in build_on_meta("wrn_28_10").modules() if isinstance(m, nn.Dropout)} == {0.0}


def test_initialization() -> None:
    """N(0, 2 / fan_in): the fan-out of the first wide convolution is eight times as large."""
    torch.manual_seed(0)
    net = create_model("wrn_16_8")
    for conv, fan_in in (
        (net.layer1[0].conv1, 16 * 9),
        (net.layer2[0].projection, 128),
        (net.layer3[1].conv2, 512 * 9),
    ):
        assert conv.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)
    assert not net.fc.bias.any()


@pytest.mark.parametrize("depth", [4, 18, 27])
def test_cifar_invalid_depth_is_an_error(depth: int) -> None:
    with pytest.raises(UserError, match=f"depth={depth}: expected 6 n"):
        create_model("wrn_16_8", depth=depth)
