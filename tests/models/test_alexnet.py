"""AlexNet: shapes and parameter counts of the layers, groups, response normalization and dropout."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnzoo.models import create_model
from tests.helpers.zoo import build_on_meta, node_shapes


def test_paper_shapes() -> None:
    nodes = [f"features.{i}" for i in (0, 3, 4, 7, 8, 10, 12, 14)] + ["avgpool", "classifier.0", "classifier.3"]
    expected = [(96, 55, 55), (96, 27, 27), (256, 27, 27), (256, 13, 13), (384, 13, 13), (384, 13, 13), (256, 13, 13)]
    assert node_shapes("alexnet_paper", nodes) == [*expected, (256, 6, 6), (256, 6, 6), (4096,), (4096,)]


@pytest.mark.parametrize("side", [227, 258])
def test_paper_adaptive_pool_is_identity_at_native_size(side: int) -> None:
    assert node_shapes("alexnet_paper", ["features.14"], size=side) == [(256, 6, 6)]


def test_alexnet_shapes() -> None:
    nodes = [f"features.{i}" for i in (0, 2, 3, 5, 6, 8, 10, 12)]
    expected = [(64, 55, 55), (64, 27, 27), (192, 27, 27), (192, 13, 13), (384, 13, 13), (256, 13, 13), (256, 13, 13)]
    assert node_shapes("alexnet", nodes) == [*expected, (256, 6, 6)]


def test_paper_parameters_per_layer() -> None:
    layers = [
        module for module in build_on_meta("alexnet_paper").modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    counts = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    assert counts == [34_944, 307_456, 885_120, 663_936, 442_624, 37_752_832, 16_781_312, 4_097_000]
    assert [layer.groups for layer in layers[:5]] == [1, 2, 1, 2, 2]


def test_paper_parameters_for_10_classes() -> None:
    assert sum(p.numel() for p in build_on_meta("alexnet_paper", num_classes=10).parameters()) == 56_909_194


def test_paper_columns_are_connected_in_conv3_only() -> None:
    features = build_on_meta("alexnet_paper").features.to_empty(device="cpu")
    torch.manual_seed(0)
    for i, channels, separate in ((4, 96, True), (8, 256, False), (10, 384, True), (12, 384, True)):
        conv, x = features[i], torch.randn(1, channels, 3, 3)
        nn.init.normal_(conv.weight), nn.init.zeros_(conv.bias)
        changed = x.clone()
        changed[:, channels // 2 :] += 1.0
        upper = conv.out_channels // 2
        assert torch.equal(conv(x)[:, :upper], conv(changed)[:, :upper]) == separate
        assert not torch.equal(conv(x)[:, upper:], conv(changed)[:, upper:])


@pytest.mark.parametrize("start", [0, 4])
def test_paper_normalizes_before_pooling(start: int) -> None:
    torch.manual_seed(0)
    conv, _, norm, pool = layers = create_model("alexnet_paper", stem="small").features[start : start + 4]
    assert isinstance(norm, nn.LocalResponseNorm)
    x = 300 * torch.randn(1, conv.in_channels, 16, 16)
    with torch.inference_mode():
        a = F.relu(conv(x))
        neighbours = F.pad(a.square(), (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(-1)  # sum over channels i - 2 to i + 2
        b = a / (2 + 1e-4 / 5 * neighbours) ** 0.75
        torch.testing.assert_close(layers(x), F.max_pool2d(b, 2), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(layers(x), norm(pool(a)), rtol=1e-2)


def test_paper_pools_overlap() -> None:
    pools = [module for module in build_on_meta("alexnet_paper").features if isinstance(module, nn.MaxPool2d)]
    assert [(pool.kernel_size, pool.stride) for pool in pools] == [(3, 2)] * 3


def test_paper_dropout_follows_hidden_layers() -> None:
    kinds = [type(module) for module in build_on_meta("alexnet_paper").classifier]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout] * 2 + [nn.Linear]
    assert [module.p for module in build_on_meta("alexnet_paper").classifier if isinstance(module, nn.Dropout)] == [
        0.5,
        0.5,
    ]
