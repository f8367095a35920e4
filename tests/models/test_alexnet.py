"""AlexNet: the sizes and counts of the paper's layers, its groups, and where it normalizes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnzoo.models import create_model
from tests.helpers.zoo import on_meta, shapes


def test_shapes_of_the_paper() -> None:
    nodes = [f"features.{i}" for i in (0, 3, 4, 7, 8, 10, 12, 14)] + ["avgpool", "classifier.0", "classifier.3"]
    expected = [(96, 55, 55), (96, 27, 27), (256, 27, 27), (256, 13, 13), (384, 13, 13), (384, 13, 13), (256, 13, 13)]
    assert shapes("alexnet_paper", nodes) == [*expected, (256, 6, 6), (256, 6, 6), (4096,), (4096,)]


@pytest.mark.parametrize("side", [227, 258])
def test_adaptive_pool_of_the_paper_does_nothing_at_its_sizes(side: int) -> None:
    assert shapes("alexnet_paper", ["features.14"], side=side) == [(256, 6, 6)]


def test_shapes_of_one_weird_trick() -> None:
    nodes = [f"features.{i}" for i in (0, 2, 3, 5, 6, 8, 10, 12)]
    expected = [(64, 55, 55), (64, 27, 27), (192, 27, 27), (192, 13, 13), (384, 13, 13), (256, 13, 13), (256, 13, 13)]
    assert shapes("alexnet", nodes) == [*expected, (256, 6, 6)]


def test_parameters_of_the_layers() -> None:
    layers = [module for module in on_meta("alexnet_paper").modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    counts = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    assert counts == [34_944, 307_456, 885_120, 663_936, 442_624, 37_752_832, 16_781_312, 4_097_000]
    assert [layer.groups for layer in layers[:5]] == [1, 2, 1, 2, 2]


def test_parameters_for_10_classes() -> None:
    assert sum(p.numel() for p in on_meta("alexnet_paper", num_classes=10).parameters()) == 56_909_194


def test_columns_meet_in_conv3_alone() -> None:
    features = on_meta("alexnet_paper").features.to_empty(device="cpu")
    torch.manual_seed(0)
    for i, channels, own in ((4, 96, True), (8, 256, False), (10, 384, True), (12, 384, True)):
        conv, x = features[i], torch.randn(1, channels, 3, 3)
        nn.init.normal_(conv.weight), nn.init.zeros_(conv.bias)
        changed = x.clone()
        changed[:, channels // 2 :] += 1.0
        upper = conv.out_channels // 2
        assert torch.equal(conv(x)[:, :upper], conv(changed)[:, :upper]) == own
        assert not torch.equal(conv(x)[:, upper:], conv(changed)[:, upper:])


@pytest.mark.parametrize("start", [0, 4])
def test_response_is_normalized_before_it_is_pooled(start: int) -> None:
    torch.manual_seed(0)
    conv, _, norm, pool = layers = create_model("alexnet_paper", stem="small").features[start : start + 4]
    assert isinstance(norm, nn.LocalResponseNorm)
    x = 300 * torch.randn(1, conv.in_channels, 16, 16)
    with torch.inference_mode():
        a = F.relu(conv(x))
        near = F.pad(a.square(), (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(-1)  # over maps i - 2 to i + 2
        b = a / (2 + 1e-4 / 5 * near) ** 0.75
        torch.testing.assert_close(layers(x), F.max_pool2d(b, 2), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(layers(x), norm(pool(a)), rtol=1e-2)


def test_pools_overlap() -> None:
    pools = [module for module in on_meta("alexnet_paper").features if isinstance(module, nn.MaxPool2d)]
    assert [(pool.kernel_size, pool.stride) for pool in pools] == [(3, 2)] * 3


def test_dropout_follows_the_hidden_layers() -> None:
    kinds = [type(module) for module in on_meta("alexnet_paper").classifier]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout] * 2 + [nn.Linear]
    assert [module.p for module in on_meta("alexnet_paper").classifier if isinstance(module, nn.Dropout)] == [0.5, 0.5]
