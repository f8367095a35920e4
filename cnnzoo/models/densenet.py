"""DenseNet, after "Densely Connected Convolutional Networks" (Huang et al., 2016, arXiv 1608.06993).

Within a block, each layer gets the feature maps of all layers before it, concatenated, and adds a few of its own: the
growth rate. Features are used again instead of learned again, and gradients reach every layer directly. Transitions
between the blocks halve the resolution.

Table 1, for ImageNet: all networks are of type BC, with bottleneck layers of four times the growth rate and transitions
that halve the number of channels. 121, 161, 169 and 201 layers equal torchvision's. 161 is the authors' network with
growth rate 48; 264 has the growth rate 32 of the published table. Departure, from torchvision: convolutions are
initialized from N(0, 2 / fan_in), where the authors' code has fan_out. The small stem is the common one for 32 x 32: a
3 x 3 convolution of stride 1 without batch norm.

Section 4.2, for CIFAR: `densenet_40_12` has 40 layers and growth rate 12. The first convolution of the plain networks
has 16 channels, as the paper states and its parameter counts confirm; the authors' code has twice the growth rate.

Dropout is off by default. It follows every convolution but the first (section 4.2); torchvision has it only after the
last convolution of a layer. `memory_efficient=True` stores only the new feature maps of each layer for the backward
pass and recomputes the rest (Pleiss et al., 2017, arXiv 1707.06990). It has no effect under torch.compile.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cnnzoo.errors import UserError
from cnnzoo.models.network import Network
from cnnzoo.models.registry import Accuracy, Info, Paper, register

PAPER = Paper("Densely Connected Convolutional Networks", 2016, "1608.06993")


class DenseLayer(nn.Sequential):
    """(N, in, H, W) -> (N, growth_rate, H, W)."""

    def __init__(self, in_channels: int, growth_rate: int, *, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_channels, growth_rate, kernel_size=3, padding=1, bias=False)
        self.dropout1 = nn.Dropout(dropout)


class BottleneckLayer(nn.Sequential):
    """(N, in, H, W) -> (N, growth_rate, H, W), with 4 * growth_rate channels in between."""

    def __init__(self, in_channels: int, growth_rate: int, *, dropout: float) -> None:
        super().__init__()
        width = 4 * growth_rate
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.dropout1 = nn.Dropout(dropout)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, growth_rate, kernel_size=3, padding=1, bias=False)
        self.dropout2 = nn.Dropout(dropout)


Layer = Callable[..., nn.Module]


class DenseBlock(nn.Module):
    """(N, in, H, W) -> (N, in + depth * growth_rate, H, W). Each layer receives all earlier feature maps."""

    def __init__(
        self, in_channels: int, depth: int, growth_rate: int, *, layer: Layer, dropout: float, memory_efficient: bool
    ) -> None:
        super().__init__()
        self.memory_efficient = memory_efficient
        for i in range(depth):
            self.add_module(f"denselayer{i + 1}", layer(in_channels + i * growth_rate, growth_rate, dropout=dropout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # torch.fx passes a Proxy instead of a tensor; torch.compile decides itself what to recompute
        eager = isinstance(x, torch.Tensor) and not torch.compiler.is_compiling()
        if self.memory_efficient and self.training and eager:
            return self.forward_recomputing(x)
        for layer in self.children():
            x = torch.cat([x, layer(x)], 1)
        return x

    def forward_recomputing(self, x: torch.Tensor) -> torch.Tensor:
        """The same result; the backward pass concatenates the input of each layer again and recomputes the layer."""
        maps = [x]
        for layer in self.children():

            def run_layer(*maps: torch.Tensor, layer: nn.Module = layer) -> torch.Tensor:
                return layer(torch.cat(maps, 1))

            def contexts(layer: nn.Module = layer) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
                return nullcontext(), frozen_statistics(layer)

            maps.append(checkpoint(run_layer, *maps, use_reentrant=False, context_fn=contexts))
        return torch.cat(maps, 1)


@contextmanager
def frozen_statistics(layer: nn.Module) -> Iterator[None]:
    """Freeze the running statistics of batch norm, because the recomputation must not update them a second time."""
    norms = [module for module in layer.modules() if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches


class Transition(nn.Sequential):
    """(N, in, H, W) -> (N, out, H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.pool = nn.AvgPool2d(2)


class DenseNet(Network):
    """(N, in_channels, H, W) -> (N, num_classes).

    depths: number of layers of each dense block.
    layer: constructor of a layer, `layer(in_channels, growth_rate, dropout=...)`.
    compression: the paper's theta, the share of channels that a transition keeps.
    first_channels: output channels of the first convolution; None for twice the growth rate.
    """

    classifier_path = ("classifier",)

    def __init__(
        self,
        growth_rate: int,
        depths: Sequence[int],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "native",
        layer: Layer = BottleneckLayer,
        compression: float = 0.5,
        first_channels: int | None = None,
        dropout: float = 0.0,
        memory_efficient: bool = False,
    ) -> None:
        super().__init__()
        channels = 2 * growth_rate if first_channels is None else first_channels
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
                transition = Transition(channels, int(compression * channels), dropout=dropout)
                self.features.add_module(f"transition{i}", transition)
                channels = int(compression * channels)
            block = DenseBlock(
                channels, depth, growth_rate, layer=layer, dropout=dropout, memory_efficient=memory_efficient
            )
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

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(N, num_features, h, w) -> (N, num_classes)."""
        x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        return x if pre_logits else self.classifier(x)

    def adapt_pretrained(self, state: dict[str, torch.Tensor], *, published: bool) -> dict[str, torch.Tensor]:
        """Rename the keys of torchvision's old weight files, such as denselayer1.norm.1 to denselayer1.norm1."""
        return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key): state[key] for key in state}


class CifarDenseNet(DenseNet):
    """(N, in_channels, H, W) -> (N, num_classes), section 4.2: three dense blocks of (depth - 4) / 3 convolutions.

    bc: use bottleneck layers, half as many of them, and a compression of 0.5.
    """

    def __init__(
        self,
        depth: int,
        growth_rate: int,
        *,
        bc: bool = False,
        num_classes: int = 10,
        in_channels: int = 3,
        dropout: float = 0.0,
        memory_efficient: bool = False,
    ) -> None:
        step = 6 if bc else 3
        if depth < 4 + step or (depth - 4) % step:
            examples = ", ".join(str(4 + n * step) for n in (1, 2, 6, 12, 16))
            raise UserError(f"depth={depth}: with bc={bc} expected {step} n + 4 layers, such as {examples}")
        super().__init__(
            growth_rate,
            [(depth - 4) // step] * 3,
            num_classes=num_classes,
            in_channels=in_channels,
            stem="small",
            layer=BottleneckLayer if bc else DenseLayer,
            compression=0.5 if bc else 1.0,
            first_channels=None if bc else 16,
            dropout=dropout,
            memory_efficient=memory_efficient,
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")


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
    torchvision_name = f"densenet{layers}" if source == TORCHVISION else None
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
            torchvision=torchvision_name,
            weights=("IMAGENET1K_V1",) if torchvision_name else (),
        ),
        DenseNet,
        growth_rate=growth_rate,
        depths=depths,
    )

for depth, growth_rate, bc, parameters, multiply_accumulates, top1 in (
    (40, 12, False, 1_019_722, 264_812_928, 0.9476),
    (100, 12, False, 6_979_642, 1_769_516_448, 0.9590),
    (100, 24, False, 27_249_082, 6_889_347_744, 0.9626),
    (100, 12, True, 769_162, 287_929_692, 0.9549),
    (250, 24, True, 15_324_406, 5_418_785_724, 0.9638),
    (190, 40, True, 25_624_430, 9_301_945_740, 0.9654),
):
    register(
        Info(
            name=f"densenet{'_bc' if bc else ''}_{depth}_{growth_rate}",
            family="densenet",
            paper=PAPER,
            parameters=parameters,
            multiply_accumulates=multiply_accumulates,
            num_classes=10,
            input_size=32,
            min_size=4,
            accuracy=Accuracy(top1, None, "the paper, Table 2, CIFAR-10 test, shifted and mirrored"),
        ),
        CifarDenseNet,
        depth=depth,
        growth_rate=growth_rate,
        bc=bc,
    )
