"""SqueezeNet, after "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters" (Iandola et al., 2016, 1602.07360).

A fire module squeezes its input to few channels, and expands them with 1 x 1 and 3 x 3 convolutions side by side. There
are no fully connected layers. The network is as accurate as AlexNet, with a fiftieth of the parameters.

`squeezenet1_0` is Table 1. `squeezenet1_1` is the authors' later release with a smaller first convolution and earlier
pools, which needs 2.4 times less computation. Both equal torchvision's. Departures, from torchvision: He initialization
instead of Xavier's, and images of 224 pixels, whereas the sizes of the table need 227.

`_simple_bypass` adds the input of fire3, 5, 7 and 9 to their output. `_complex_bypass` also adds the input of the other
fire modules, after a 1 x 1 convolution (section 6, Figure 2). The paper has bypasses for 1.0 only; those of 1.1 are
ours.

The small stem is the common one for 32 x 32 (weiaicunzai/pytorch-cifar100, without its batch norm and bypasses): a 3 x
3 convolution of stride 1, pools of 2 x 2, and no ReLU after conv10, because the ReLU can set a class to zero forever in
the first steps. Train it with AdamW: without batch norm, SGD makes little progress on a small data set.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from cnnzoo.models.network import Network
from cnnzoo.models.registry import Accuracy, Info, Paper, register

PAPER = Paper("SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", 2016, "1602.07360")

# (squeeze, expand) of fire2 to fire9: s1x1 of Table 1, and its e1x1 and e3x3, which are equal.
FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))


class Fire(nn.Module):
    """(N, in, H, W) -> (N, 2 expand, H, W): squeeze by 1 x 1, expand by 1 x 1 and 3 x 3 in parallel (Figure 1)."""

    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, kernel_size=1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze, expand, kernel_size=1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze, expand, kernel_size=3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.squeeze_activation(self.squeeze(x))  # (N, squeeze, H, W)
        narrow, wide = self.expand1x1(x), self.expand3x3(x)
        return torch.cat([self.expand1x1_activation(narrow), self.expand3x3_activation(wide)], 1)


class BypassedFire(Fire):
    """(N, in, H, W) -> (N, 2 expand, H, W): a fire module plus a bypass, an identity or a 1 x 1 convolution."""

    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__(in_channels, squeeze, expand)
        same_shape = in_channels == 2 * expand
        self.bypass = nn.Identity() if same_shape else nn.Conv2d(in_channels, 2 * expand, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self.bypass(x)


def simple_bypass(in_channels: int, squeeze: int, expand: int) -> Fire:
    """A fire module, with a bypass if its input and output have the same number of channels."""
    return (BypassedFire if in_channels == 2 * expand else Fire)(in_channels, squeeze, expand)


class SqueezeNet(Network):
    """(N, in_channels, H, W) -> (N, num_classes).

    conv1: output channels and kernel size of the first convolution, which a pool always follows.
    pools_after: numbers of the fire modules that a pool follows.
    fire: constructor of a fire module, `fire(in_channels, squeeze, expand)`.
    """

    classifier_path = ("classifier", 1)
    num_features = 512

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        conv1: tuple[int, int] = (64, 3),
        pools_after: Sequence[int] = (3, 5),
        fire: Callable[[int, int, int], Fire] = Fire,
        stem: str = "native",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        small = stem == "small"
        channels, kernel_size = conv1

        def pool() -> nn.MaxPool2d:
            return nn.MaxPool2d(2) if small else nn.MaxPool2d(3, stride=2, ceil_mode=True)

        first = (
            nn.Conv2d(in_channels, channels, kernel_size=3, padding=1)
            if small
            else nn.Conv2d(in_channels, channels, kernel_size, stride=2)
        )
        layers: list[nn.Module] = [first, nn.ReLU(inplace=True), pool()]
        for number, (squeeze, expand) in enumerate(FIRES, start=2):
            layers.append(fire(channels, squeeze, expand))
            channels = 2 * expand
            if number in pools_after:
                layers.append(pool())
        self.features = nn.Sequential(*layers)
        conv10 = nn.Conv2d(channels, num_classes, kernel_size=1)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            conv10,
            nn.Identity() if small else nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if module is conv10:
                    nn.init.normal_(module.weight, std=0.01)
                else:
                    nn.init.kaiming_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) -> (N, 512, H/16, W/16), the last feature map; small stem: H/8."""
        return self.features(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(N, 512, h, w) -> (N, num_classes)."""
        return x.mean((2, 3)) if pre_logits else torch.flatten(self.classifier(x), 1)


VERSIONS = {"1_0": ((96, 7), (4, 8), 21), "1_1": ((64, 3), (3, 5), 17)}  # conv1, pools_after, min_size

for version, bypass, fire, parameters, multiply_accumulates, top1, top5 in (
    ("1_0", "", Fire, 1_248_424, 818_924_576, 0.58092, 0.80420),
    ("1_0", "_simple_bypass", simple_bypass, 1_248_424, 818_924_576, 0.604, 0.825),
    ("1_0", "_complex_bypass", BypassedFire, 1_589_672, None, 0.588, 0.820),
    ("1_1", "", Fire, 1_235_496, 349_151_936, 0.58178, 0.80624),
    ("1_1", "_simple_bypass", simple_bypass, 1_235_496, 349_151_936, None, None),
    ("1_1", "_complex_bypass", BypassedFire, 1_572_648, None, None, None),
):
    conv1, pools_after, min_size = VERSIONS[version]
    name = f"squeezenet{version}{bypass}"
    source = (
        "the paper's Table 3, ImageNet val of 2012"
        if bypass
        else f"torchvision SqueezeNet{version}_Weights.IMAGENET1K_V1, ImageNet val, one crop of 224"
    )
    register(
        Info(
            name=name,
            family="squeezenet",
            paper=PAPER,
            parameters=parameters,
            multiply_accumulates=multiply_accumulates,
            min_size=min_size,
            small_min_size=8,
            accuracy=None if top1 is None else Accuracy(top1, top5, source),
            torchvision=None if bypass else name,
            weights=() if bypass else ("IMAGENET1K_V1",),
        ),
        SqueezeNet,
        conv1=conv1,
        pools_after=pools_after,
        fire=fire,
    )
