"""SqueezeNet: the sizes of Table 1 and the bypasses of Figure 2."""

import pytest
import torch
from torch import nn

from cnnzoo.models import create_model
from cnnzoo.models.squeezenet import BypassedFire, Fire
from tests.helpers.zoo import build_on_meta, node_shapes

BYPASSES = ["", "_simple_bypass", "_complex_bypass"]


@pytest.mark.parametrize("bypass", BYPASSES)
@pytest.mark.parametrize(("side", "sides"), [(227, (111, 55, 27, 13)), (224, (109, 54, 27, 13))])
def test_squeezenet1_0_shapes(bypass: str, side: int, sides: tuple[int, ...]) -> None:
    conv1, fire2, fire5, fire9 = sides
    nodes = [f"features.{i}" for i in (0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)] + ["classifier.1"]
    maps = [96, 96, 128, 128, 256, 256, 256, 384, 384, 512, 512, 512, 1000]
    sizes = [conv1, fire2, fire2, fire2, fire2, fire5, fire5, fire5, fire5, fire5, fire9, fire9, fire9]
    expected = [(count, size, size) for count, size in zip(maps, sizes, strict=True)]
    assert node_shapes(f"squeezenet1_0{bypass}", nodes, size=side) == expected


@pytest.mark.parametrize("bypass", BYPASSES)
@pytest.mark.parametrize(("side", "sides"), [(224, (111, 55, 27, 13)), (227, (113, 56, 28, 14))])
def test_squeezenet1_1_shapes(bypass: str, side: int, sides: tuple[int, ...]) -> None:
    conv1, fire2, fire4, fire6 = sides
    nodes = [f"features.{i}" for i in (0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)] + ["classifier.1"]
    maps = [64, 64, 128, 128, 128, 256, 256, 256, 384, 384, 512, 512, 1000]
    sizes = [conv1, fire2, fire2, fire2, fire4, fire4, fire4, fire6, fire6, fire6, fire6, fire6, fire6]
    expected = [(count, size, size) for count, size in zip(maps, sizes, strict=True)]
    assert node_shapes(f"squeezenet1_1{bypass}", nodes, size=side) == expected


@pytest.mark.parametrize(("version", "parameters"), [("1_0", 1_081_802), ("1_1", 1_064_778)])
def test_complex_bypass_parameters_for_10_classes(version: str, parameters: int) -> None:
    net = build_on_meta(f"squeezenet{version}_complex_bypass", num_classes=10)
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize("version", ["1_0", "1_1"])
def test_bypass_of_each_fire(version: str) -> None:
    def kinds(bypass: str) -> list[type | None]:
        fires = [
            module for module in build_on_meta(f"squeezenet{version}{bypass}").modules() if isinstance(module, Fire)
        ]
        return [type(fire.bypass) if isinstance(fire, BypassedFire) else None for fire in fires]

    assert kinds("") == [None] * 8
    assert kinds("_simple_bypass") == [None, nn.Identity] * 4
    assert kinds("_complex_bypass") == [nn.Conv2d, nn.Identity] * 4


@pytest.mark.parametrize("bypass", BYPASSES[1:])
def test_bypass_equals_hand_computation(bypass: str) -> None:
    torch.manual_seed(0)
    net = create_model(f"squeezenet1_1{bypass}", num_classes=10).eval()
    plain = create_model("squeezenet1_1", num_classes=10).eval()
    missing, extra = plain.load_state_dict(net.state_dict(), strict=False)
    assert missing == []
    assert len(extra) == (8 if bypass == "_complex_bypass" else 0)
    with torch.inference_mode():
        x = images = torch.randn(2, 3, 33, 33)
        fires = 1
        for layer, bypassed in zip(plain.features, net.features, strict=True):
            layer_input, x = x, layer(x)
            fires += isinstance(layer, Fire)
            if isinstance(layer, Fire) and fires in (3, 5, 7, 9):
                x = x + layer_input
            elif isinstance(layer, Fire) and bypass == "_complex_bypass":
                conv = bypassed.bypass
                x = x + torch.einsum("nchw,kc->nkhw", layer_input, conv.weight[:, :, 0, 0]) + conv.bias[:, None, None]
        assert fires == 9
        torch.testing.assert_close(net.forward_features(images), x, rtol=1e-4, atol=1e-4)
