"""DenseNet, after "Densely Connected Convolutional Networks" (Huang et al., 2016, arXiv 1608.06993).

Table 1: the ImageNet networks, all of type BC: bottleneck layers of four times the growth rate, and transitions that
halve the maps. 121, 161, 169 and 201 layers equal torchvision's; 161 is the authors' own with growth rate 48, and 264
has the growth rate 32 of the published table.

Departures, torchvision's: convolutions drawn from N(0, 2 / fan_in) where the authors' code has fan_out; dropout, off
unless asked for, follows a layer's last convolution only.

The small form is the field's for 32 x 32: one bare 3 x 3 convolution of stride 1 in front, as in the paper's CIFAR
networks.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from cnnzoo.models.registry import Accuracy, Info, Paper, register

PAPER = Paper("Densely Connected Convolutional Networks", 2016, "1608.06993")


class DenseLayer(nn.Module):
    """(N, in, H, W) -> (N, growth_rate, H, W), by way of bottleneck * growth_rate maps."""

    def __init__(self, in_channels: int, growth_rate: int, *, bottleneck: int, dropout: float) -> None:
        super().__init__()
        width = bottleneck * growth_rate
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, growth_rate, kernel_size=3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(self.relu1(self.norm1(x)))  # (N, bottleneck * growth_rate, H, W)
        return self.dropout(self.conv2(self.relu2(self.norm2(x))))


class DenseBlock(nn.Module):
    """(N, in, H, W) -> (N, in + depth * growth_rate, H, W): every layer sees all the maps before it."""

    def __init__(self, in_channels: int, depth: int, growth_rate: int, *, bottleneck: int, dropout: float) -> None:
        super().__init__()
        for i in range(depth):
            layer = DenseLayer(in_channels + i * growth_rate, growth_rate, bottleneck=bottleneck, dropout=dropout)
            self.add_module(f"denselayer{i + 1}", layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            x = torch.cat([x, layer(x)], 1)
        return x


class Transition(nn.Sequential):
    """(N, in, H, W) -> (N, out, H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.pool = nn.AvgPool2d(2)


class DenseNet(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes). `depths`: layers per dense block; `compression`: theta."""

    def __init__(
        self,
        growth_rate: int,
        depths: Sequence[int],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "native",
        bottleneck: int = 4,
        compression: float = 0.5,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels = 2 * growth_rate
        if stem == "small":
            first = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False)
            self.features = nn.Sequential(OrderedDict(conv0=first))
        else:
            self.features = nn.Sequential(
                OrderedDict(
                    conv0=nn.Conv2d(in_channels, channels, kernel_size=7, stride=2, padding=3, bias=False),
                    norm0=nn.BatchNorm2d(channels),
                    relu0=nn.ReLU(inplace=True),
                    pool0=nn.MaxPool2d(3, stride=2, padding=1),
                )
            )
        for i, depth in enumerate(depths):
            if i > 0:
                self.features.add_module(f"transition{i}", Transition(channels, int(compression * channels)))
                channels = int(compression * channels)
            block = DenseBlock(channels, depth, growth_rate, bottleneck=bottleneck, dropout=dropout)
            self.features.add_module(f"denseblock{i + 1}", block)
            channels += depth * growth_rate
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.num_features = channels
        self.classifier = nn.Linear(channels, num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) -> (N, num_features, H/32, W/32), the last feature map; small: H/8."""
        return F.relu(self.features(x), inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.adaptive_avg_pool2d(self.forward_features(x), 1)
        return self.classifier(torch.flatten(x, 1))

    def adapt_pretrained(self, state: dict[str, torch.Tensor], *, published: bool) -> dict[str, torch.Tensor]:
        """Rename the keys of torchvision's files, older than its code: denselayer1.norm.1 to denselayer1.norm1."""
        return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key): state[key] for key in state}


TORCHVISION = "torchvision DenseNet{}_Weights.IMAGENET1K_V1, ImageNet val, one crop of 224"

for layers, growth_rate, depths, parameters, multiply_accumulates, top1, top5, source in (
    (121, 32, (6, 12, 24, 16), 7_978_856, 2_834_161_664, 0.74434, 0.91972, TORCHVISION),
    (161, 48, (6, 12, 36, 24), 28_681_000, 7_727_907_072, 0.77138, 0.93560, TORCHVISION),
    (169, 32, (6, 12, 32, 32), 14_149_480, 3_359_843_328, 0.75600, 0.92806, TORCHVISION),
    (201, 32, (6, 12, 48, 32), 20_013_928, 4_291_365_888, 0.76896, 0.93370, TORCHVISION),
    (
        264,
        32,
        (6, 12, 64, 48),
        33_337_704,
        5_751_653_376,
        0.77850,
        0.93880,
        "the paper's Table 3, ImageNet val, one crop",
    ),
):
    twin = f"densenet{layers}" if source == TORCHVISION else None
    register(
        Info(
            name=f"densenet{layers}",
            family="densenet",
            paper=PAPER,
            parameters=parameters,
            multiply_accumulates=multiply_accumulates,
            min_size=29,
            small_min_size=8,
            accuracy=Accuracy(top1, top5, source.format(layers)),
            torchvision=twin,
            weights=("IMAGENET1K_V1",) if twin else (),
        ),
        DenseNet,
        growth_rate=growth_rate,
        depths=depths,
    )
