"""ResNet, after "Deep Residual Learning for Image Recognition" (He et al., 2015, arXiv 1512.03385).

A block learns the difference between its output and its input, and a shortcut adds the input. Layers that do not help
can learn zero, so networks of more than a hundred layers can be trained.

Table 1 and Figure 5. `resnet18` to `resnet152` equal torchvision's networks of these names. They depart from the paper:
projection shortcuts wherever the shape changes (option B), also with 18 and 34 layers, and the stride of a bottleneck
in its 3 x 3 convolution ("v1.5"). `resnet18_paper` to `resnet152_paper` are the paper's networks: parameter-free
shortcuts (option A) with 18 and 34 layers, and the stride in the first 1 x 1 convolution of a bottleneck ("v1").

`resnet20` to `resnet1202` are the paper's networks for CIFAR-10 (section 4.2): stages of 16, 32 and 64 channels, option
A.

A block is built by `block(in_channels, width, stride)`. The kind of shortcut and the position of a bottleneck's stride
are further arguments, bound with functools.partial, so that a variant of the network is another block factory.

The small stem of the ImageNet networks is the common one for 32 x 32, a 3 x 3 convolution of stride 1 without a pool.
It does not give the paper's networks for CIFAR.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from cnnzoo.models.layers import ZeroPadding
from cnnzoo.models.network import Network
from cnnzoo.models.registry import Accuracy, Info, Paper, register

PAPER = Paper("Deep Residual Learning for Image Recognition", 2015, "1512.03385")


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, *, groups: int = 1) -> nn.Conv2d:
    """(N, in, H, W) -> (N, out, H/stride, W/stride)."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, groups=groups, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """(N, in, H, W) -> (N, out, H/stride, W/stride)."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """Option B: (N, in, H, W) -> (N, out, H/stride, W/stride) if the block changes the shape, else None (identity)."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


def zero_padding(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """Option A: as `projection`, but without parameters: the input, subsampled and padded with zeros."""
    if stride == 1 and in_channels == out_channels:
        return None
    return ZeroPadding(in_channels, out_channels, stride)


Shortcut = Callable[[int, int, int], nn.Module | None]


class BasicBlock(nn.Module):
    """(N, in, H, W) -> (N, width, H/stride, W/stride), Figure 5 left."""

    def __init__(self, in_channels: int, width: int, stride: int, *, shortcut: Shortcut = projection) -> None:
        super().__init__()
        self.out_channels = width
        downsample = shortcut(in_channels, width, stride)  # built first, as in torchvision: same seed, same weights
        self.conv1 = conv3x3(in_channels, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        """F(x) of equation 1: (N, in, H, W) -> (N, width, H/stride, W/stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.residual(x)
        out += x if self.downsample is None else self.downsample(x)  # in place: `out` is not used elsewhere
        return self.relu(out)


class Bottleneck(nn.Module):
    """(N, in, H, W) -> (N, 4 width, H/stride, W/stride), Figure 5 right.

    strided: which convolution has the stride, 1 or 2.
    cardinality, bottleneck_width: ResNeXt's terms; the 3 x 3 convolution has `cardinality` groups, each of
        `bottleneck_width` channels if `width` is 64.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        *,
        shortcut: Shortcut = projection,
        strided: int = 2,
        cardinality: int = 1,
        bottleneck_width: int = 64,
    ) -> None:
        super().__init__()
        self.out_channels = 4 * width
        inner = width * bottleneck_width // 64 * cardinality
        stride1, stride2 = (stride, 1) if strided == 1 else (1, stride)
        downsample = shortcut(in_channels, self.out_channels, stride)
        self.conv1 = conv1x1(in_channels, inner, stride1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride2, groups=cardinality)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, self.out_channels)
        self.bn3 = nn.BatchNorm2d(self.out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        """F(x) of equation 1: (N, in, H, W) -> (N, 4 width, H/stride, W/stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.residual(x)
        out += x if self.downsample is None else self.downsample(x)  # in place: `out` is not used elsewhere
        return self.relu(out)


class ResNet(Network):
    """(N, in_channels, H, W) -> (N, num_classes). `depths` and `widths`: number of blocks and width of each stage."""

    def __init__(
        self,
        block: Callable[[int, int, int], nn.Module],
        depths: Sequence[int],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "native",
        widths: Sequence[int] = (64, 128, 256, 512),
    ) -> None:
        super().__init__()
        channels = widths[0]
        if stem == "small":
            self.conv1 = conv3x3(in_channels, channels)
        else:
            self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if stem == "small" else nn.MaxPool2d(3, stride=2, padding=1)

        self.stages = [f"layer{i + 1}" for i in range(len(depths))]
        for stage, depth, width in zip(self.stages, depths, widths, strict=True):
            blocks: list[nn.Module] = []
            for i in range(depth):
                stride = 2 if i == 0 and stage != "layer1" else 1
                blocks.append(block(channels, width, stride))
                channels = int(blocks[-1].out_channels)  # type: ignore[arg-type]
            self.add_module(stage, nn.Sequential(*blocks))

        self.num_features = channels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) -> (N, num_features, H/32, W/32), the last feature map; small: H/8; CIFAR: H/4."""
        x = self.relu(self.bn1(self.conv1(x)))  # (N, 64, H/2, W/2)
        x = self.maxpool(x)  # (N, 64, H/4, W/4)
        for stage in self.stages:
            x = getattr(self, stage)(x)  # all stages but the first halve height and width
        return x

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(N, num_features, h, w) -> (N, num_classes)."""
        x = torch.flatten(self.avgpool(x), 1)
        return x if pre_logits else self.fc(x)


class CifarResNet(ResNet):
    """(N, in_channels, H, W) -> (N, num_classes), section 4.2: `depth` blocks in each of three stages."""

    def __init__(
        self,
        block: Callable[[int, int, int], nn.Module],
        depth: int,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        widths: Sequence[int] = (16, 32, 64),
    ) -> None:
        depths = [depth] * len(widths)
        super().__init__(block, depths, num_classes=num_classes, in_channels=in_channels, stem="small", widths=widths)


basic_a = partial(BasicBlock, shortcut=zero_padding)
bottleneck_v1 = partial(Bottleneck, strided=1)
V1, V1_V2 = ("IMAGENET1K_V1",), ("IMAGENET1K_V1", "IMAGENET1K_V2")
multiply_accumulates: int | None
top5: float | None

for name, block, depths, parameters, multiply_accumulates, top1, top5, weights in (
    ("resnet18", BasicBlock, (2, 2, 2, 2), 11_689_512, 1_814_073_344, 0.69758, 0.89078, V1),
    ("resnet34", BasicBlock, (3, 4, 6, 3), 21_797_672, 3_663_761_408, 0.73314, 0.91420, V1),
    ("resnet50", Bottleneck, (3, 4, 6, 3), 25_557_032, 4_089_184_256, 0.76130, 0.92862, V1_V2),
    ("resnet101", Bottleneck, (3, 4, 23, 3), 44_549_160, 7_801_405_440, 0.77374, 0.93546, V1_V2),
    ("resnet152", Bottleneck, (3, 8, 36, 3), 60_192_808, 11_513_626_624, 0.78312, 0.94046, V1_V2),
):
    register(
        Info(
            name=name,
            family="resnet",
            paper=PAPER,
            parameters=parameters,
            multiply_accumulates=multiply_accumulates,
            min_size=1,
            small_min_size=1,
            accuracy=Accuracy(
                top1,
                top5,
                f"torchvision ResNet{name[6:]}_Weights.IMAGENET1K_V1, ImageNet val, one crop of 224",
            ),
            torchvision=name,
            weights=weights,
        ),
        ResNet,
        block=block,
        depths=depths,
    )

for name, paper_form, depths, parameters, multiply_accumulates, top1, top5, source in (
    ("resnet18_paper", basic_a, (2, 2, 2, 2), 11_515_688, None, 0.7212, None, "Table 2, option A"),
    ("resnet34_paper", basic_a, (3, 4, 6, 3), 21_623_848, None, 0.7497, 0.9224, "Table 3, option A"),
    ("resnet50_paper", bottleneck_v1, (3, 4, 6, 3), 25_557_032, 3_857_973_248, 0.7715, 0.9329, "Table 3"),
    ("resnet101_paper", bottleneck_v1, (3, 4, 23, 3), 44_549_160, 7_570_194_432, 0.7825, 0.9395, "Table 3"),
    ("resnet152_paper", bottleneck_v1, (3, 8, 36, 3), 60_192_808, 11_282_415_616, 0.7857, 0.9429, "Table 3"),
):
    register(
        Info(
            name=name,
            family="resnet",
            paper=PAPER,
            parameters=parameters,
            multiply_accumulates=multiply_accumulates,
            min_size=1,
            small_min_size=1,
            accuracy=Accuracy(top1, top5, f"the paper's {source}, ImageNet val, 10 crops of 224"),
        ),
        ResNet,
        block=paper_form,
        depths=depths,
    )

for layers, parameters, multiply_accumulates, top1 in (
    (20, 269_722, 40_551_040, 0.9125),
    (32, 464_154, 68_862_592, 0.9249),
    (44, 658_586, 97_174_144, 0.9283),
    (56, 853_018, 125_485_696, 0.9303),
    (110, 1_727_962, 252_887_680, 0.9357),
    (1202, 19_421_274, 2_829_238_912, 0.9207),
):
    register(
        Info(
            name=f"resnet{layers}",
            family="resnet",
            paper=PAPER,
            parameters=parameters,
            multiply_accumulates=multiply_accumulates,
            num_classes=10,
            input_size=32,
            min_size=1,
            accuracy=Accuracy(
                top1, None, "the paper's Table 6, CIFAR-10 test" + (", the best of 5 runs" if layers == 110 else "")
            ),
        ),
        CifarResNet,
        block=basic_a,
        depth=(layers - 2) // 6,
    )
