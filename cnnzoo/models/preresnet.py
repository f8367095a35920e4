"""Pre-activation ResNet, after "Identity Mappings in Deep Residual Networks" (He et al., 2016, arXiv 1603.05027).

Figure 4(e): batch norm and ReLU precede each convolution, and nothing follows the addition, so that the identity path
from unit to unit stays unchanged. The appendix has two special cases: in the first unit the activation precedes the
split into residual and shortcut, and the last unit is followed by one more batch norm and ReLU. In units that change
the shape the activation precedes the split too; their projections are convolutions without batch norm. The stride of a
bottleneck is in its first 1 x 1 convolution.

These are the networks for CIFAR: 110 layers of basic units with the parameter-free shortcuts of the first paper
(option A), and 164 and 1001 layers of bottlenecks with projections. The positions of the strides and of the shared
activations are taken from the authors' later code, because the paper does not state them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from cnnzoo.models.layers import ZeroPadding
from cnnzoo.models.network import Network
from cnnzoo.models.registry import Accuracy, Info, Paper, register

PAPER = Paper("Identity Mappings in Deep Residual Networks", 2016, "1603.05027")


class BasicUnit(nn.Module):
    """(N, in, H, W) -> (N, width, H/stride, W/stride). `first`: whether it is the first unit of the network."""

    def __init__(self, in_channels: int, width: int, stride: int, *, first: bool = False) -> None:
        super().__init__()
        self.out_channels = width
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        same_shape = stride == 1 and in_channels == width
        self.shortcut = None if same_shape else ZeroPadding(in_channels, width, stride)
        self.activates_first = first or not same_shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = self.relu(self.bn1(x))
        out = self.conv1(activated)
        out = self.conv2(self.relu(self.bn2(out)))
        identity = activated if self.activates_first else x
        return out + (identity if self.shortcut is None else self.shortcut(identity))


class BottleneckUnit(nn.Module):
    """(N, in, H, W) -> (N, 4 width, H/stride, W/stride). `first`: whether it is the first unit of the network."""

    def __init__(self, in_channels: int, width: int, stride: int, *, first: bool = False) -> None:
        super().__init__()
        self.out_channels = 4 * width
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, stride=stride, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, self.out_channels, kernel_size=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        same_shape = stride == 1 and in_channels == self.out_channels
        self.shortcut = None if same_shape else nn.Conv2d(in_channels, self.out_channels, 1, stride, bias=False)
        self.activates_first = first or not same_shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = self.relu(self.bn1(x))
        out = self.conv1(activated)
        out = self.conv2(self.relu(self.bn2(out)))
        out = self.conv3(self.relu(self.bn3(out)))
        identity = activated if self.activates_first else x
        return out + (identity if self.shortcut is None else self.shortcut(identity))


class PreResNet(Network):
    """(N, in_channels, H, W) -> (N, num_classes): `depth` units in each of three stages."""

    def __init__(
        self,
        unit: Callable[..., nn.Module],
        depth: int,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        widths: Sequence[int] = (16, 32, 64),
    ) -> None:
        super().__init__()
        channels = widths[0]
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False)
        self.stages = [f"layer{i + 1}" for i in range(len(widths))]
        for stage, width in zip(self.stages, widths, strict=True):
            units: list[nn.Module] = []
            for i in range(depth):
                stride = 2 if i == 0 and stage != "layer1" else 1
                units.append(unit(channels, width, stride, first=i == 0 and stage == "layer1"))
                channels = int(units[-1].out_channels)  # type: ignore[arg-type]
            self.add_module(stage, nn.Sequential(*units))
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

        self.num_features = channels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) -> (N, num_features, H/4, W/4), the last feature map."""
        x = self.conv1(x)  # (N, 16, H, W)
        for stage in self.stages:
            x = getattr(self, stage)(x)  # all stages but the first halve height and width
        return self.relu(self.bn(x))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(N, num_features, h, w) -> (N, num_classes)."""
        x = torch.flatten(self.avgpool(x), 1)
        return x if pre_logits else self.fc(x)


for layers, unit, depth, parameters, multiply_accumulates, top1 in (
    (110, BasicUnit, 18, 1_727_962, 252_887_680, 0.9363),
    (164, BottleneckUnit, 18, 1_703_258, 244_500_992, 0.9454),
    (1001, BottleneckUnit, 111, 10_327_706, 1_487_849_984, 0.9508),
):
    register(
        Info(
            name=f"preresnet{layers}",
            family="resnet",
            paper=PAPER,
            parameters=parameters,
            multiply_accumulates=multiply_accumulates,
            num_classes=10,
            input_size=32,
            min_size=1,
            accuracy=Accuracy(top1, None, "the paper's Table 3, CIFAR-10 test, median of 5 runs, mini-batches of 128"),
        ),
        PreResNet,
        unit=unit,
        depth=depth,
    )
