"""ZFNet, after "Visualizing and Understanding Convolutional Networks" (Zeiler and Fergus, 2013, arXiv 1311.2901).

AlexNet, changed after looking at what its layers respond to. Pictures of the features, drawn by a deconvolutional
network, showed dead filters and aliasing in the first layers. A first convolution of 7 x 7 with a stride of 2, instead
of 11 x 11 with 4, repairs both.

`zfnet_fig3` is the network of Figure 3. `zfnet` is the wider network of Table 2 with 512, 1024 and 512 channels in
conv3-5, which is what later papers call ZFNet. The paper states neither padding nor rounding; a padding of 1 in conv1
and pools that round up give the sizes of the figure, 110-55-26-13-6. The constants of the normalization are not stated
either; they are AlexNet's.

Departures: an adaptive pool before the classifier, which allows images of any size from 47 pixels; He initialization
instead of N(0, 0.01); no rescaling of filters whose RMS exceeds 0.1.

There is no common variant for small images, so the small stem is ours: conv1 and conv2 keep their kernels and have a
stride of 1 with padding that keeps the size, the three pools stay, and a global average with one linear layer replaces
the three fully connected layers.
"""

import torch
from torch import nn

from cnnzoo.models.layers import apply_all_but_last, init_kaiming_normal, local_response_norm
from cnnzoo.models.network import Network
from cnnzoo.models.registry import Accuracy, Info, Paper, register

PAPER = Paper("Visualizing and Understanding Convolutional Networks", 2013, "1311.2901")


def pool() -> nn.MaxPool2d:
    """(N, C, H, W) -> (N, C, ceil((H - 3) / 2) + 1, ...): overlapping, rounded up to give the sizes of Figure 3."""
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


class ZFNet(Network):
    """(N, in_channels, H, W) -> (N, num_classes). `widths`: output channels of conv3, conv4 and conv5."""

    classifier_path = ("classifier", -1)

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        widths: tuple[int, int, int] = (512, 1024, 512),
        stem: str = "native",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        small = stem == "small"
        stride, padding1, padding2 = (1, 3, 2) if small else (2, 1, 0)
        conv3, conv4, conv5 = widths
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 96, kernel_size=7, stride=stride, padding=padding1),
            nn.ReLU(inplace=True),
            pool(),
            local_response_norm(),
            nn.Conv2d(96, 256, kernel_size=5, stride=stride, padding=padding2),
            nn.ReLU(inplace=True),
            pool(),
            local_response_norm(),
            nn.Conv2d(256, conv3, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(conv3, conv4, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(conv4, conv5, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            pool(),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1 if small else 6)
        if small:
            self.num_features = conv5
            self.classifier = nn.Sequential(nn.Linear(conv5, num_classes))
        else:
            self.num_features = 4096
            self.classifier = nn.Sequential(
                nn.Linear(conv5 * 6 * 6, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(4096, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(4096, num_classes),
            )
        init_kaiming_normal(self)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) -> (N, num_features), the input of the last linear layer."""
        x = self.features(x)  # (N, conv5, 6, 6) at 224; small: (N, conv5, 4, 4) at 32, (N, conv5, 2, 2) at 16
        x = torch.flatten(self.avgpool(x), 1)
        return apply_all_but_last(self.classifier, x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(N, num_features) -> (N, num_classes)."""
        return x if pre_logits else self.classifier[-1](x)


for name, widths, parameters, multiply_accumulates, top1, top5, row in (
    (
        "zfnet",
        (512, 1024, 512),
        107_627_624,
        2_476_704_896,
        0.625,
        0.840,
        "one convnet with layers 3, 4, 5: 512, 1024, 512",
    ),
    ("zfnet_fig3", (384, 384, 256), 62_357_608, 1_168_032_896, 0.616, 0.835, "one convnet as per Figure 3"),
):
    register(
        Info(
            name=name,
            family="zfnet",
            paper=PAPER,
            parameters=parameters,
            multiply_accumulates=multiply_accumulates,
            min_size=47,
            small_min_size=8,
            accuracy=Accuracy(top1, top5, f"the paper's Table 2, {row}, ImageNet val, ten crops"),
        ),
        ZFNet,
        native_only=("dropout",),
        widths=widths,
    )
