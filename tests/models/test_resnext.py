"""ResNeXt: grouped convolutions, and the shapes of Table 1 and section 5.3."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnzoo.errors import UserError
from cnnzoo.models import create_model, list_models
from cnnzoo.models.resnet import Bottleneck
from tests.helpers.zoo import build_on_meta, node_shapes


@pytest.mark.parametrize(
    ("name", "cardinality", "inner"),
    [
        ("resnext50_32x4d", 32, (128, 256, 512, 1024)),
        ("resnext101_32x4d", 32, (128, 256, 512, 1024)),
        ("resnext101_32x8d", 32, (256, 512, 1024, 2048)),
        ("resnext101_64x4d", 64, (256, 512, 1024, 2048)),
        ("resnext29_8x64d", 8, (512, 1024, 2048)),
        ("resnext29_16x64d", 16, (1024, 2048, 4096)),
    ],
)
def test_only_3x3_convolutions_are_grouped(name: str, cardinality: int, inner: tuple[int, ...]) -> None:
    net = build_on_meta(name)
    for key, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            grouped = key.startswith("layer") and key.endswith("conv2")
            assert module.groups == (cardinality if grouped else 1), key
            assert not grouped or module.kernel_size == (3, 3), key
    for i, width in enumerate(inner):
        for block in getattr(net, f"layer{i + 1}"):
            assert [conv.out_channels for conv in (block.conv1, block.conv2)] == [width, width]
            assert block.conv3.out_channels == 256 * 2**i


def test_number_of_models() -> None:
    assert len(list_models(family="resnext")) == 6


def test_resnext50_shapes() -> None:
    nodes = ["conv1", "maxpool"]
    nodes += [f"layer{i}.0.{part}" for i in (1, 2, 3, 4) for part in ("bn1", "bn2")]
    nodes += ["layer1", "layer2", "layer3", "layer4", "avgpool"]
    assert node_shapes("resnext50_32x4d", nodes) == [
        (64, 112, 112),
        (64, 56, 56),
        *[(128, 56, 56), (128, 56, 56)],
        *[(256, 56, 56), (256, 28, 28)],  # the 3 x 3 convolution has the stride
        *[(512, 28, 28), (512, 14, 14)],
        *[(1024, 14, 14), (1024, 7, 7)],
        (256, 56, 56),
        (512, 28, 28),
        (1024, 14, 14),
        (2048, 7, 7),
        (2048, 1, 1),
    ]


@pytest.mark.parametrize("name", ["resnext29_8x64d", "resnext29_16x64d"])
def test_cifar_shapes(name: str) -> None:
    nodes = ["conv1", "layer1", "layer2", "layer3", "avgpool"]
    expected = [(64, 32, 32), (256, 32, 32), (512, 16, 16), (1024, 8, 8), (1024, 1, 1)]
    assert node_shapes(name, nodes) == expected
    main = [m for key, m in build_on_meta(name).named_modules() if isinstance(m, nn.Conv2d) and "downsample" not in key]
    assert len(main) + 1 == 29


def test_grouped_convolution_equals_parallel_paths() -> None:
    """Figure 3: the grouped form (c) equals the sum of the parallel paths (a) with the same weights."""
    torch.manual_seed(0)
    block = Bottleneck(8, 16, 1, cardinality=4, bottleneck_width=8, shortcut=lambda *_: nn.Identity()).eval()
    x = torch.randn(2, 8, 5, 5)
    width, paths = 2, []
    assert block.conv2.weight.shape == (4 * width, width, 3, 3)
    for group in (slice(i * width, (i + 1) * width) for i in range(4)):
        out = F.relu(F.conv2d(x, block.conv1.weight[group]) / (1 + 1e-5) ** 0.5)
        out = F.relu(F.conv2d(out, block.conv2.weight[group], padding=1) / (1 + 1e-5) ** 0.5)
        paths.append(F.conv2d(out, block.conv3.weight[:, group]) / (1 + 1e-5) ** 0.5)
    block.downsample = nn.Conv2d(8, 64, 1)
    torch.testing.assert_close(block(x), F.relu(sum(paths) + block.downsample(x)))


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({"cardinality": 32, "bottleneck_width": 4}, 4_775_754),  # commonly called 29 32x4d
        ({"cardinality": 8, "bottleneck_width": 64, "num_classes": 100}, 34_518_948),
    ],
)
def test_cifar_overrides_parameters(arguments: dict, parameters: int) -> None:
    assert sum(p.numel() for p in build_on_meta("resnext29_8x64d", **arguments).parameters()) == parameters


@pytest.mark.parametrize("depth", [2, 10, 30])
def test_cifar_invalid_depth_is_an_error(depth: int) -> None:
    with pytest.raises(UserError, match=f"depth={depth}: expected 9 n"):
        create_model("resnext29_8x64d", depth=depth)
