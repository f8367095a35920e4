"""ZFNet: the sizes of Figure 3, the widths of Table 2, and response normalization after pooling."""

import pytest
from torch import nn

from tests.helpers.zoo import build_on_meta, node_shapes


@pytest.mark.parametrize(("name", "widths"), [("zfnet_fig3", (384, 384, 256)), ("zfnet", (512, 1024, 512))])
def test_shapes(name: str, widths: tuple[int, int, int]) -> None:
    nodes = [f"features.{i}" for i in (0, 2, 4, 6, 8, 10, 12, 14)] + ["avgpool", "classifier.0", "classifier.3"]
    sizes = [110, 55, 26, 13, 13, 13, 13, 6, 6]
    maps = [96, 96, 256, 256, *widths, widths[2], widths[2]]
    expected = [(count, size, size) for count, size in zip(maps, sizes, strict=True)]
    assert node_shapes(name, nodes) == [*expected, (4096,), (4096,)]


@pytest.mark.parametrize(("name", "parameters"), [("zfnet_fig3", 58_301_578), ("zfnet", 103_571_594)])
def test_parameters_for_10_classes(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in build_on_meta(name, num_classes=10).parameters()) == parameters


def test_response_norm_follows_pooling() -> None:
    features = build_on_meta("zfnet_fig3").features
    assert all(module.groups == 1 for module in features if isinstance(module, nn.Conv2d))
    norms = [i for i, module in enumerate(features) if isinstance(module, nn.LocalResponseNorm)]
    assert len(norms) == 2
    assert all(isinstance(features[i - 1], nn.MaxPool2d) for i in norms)
