"""Pre-activation ResNet: shapes, positions of the activations and shortcuts."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

from cnnzoo.models import create_model
from cnnzoo.models.layers import ZeroPadding
from tests.helpers.zoo import build_on_meta

BASIC = {"conv1": (16, 32), "layer1": (16, 32), "layer2": (32, 16), "layer3": (64, 8), "relu": (64, 8)}
BOTTLENECK = {"conv1": (16, 32), "layer1": (64, 32), "layer2": (128, 16), "layer3": (256, 8), "relu": (256, 8)}
STRIDES = {"layer2.0.bn1": (64, 32), "layer2.0.conv1": (32, 16), "layer2.0.conv2": (32, 16)}


@pytest.mark.parametrize(
    ("name", "shapes"),
    [("preresnet110", BASIC), ("preresnet164", {**BOTTLENECK, **STRIDES})],
)
def test_shapes(name: str, shapes: dict[str, tuple[int, int]]) -> None:
    net = build_on_meta(name).eval()
    out = create_feature_extractor(net, list(shapes))(torch.empty(1, 3, 32, 32, device="meta"))
    assert {key: tuple(out[key].shape) for key in shapes} == {key: (1, c, s, s) for key, (c, s) in shapes.items()}


@pytest.mark.parametrize(("layers", "projections"), [(110, 0), (164, 3), pytest.param(1001, 3, marks=pytest.mark.zoo)])
def test_number_of_layers_and_projections(layers: int, projections: int) -> None:
    net = build_on_meta(f"preresnet{layers}")
    weighted = {key: module for key, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    without_bias = [key for key, module in weighted.items() if key.endswith(".shortcut") and module.bias is None]
    assert without_bias == [f"layer{i + 1}.0.shortcut" for i in range(projections)]
    assert len(weighted) == layers + projections


def zero_residual(unit: nn.Module) -> nn.Module:
    """Set the residual of the unit to zero, and its first batch norm to something other than the identity."""
    last = unit.conv3 if hasattr(unit, "conv3") else unit.conv2
    nn.init.zeros_(last.weight)
    nn.init.uniform_(unit.bn1.weight, 0.5, 2)
    nn.init.normal_(unit.bn1.bias)
    return unit.eval()


@pytest.mark.parametrize("name", ["preresnet110", "preresnet164"])
def test_only_first_unit_activates_before_the_split(name: str) -> None:
    torch.manual_seed(0)
    net = create_model(name, depth=2)
    first, second = (zero_residual(unit) for unit in net.layer1)
    x = torch.randn(2, 16, 5, 5)
    activated = F.relu(first.bn1(x))
    if first.shortcut is not None:
        activated = F.conv2d(activated, first.shortcut.weight)
    torch.testing.assert_close(first(x), activated)
    x = torch.randn(2, second.out_channels, 5, 5)
    torch.testing.assert_close(second(x), x)


@pytest.mark.parametrize("stage", ["layer2", "layer3"])
def test_projection_of_the_activation_has_no_batch_norm(stage: str) -> None:
    torch.manual_seed(0)
    unit = zero_residual(getattr(create_model("preresnet164", depth=1), stage)[0])
    x = torch.randn(2, unit.conv1.in_channels, 6, 6)
    assert type(unit.shortcut) is nn.Conv2d
    torch.testing.assert_close(unit(x), F.conv2d(F.relu(unit.bn1(x)), unit.shortcut.weight, stride=2))


@pytest.mark.parametrize("stage", ["layer2", "layer3"])
def test_padded_shortcut_of_the_activation(stage: str) -> None:
    torch.manual_seed(0)
    unit = zero_residual(getattr(create_model("preresnet110", depth=1), stage)[0])
    x = torch.randn(2, unit.conv1.in_channels, 6, 6)
    assert type(unit.shortcut) is ZeroPadding
    assert list(unit.shortcut.state_dict()) == []
    expected = F.relu(unit.bn1(x))[:, :, ::2, ::2]
    y = unit(x)
    torch.testing.assert_close(y[:, : expected.shape[1]], expected)
    assert not y[:, expected.shape[1] :].any()


def test_residual_activates_before_each_convolution() -> None:
    torch.manual_seed(0)
    unit = create_model("preresnet164", depth=2).layer1[1].eval()
    for norm in (unit.bn1, unit.bn2, unit.bn3):
        nn.init.normal_(norm.bias)
    x = torch.randn(2, 64, 5, 5)
    out = F.conv2d(F.relu(unit.bn1(x)), unit.conv1.weight)
    out = F.conv2d(F.relu(unit.bn2(out)), unit.conv2.weight, padding=1)
    out = F.conv2d(F.relu(unit.bn3(out)), unit.conv3.weight)
    torch.testing.assert_close(unit(x), x + out)


@pytest.mark.parametrize("name", ["preresnet110", "preresnet164"])
def test_batch_norm_and_relu_follow_the_last_unit(name: str) -> None:
    torch.manual_seed(0)
    net = create_model(name, depth=1).eval()
    nn.init.normal_(net.bn.bias)
    images = torch.randn(2, 3, 8, 8)
    last = net.layer3(net.layer2(net.layer1(net.conv1(images))))
    assert (last < 0).any()
    features = net.forward_features(images)
    torch.testing.assert_close(features, F.relu(net.bn(last)))
    torch.testing.assert_close(net(images), net.fc(features.mean((2, 3))))
