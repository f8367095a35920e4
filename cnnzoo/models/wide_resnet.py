"""Wide ResNet, after "Wide Residual Networks" (Zagoruyko and Komodakis, 2016, arXiv 1605.07146).

Residual networks that are wide instead of very deep. More channels per layer keep a GPU busier than more layers. In the
paper, 16 wide layers are more accurate than a thousand thin ones, and train faster.

Table 1, for CIFAR: `wrn_16_8` has 16 layers and a widening factor of 8. Layers are counted as in the paper, 6 n + 4:
the first convolution, one projection in each of three stages, and n blocks of two convolutions in each stage. Blocks
are pre-activated (BN-ReLU-convolution), and convolutions are initialized from N(0, 2 / fan_in), as in the authors'
code. `dropout` is off by default; the paper uses 0.3.

For ImageNet, `wide_resnet50_2` and `wide_resnet101_2` are ResNets whose bottlenecks have twice as many channels in the
3 x 3 convolution and the same number of output channels. They equal torchvision's and have ResNet's small stem.
"""

from functools import partial

import torch
from torch import nn

from cnnzoo.errors import UserError
from cnnzoo.models.network import Network
from cnnzoo.models.registry import Accuracy, Info, Paper, register
from cnnzoo.models.resnet import V1_V2, Bottleneck, ResNet, conv1x1, conv3x3

PAPER = Paper("Wide Residual Networks", 2016, "1605.07146")


class WideBlock(nn.Module):
    """(N, in, H, W) -> (N, width, H/stride, W/stride), Figure 1(d): dropout between the two convolutions.

    If the number of channels changes, the shortcut is a 1 x 1 convolution after the first BN-ReLU, without batch norm.
    """

    def __init__(self, in_channels: int, width: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = conv3x3(in_channels, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3x3(width, width)
        self.projection = None if in_channels == width else conv1x1(in_channels, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = self.relu(self.bn1(x))
        out = self.relu(self.bn2(self.conv1(activated)))
        out = self.conv2(self.dropout(out))
        return out + (x if self.projection is None else self.projection(activated))


def stage(blocks: int, in_channels: int, width: int, *, stride: int, dropout: float) -> nn.Sequential:
    """(N, in, H, W) -> (N, width, H/stride, W/stride)."""
    first = WideBlock(in_channels, width, stride=stride, dropout=dropout)
    return nn.Sequential(first, *(WideBlock(width, width, stride=1, dropout=dropout) for _ in range(blocks - 1)))


class WideResNet(Network):
    """(N, in_channels, H, W) -> (N, num_classes), Table 1: three stages of (depth - 4) / 6 blocks."""

    def __init__(
        self,
        depth: int,
        widening_factor: int,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise UserError(f"depth={depth}: expected 6 n + 4 layers, such as 10, 16, 22, 28, 40")
        k, blocks = widening_factor, (depth - 4) // 6
        self.conv1 = conv3x3(in_channels, 16)
        self.layer1 = stage(blocks, 16, 16 * k, stride=1, dropout=dropout)
        self.layer2 = stage(blocks, 16 * k, 32 * k, stride=2, dropout=dropout)
        self.layer3 = stage(blocks, 32 * k, 64 * k, stride=2, dropout=dropout)
        self.bn = nn.BatchNorm2d(64 * k)
        self.relu = nn.ReLU(inplace=True)
        self.num_features = 64 * k
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * k, num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) -> (N, num_features, H/4, W/4), the last feature map."""
        x = self.conv1(x)  # (N, 16, H, W)
        x = self.layer1(x)  # (N, 16 k, H, W), k the widening factor
        x = self.layer2(x)  # (N, 32 k, H/2, W/2)
        x = self.layer3(x)  # (N, 64 k, H/4, W/4)
        return self.relu(self.bn(x))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(N, num_features, h, w) -> (N, num_classes)."""
        x = torch.flatten(self.avgpool(x), 1)
        return x if pre_logits else self.fc(x)


for depth, depths, parameters, multiply_accumulates, top1, top5 in (
    (50, (3, 4, 6, 3), 68_883_240, 11_398_021_120, 0.78468, 0.94086),
    (101, (3, 4, 23, 3), 126_886_696, 22_753_050_624, 0.78848, 0.94284),
):
    register(
        Info(
            name=f"wide_resnet{depth}_2",
            family="wide_resnet",
            paper=PAPER,
            parameters=parameters,
            multiply_accumulates=multiply_accumulates,
            min_size=1,
            small_min_size=1,
            accuracy=Accuracy(
                top1,
                top5,
                f"torchvision Wide_ResNet{depth}_2_Weights.IMAGENET1K_V1, ImageNet val, one crop of 224",
            ),
            torchvision=f"wide_resnet{depth}_2",
            weights=V1_V2,
        ),
        ResNet,
        block=partial(Bottleneck, bottleneck_width=2 * 64),
        depths=depths,
    )

for depth, widening_factor, parameters, multiply_accumulates, top1 in (
    (16, 8, 10_961_370, 1_548_145_664, 0.9573),
    (28, 10, 36_479_194, 5_243_328_768, 0.9600),
    (40, 4, 8_949_210, 1_298_582_016, 0.9547),
):
    register(
        Info(
            name=f"wrn_{depth}_{widening_factor}",
            family="wide_resnet",
            paper=PAPER,
            parameters=parameters,
            multiply_accumulates=multiply_accumulates,
            num_classes=10,
            input_size=32,
            min_size=1,
            accuracy=Accuracy(top1, None, "the paper, Table 5, CIFAR-10 test, shifted and flipped, without dropout"),
        ),
        WideResNet,
        depth=depth,
        widening_factor=widening_factor,
    )
