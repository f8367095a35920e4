"""Network in Network: shapes, dropout, and the global average of the logits."""

import pytest
import torch
from torch import nn

from cnnzoo.models import create_model
from tests.helpers.zoo import build_on_meta, node_shapes


def test_cifar_shapes() -> None:
    nodes = [f"features.{node}" for node in ("0.0", "0.2", "0.4", "1", "3.0", "3.4", "4", "6.0", "6.2")]
    expected = [192, 160, 96, 96, 192, 192, 192, 192, 192]
    sides = [32, 32, 32, 16, 16, 16, 8, 8, 8]
    assert node_shapes("nin_cifar", [*nodes, "classifier.0", "classifier"]) == [
        *((maps, side, side) for maps, side in zip(expected, sides, strict=True)),
        (10, 8, 8),
        (10,),
    ]


def test_imagenet_shapes() -> None:
    nodes = [f"features.{node}" for node in ("0.0", "0.4", "1", "2.4", "3", "4.4", "5", "7.0", "7.2")]
    expected = [96, 96, 96, 256, 256, 384, 384, 1024, 1024]
    sides = [54, 54, 27, 27, 13, 13, 6, 6, 6]
    assert node_shapes("nin_imagenet", [*nodes, "classifier.0", "classifier"]) == [
        *((maps, side, side) for maps, side in zip(expected, sides, strict=True)),
        (1000, 6, 6),
        (1000,),
    ]


@pytest.mark.parametrize(
    ("name", "classes", "parameters"), [("nin_cifar", 100, 984_356), ("nin_imagenet", 10, 6_580_426)]
)
def test_parameters_for_other_classes(name: str, classes: int, parameters: int) -> None:
    assert sum(p.numel() for p in build_on_meta(name, num_classes=classes).parameters()) == parameters


@pytest.mark.parametrize(("name", "has_dropout"), [("nin_cifar", [True, True]), ("nin_imagenet", [False, False, True])])
def test_dropout_follows_pools(name: str, has_dropout: list[bool]) -> None:
    kinds = [type(module) for module in build_on_meta(name).features]
    pools = [i for i, kind in enumerate(kinds) if kind is nn.MaxPool2d]
    assert [kinds[i + 1] is nn.Dropout for i in pools] == has_dropout
    assert kinds.count(nn.Dropout) == sum(has_dropout)
    rates = [module.p for module in build_on_meta(name).modules() if isinstance(module, nn.Dropout)]
    assert rates == [0.5] * sum(has_dropout)


def test_convolutions_have_a_bias_and_a_relu() -> None:
    for name, count in (("nin_cifar", 9), ("nin_imagenet", 12)):
        layers = [module for module in build_on_meta(name).modules() if isinstance(module, nn.Conv2d | nn.ReLU)]
        assert [type(layer) for layer in layers] == [nn.Conv2d, nn.ReLU] * count
        assert all(layer.bias is not None for layer in layers[::2])


def test_logits_are_means_after_relu() -> None:
    torch.manual_seed(0)
    net = create_model("nin_cifar").eval()
    nn.init.normal_(net.classifier[0].weight)
    with torch.inference_mode():
        features = net.forward_features(torch.randn(3, 3, 8, 8))
        maps = torch.einsum("nchw,kc->nkhw", features, net.classifier[0].weight[:, :, 0, 0])
        maps = maps + net.classifier[0].bias[:, None, None]
        assert (maps < 0).any()
        logits = net.classifier(features)
    torch.testing.assert_close(logits, maps.clamp(min=0).mean((2, 3)), rtol=1e-4, atol=1e-4)


def test_dropout_argument() -> None:
    for name in ("nin_cifar", "nin_imagenet"):
        net = build_on_meta(name, dropout=0.2)
        assert {module.p for module in net.modules() if isinstance(module, nn.Dropout)} == {0.2}
