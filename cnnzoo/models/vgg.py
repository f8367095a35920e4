"""VGG, after "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2014, arXiv 1409.1556).

Many convolutions, all of 3 x 3. Two in a row see as much as one of 5 x 5, three as much as one of 7 x 7, with fewer
weights and more nonlinearities between them. The paper compares depths from 11 to 19 layers.

By Simonyan and Zisserman. Table 1: `vgg11`, `vgg13`, `vgg16` and `vgg19` are its columns A, B, D and E, `vgg16_c` is C.
Column A-LRN is left out, because the paper found that the normalization does not help.

Departures, all from torchvision: the `_bn` networks with batch norm after every convolution, which keeps its bias; an
adaptive pool before the classifier, which allows images of any size from 32 pixels; initialization from N(0, 2 /
fan_out) for convolutions and N(0, 0.01) for linear layers. The paper initialized the deep columns from a trained A.

The small variant is the common one for 32 x 32 (kuangliu, bearpaw): the convolutions with their five pools and one
linear layer. The average pool before it is ours; it is the identity at 32 x 32 and allows larger images. Without batch
norm the small variant is initialized from N(0, 2 / fan_in), which is ours too.
"""

import torch
from torch import nn

from cnnzoo.models.layers import apply_all_but_last, init_kaiming_normal
from cnnzoo.models.network import Network
from cnnzoo.models.registry import Accuracy, Info, Paper, register

PAPER = Paper("Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014, "1409.1556")

WIDTHS = (64, 128, 256, 512, 512)


def conv(in_channels: int, out_channels: int, kernel_size: int, batch_norm: bool) -> list[nn.Module]:
    """(N, in, H, W) -> (N, out, H, W)."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)]
    if batch_norm:
        layers.append(nn.BatchNorm2d(out_channels))
    return [*layers, nn.ReLU(inplace=True)]


class VGG(Network):
    """(N, in_channels, H, W) -> (N, num_classes). `kernels`: the kernel sizes of the convolutions of each block."""

    classifier_path = ("classifier", -1)

    def __init__(
        self,
        kernels: tuple[tuple[int, ...], ...],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "native",
        batch_norm: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = in_channels
        for out, block in zip(WIDTHS, kernels, strict=True):
            for kernel_size in block:
                layers += conv(width, out, kernel_size, batch_norm)
                width = out
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        small = stem == "small"
        self.avgpool = nn.AdaptiveAvgPool2d(1 if small else 7)
        if small:
            self.num_features = width
            self.classifier = nn.Sequential(nn.Linear(width, num_classes))
        else:
            self.num_features = 4096
            self.classifier = nn.Sequential(
                nn.Linear(width * 7 * 7, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(4096, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(4096, num_classes),
            )
        if small and not batch_norm:
            init_kaiming_normal(self)
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) -> (N, num_features), the input of the last linear layer."""
        x = self.features(x)  # (N, 512, H/32, W/32)
        x = torch.flatten(self.avgpool(x), 1)
        return apply_all_but_last(self.classifier, x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(N, num_features) -> (N, num_classes)."""
        return x if pre_logits else self.classifier[-1](x)


A = ((3,), (3,), (3, 3), (3, 3), (3, 3))
B = ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3))
C = ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1))
D = ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
E = ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3))

for name, kernels, parameters, multiply_accumulates, top1, top5 in (
    ("vgg11", A, 132_863_336, 7_609_090_048, 0.69020, 0.88628),
    ("vgg11_bn", A, 132_868_840, 7_609_090_048, 0.70370, 0.89810),
    ("vgg13", B, 133_047_848, 11_308_466_176, 0.69928, 0.89246),
    ("vgg13_bn", B, 133_053_736, 11_308_466_176, 0.71586, 0.90374),
    ("vgg16", D, 138_357_544, 15_470_264_320, 0.71592, 0.90382),
    ("vgg16_bn", D, 138_365_992, 15_470_264_320, 0.73360, 0.91516),
    ("vgg16_c", C, 133_638_952, 11_770_888_192, 0.719, 0.906),
    ("vgg19", E, 143_667_240, 19_632_062_464, 0.72376, 0.90876),
    ("vgg19_bn", E, 143_678_248, 19_632_062_464, 0.74218, 0.91842),
):
    torchvision_name = None if kernels is C else name
    register(
        Info(
            name=name,
            family="vgg",
            paper=PAPER,
            parameters=parameters,
            multiply_accumulates=multiply_accumulates,
            min_size=32,
            small_min_size=32,
            accuracy=Accuracy(
                top1,
                top5,
                f"torchvision {name.upper()}_Weights.IMAGENET1K_V1, ImageNet val, one crop of 224"
                if torchvision_name
                else "the paper's Table 3, ImageNet val, the whole image at a shorter side of 256",
            ),
            torchvision=torchvision_name,
            weights=("IMAGENET1K_V1",) if torchvision_name else (),
        ),
        VGG,
        native_only=("dropout",),
        kernels=kernels,
        batch_norm=name.endswith("_bn"),
    )
