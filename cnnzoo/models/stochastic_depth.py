"""Stochastic depth, after "Deep Networks with Stochastic Depth" (Huang et al., 2016, arXiv 1603.09382).

While it trains, each block of a ResNet is dropped or kept as a whole, by one draw for each mini-batch; what is left of
a dropped block is its shortcut. In evaluation all blocks count, each by its probability of survival, which falls
linearly from the first to the last.

The networks are the paper's: for CIFAR-10 those of He et al., with shortcuts that average where He et al. subsample,
for ImageNet 152 layers with projections. Departures: the convolutions have no biases, which the authors' CIFAR code
has and batch norm takes away again; the ImageNet network has the stride of a bottleneck in its 3 x 3, as the code that
the paper builds on, and the keys of `resnet152`.

A dropped block is not computed, which saves the paper's quarter of the training time, and its batch norm's running
statistics stay; its parameters get gradients of zero, as in the authors' code, so weight decay and momentum go on, and
ranks that draw differently still agree. A traced or compiled training graph has no branches: there every block is
computed and multiplied by zero or one, the same in all but time and those running statistics.

The draws come from torch's global generator of the CPU, whatever the device: no block waits for an accelerator.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from cnnzoo.errors import UserError
from cnnzoo.models.layers import Dropped, ZeroPadding
from cnnzoo.models.registry import Accuracy, Info, Paper, register
from cnnzoo.models.resnet import BasicBlock, Bottleneck, CifarResNet, ResNet

PAPER = Paper("Deep Networks with Stochastic Depth", 2016, "1603.09382")


def survives(probability: float) -> torch.Tensor:
    """The b of equation 2: () bool, true with that probability."""
    return torch.rand((), device="cpu") < probability


@torch.fx.wrap  # the draw belongs into the graph, not its outcome on the day of tracing
def gate(residual: torch.Tensor, probability: float) -> torch.Tensor:
    """The b f(x) of equation 2: (N, C, H, W) -> (N, C, H, W), all of it or nothing."""
    return residual * survives(probability)


class Gated(nn.Module):
    """(N, in, H, W) -> (N, out, H/stride, W/stride): what a block of a ResNet does, if it survives."""

    survival_probability: float
    residual: Callable[[torch.Tensor], torch.Tensor]
    downsample: nn.Module | None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        if not self.training:
            return F.relu(torch.add(identity, self.residual(x), alpha=self.survival_probability))  # equation 5
        if isinstance(x, torch.fx.Proxy) or torch.compiler.is_compiling():
            return F.relu(gate(self.residual(x), self.survival_probability) + identity)  # equation 2
        if survives(self.survival_probability):
            return F.relu(self.residual(x) + identity)
        unused = [parameter for key, parameter in self.named_parameters() if not key.startswith("downsample.")]
        return Dropped.apply(F.relu(identity), *unused)


class GatedBasicBlock(Gated, BasicBlock):
    """(N, in, H, W) -> (N, width, H/stride, W/stride)."""


class GatedBottleneck(Gated, Bottleneck):
    """(N, in, H, W) -> (N, 4 width, H/stride, W/stride)."""


def average_pooling(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """Section 4: (N, in, H, W) -> (N, out, H/stride, W/stride), pooled and zero-padded, else None, identity."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.AvgPool2d(stride, ceil_mode=True), ZeroPadding(in_channels, out_channels, stride=1))


def decay_linearly(net: nn.Module, survival_probability: float) -> None:
    """Equation 4: p = 1 - l/L (1 - survival_probability) for block l of L, counted from 1."""
    if not 0 <= survival_probability <= 1:
        raise UserError(f"survival_probability={survival_probability}: expected 0 to 1, that of the last block")
    blocks = [module for module in net.modules() if isinstance(module, Gated)]
    for i, block in enumerate(blocks, start=1):
        block.survival_probability = 1 - i / len(blocks) * (1 - survival_probability)


class StochasticDepth(ResNet):
    """(N, in_channels, H, W) -> (N, num_classes). `survival_probability`: of the last block."""

    def __init__(
        self,
        block: Callable[[int, int, int], nn.Module],
        depths: Sequence[int],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "native",
        survival_probability: float = 0.5,
    ) -> None:
        super().__init__(block, depths, num_classes=num_classes, in_channels=in_channels, stem=stem)
        decay_linearly(self, survival_probability)


class CifarStochasticDepth(CifarResNet):
    """(N, in_channels, H, W) -> (N, num_classes). `survival_probability`: of the last block."""

    def __init__(
        self,
        block: Callable[[int, int, int], nn.Module],
        depth: int,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        survival_probability: float = 0.5,
    ) -> None:
        super().__init__(block, depth, num_classes=num_classes, in_channels=in_channels)
        decay_linearly(self, survival_probability)


for layers, parameters, multiply_accumulates, top1, source in (
    (110, 1_727_962, 252_887_680, 0.9477, "Table 1, as of ECCV 2016"),
    (1202, 19_421_274, 2_829_238_912, 0.9509, "section 4"),
):
    register(
        Info(
            name=f"resnet{layers}_stochastic_depth",
            family="stochastic_depth",
            paper=PAPER,
            parameters=parameters,
            multiply_accumulates=multiply_accumulates,
            num_classes=10,
            input_size=32,
            min_size=1,
            accuracy=Accuracy(top1, None, f"the paper's {source}, CIFAR-10 test"),
        ),
        CifarStochasticDepth,
        block=partial(GatedBasicBlock, shortcut=average_pooling),
        depth=(layers - 2) // 6,
    )

register(
    Info(
        name="resnet152_stochastic_depth",
        family="stochastic_depth",
        paper=PAPER,
        parameters=60_192_808,
        multiply_accumulates=11_513_626_624,
        min_size=1,
        small_min_size=1,
        accuracy=Accuracy(0.7802, None, "the paper's Table 1, ImageNet val, after 120 epochs"),
    ),
    StochasticDepth,
    block=GatedBottleneck,
    depths=(3, 8, 36, 3),
)
