"""Network in Network, after Lin, Chen and Yan (2013, arXiv 1312.4400).

Figure 2: each convolution is followed by two 1 x 1 convolutions, which form a small perceptron at every pixel (mlpconv,
section 3.1). Fully connected layers are replaced by a global average of one feature map per class (section 3.2). The
paper does not state the widths; `nin_cifar` has those of the authors' configuration for CIFAR-10 (cuda-convnet),
`nin_imagenet` those of their Caffe model. As in these, pools round up, and a ReLU precedes the global average.

Departure: He initialization, and N(0, 0.01) with biases of one in the last convolution, instead of N(0, 0.05).

`nin_cifar` has no small variant. `nin_imagenet` has no common one; its small stem is ours, a 3 x 3 convolution of
stride 1 in place of the first convolution.
"""

from typing import NamedTuple

import torch
from torch import nn

from cnnzoo.models.layers import init_kaiming_normal
from cnnzoo.models.network import Network
from cnnzoo.models.registry import Accuracy, Info, Paper, register

PAPER = Paper("Network In Network", 2013, "1312.4400")


class Mlpconv(NamedTuple):
    """(N, in, H, W) -> (N, widths[-1], H/stride, W/stride): a convolution to widths[0] channels, then 1 x 1 ones."""

    widths: tuple[int, ...]
    kernel_size: int
    padding: int
    stride: int = 1

    def layers(self, in_channels: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for i, width in enumerate(self.widths):
            shape = (self.kernel_size, self.stride, self.padding) if i == 0 else (1,)
            layers += [nn.Conv2d(in_channels, width, *shape), nn.ReLU(inplace=True)]
            in_channels = width
        return nn.Sequential(*layers)


# The last 1 x 1 convolution of the last block has one map per class; it is part of the classifier.
CIFAR = (Mlpconv((192, 160, 96), 5, 2), Mlpconv((192, 192, 192), 5, 2), Mlpconv((192, 192), 3, 1))
IMAGENET = (
    Mlpconv((96, 96, 96), 11, 0, stride=4),
    Mlpconv((256, 256, 256), 5, 2),
    Mlpconv((384, 384, 384), 3, 1),
    Mlpconv((1024, 1024), 3, 1),
)


class NiN(Network):
    """(N, in_channels, H, W) -> (N, num_classes). Pools between the blocks; dropout after pool i if `dropped[i]`."""

    classifier_path = ("classifier", 0)

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        *,
        blocks: tuple[Mlpconv, ...] = CIFAR,
        dropped: tuple[bool, ...] = (True, True),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = in_channels
        for i, block in enumerate(blocks):
            if i > 0:
                layers.append(nn.MaxPool2d(3, stride=2, ceil_mode=True))
                if dropped[i - 1]:
                    layers.append(nn.Dropout(dropout))
            layers.append(block.layers(width))
            width = block.widths[-1]
        self.num_features = width
        self.features = nn.Sequential(*layers)
        last = nn.Conv2d(width, num_classes, kernel_size=1)
        self.classifier = nn.Sequential(last, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        init_kaiming_normal(self)
        nn.init.normal_(last.weight, std=0.01)
        # Biases of one: a class whose map is negative for all images would get no gradient through the ReLU.
        nn.init.ones_(self.get_parameter("classifier.0.bias"))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) -> (N, num_features, H/4, W/4), the last feature map.

        nin_imagenet: H/32, small H/8.
        """
        return self.features(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(N, num_features, h, w) -> (N, num_classes)."""
        return x.mean((2, 3)) if pre_logits else self.classifier(x)


class NiNImageNet(NiN):
    """(N, in_channels, H, W) -> (N, num_classes)."""

    def __init__(
        self, num_classes: int = 1000, in_channels: int = 3, *, stem: str = "native", dropout: float = 0.5
    ) -> None:
        first, *others = IMAGENET
        if stem == "small":
            first = Mlpconv(first.widths, 3, 1)
        super().__init__(
            num_classes, in_channels, blocks=(first, *others), dropped=(False, False, True), dropout=dropout
        )


register(
    Info(
        name="nin_cifar",
        family="nin",
        paper=PAPER,
        parameters=966_986,
        multiply_accumulates=222_486_528,
        num_classes=10,
        input_size=32,
        min_size=4,
        accuracy=Accuracy(0.9119, None, "the paper's Table 1, CIFAR-10 test, trained on shifted and flipped images"),
    ),
    NiN,
)
register(
    Info(
        name="nin_imagenet",
        family="nin",
        paper=PAPER,
        parameters=7_595_176,
        multiply_accumulates=1_100_188_800,
        min_size=39,
        small_min_size=8,
        accuracy=Accuracy(0.5936, None, "the authors' model in the Caffe zoo, ImageNet val of 2012"),
    ),
    NiNImageNet,
)
