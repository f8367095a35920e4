"""AlexNet, after "ImageNet Classification with Deep Convolutional Neural Networks" (Krizhevsky et al., 2012).

A deep network for more than a million photographs: five convolutions and three linear layers. ReLUs train several times
faster than tanh units (section 3.1), dropout works against overfitting, and two GPUs share the channels.

`alexnet` is torchvision's network of that name, the single tower of "One weird trick for parallelizing convolutional
neural networks" (Krizhevsky, 2014, arXiv 1404.5997). It departs from the paper of 2012: widths 64-192-384-256-256, no
groups, no response normalization, dropout before each hidden layer instead of after it, PyTorch's default
initialization, and an adaptive pool before the classifier, which allows images of any size from 63 pixels.

`alexnet_paper` is the network of 2012. Its two columns are groups of 2. It takes images of 227 pixels, because the 224
that the paper states do not give feature maps of 55 x 55. Departures: an adaptive pool, which is the identity from 227
to 258 pixels and allows all sizes from 67; He initialization with zero biases. The paper has N(0, 0.01) with biases of
one, which suits pixels from 0 to 255 but scales the signal of a normalized image down by a factor of 3000.

The small stem is the common variant for 32 x 32 (bearpaw/pytorch-classification): conv1 padded by 5, pools of 2 x 2 and
one linear layer. We add an average pool, which is the identity at 32 x 32 and allows larger images, and He
initialization: with PyTorch's default the loss does not fall for several epochs.
"""

import torch
from torch import nn

from cnnzoo.models.layers import apply_all_but_last, init_kaiming_normal, local_response_norm
from cnnzoo.models.network import Network
from cnnzoo.models.registry import Accuracy, Info, Paper, register

PAPER = Paper("ImageNet Classification with Deep Convolutional Neural Networks", 2012, None)


class AlexNet(Network):
    """(N, in_channels, H, W) -> (N, num_classes)."""

    classifier_path = ("classifier", -1)

    def __init__(
        self, num_classes: int = 1000, in_channels: int = 3, *, stem: str = "native", dropout: float = 0.5
    ) -> None:
        super().__init__()
        small = stem == "small"
        padding, pool = (5, 2) if small else (2, 3)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 64, kernel_size=11, stride=4, padding=padding),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(pool, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(pool, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(pool, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1 if small else 6)
        if small:
            self.num_features = 256
            self.classifier = nn.Sequential(nn.Linear(256, num_classes))
            init_kaiming_normal(self)
        else:
            self.num_features = 4096
            self.classifier = nn.Sequential(
                nn.Dropout(dropout),
                nn.Linear(256 * 6 * 6, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(4096, 4096),
                nn.ReLU(inplace=True),
                nn.Linear(4096, num_classes),
            )

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) -> (N, num_features), the input of the last linear layer."""
        x = self.features(x)  # (N, 256, 6, 6) at 224; small: (N, 256, 1, 1) at 32
        x = torch.flatten(self.avgpool(x), 1)
        return apply_all_but_last(self.classifier, x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(N, num_features) -> (N, num_classes)."""
        return x if pre_logits else self.classifier[-1](x)


class AlexNetPaper(Network):
    """(N, in_channels, H, W) -> (N, num_classes). Figure 2, with both columns in one."""

    classifier_path = ("classifier", -1)

    def __init__(
        self, num_classes: int = 1000, in_channels: int = 3, *, stem: str = "native", dropout: float = 0.5
    ) -> None:
        super().__init__()
        small = stem == "small"
        padding, pool = (5, 2) if small else (0, 3)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 96, kernel_size=11, stride=4, padding=padding),
            nn.ReLU(inplace=True),
            local_response_norm(),
            nn.MaxPool2d(pool, stride=2),
            nn.Conv2d(96, 256, kernel_size=5, padding=2, groups=2),
            nn.ReLU(inplace=True),
            local_response_norm(),
            nn.MaxPool2d(pool, stride=2),
            nn.Conv2d(256, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 384, kernel_size=3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(pool, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1 if small else 6)
        if small:
            self.num_features = 256
            self.classifier = nn.Sequential(nn.Linear(256, num_classes))
        else:
            self.num_features = 4096
            self.classifier = nn.Sequential(
                nn.Linear(256 * 6 * 6, 4096),
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
        x = self.features(x)  # (N, 256, 6, 6) at 227; small: (N, 256, 1, 1) at 32
        x = torch.flatten(self.avgpool(x), 1)
        return apply_all_but_last(self.classifier, x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(N, num_features) -> (N, num_classes)."""
        return x if pre_logits else self.classifier[-1](x)


register(
    Info(
        name="alexnet",
        family="alexnet",
        paper=PAPER,
        parameters=61_100_840,
        multiply_accumulates=714_188_480,
        min_size=63,
        small_min_size=29,
        accuracy=Accuracy(0.56522, 0.79066, "torchvision AlexNet_Weights.IMAGENET1K_V1, ImageNet val, one crop of 224"),
        torchvision="alexnet",
        weights=("IMAGENET1K_V1",),
    ),
    AlexNet,
    native_only=("dropout",),
)
register(
    Info(
        name="alexnet_paper",
        family="alexnet",
        paper=PAPER,
        parameters=60_965_224,
        multiply_accumulates=724_406_816,
        input_size=227,
        min_size=67,
        small_min_size=29,
        accuracy=Accuracy(0.593, 0.818, "the paper's Table 2, one CNN, ImageNet val of 2012, ten crops"),
    ),
    AlexNetPaper,
    native_only=("dropout",),
)
