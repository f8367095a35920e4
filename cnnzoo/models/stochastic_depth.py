"""Stochastic depth, after "Deep Networks with Stochastic Depth" (Huang et al., 2016, arXiv 1603.09382).

In training, each block of a ResNet is dropped or kept at random, as a whole and for the whole mini-batch; of a dropped
block only the shortcut remains. In evaluation all blocks are computed, and each residual is scaled by the survival
probability of its block, which decreases linearly from the first block to the last.

The networks are the paper's. For CIFAR-10 they are those of He et al., with average pooling instead of subsampling in
the shortcuts; for ImageNet 152 layers with projections. Departures: the convolutions have no biases, which the authors'
CIFAR code has although batch norm cancels them. The ImageNet network has the stride of a bottleneck in its 3 x 3
convolution, like the code that the paper builds on, and the state-dict keys of `resnet152`.

A dropped block is not computed, which saves the quarter of the training time that the paper reports, and its batch norm
keeps its running statistics. Its parameters get gradients of zero, as in the authors' code. Weight decay and momentum
therefore still apply to them, and ranks that drop different blocks stay in step. A traced or compiled training graph
has no branches, so every block is computed and multiplied by zero or one; only the time and those running statistics
differ.

The random numbers come from torch's global CPU generator on any device, so that no block waits for an accelerator.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from cnnzoo.checks import check_number
from cnnzoo.models.layers import ZeroGradients, ZeroPadding
from cnnzoo.models.registry import Accuracy, Info, Paper, register
from cnnzoo.models.resnet import BasicBlock, Bottleneck, CifarResNet, ResNet

PAPER = Paper("Deep Networks with Stochastic Depth", 2016, "1603.09382")


def sample_survival(probability: float) -> torch.Tensor:
    """Sample b of equation 2: () bool, true with the given probability."""
    return torch.rand((), device="cpu") < probability


@torch.fx.wrap  # so that a traced graph samples in every step, instead of holding the value of the tracing run
def gate(residual: torch.Tensor, probability: float) -> torch.Tensor:
    """B f(x) of equation 2: (N, C, H, W) -> (N, C, H, W), the residual or zeros."""
    return residual * sample_survival(probability)


class GatedBlock(nn.Module):
    """(N, in, H, W) -> (N, out, H/stride, W/stride): a block of a ResNet whose residual is dropped at random."""

    survival_probability: float
    residual: Callable[[torch.Tensor], torch.Tensor]
    downsample: nn.Module | None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        if not self.training:
            return F.relu(torch.add(identity, self.residual(x), alpha=self.survival_probability))  # equation 5
        if isinstance(x, torch.fx.Proxy) or torch.compiler.is_compiling():
            return F.relu(gate(self.residual(x), self.survival_probability) + identity)  # equation 2
        if sample_survival(self.survival_probability):
            return F.relu(self.residual(x) + identity)
        unused = [parameter for key, parameter in self.named_parameters() if not key.startswith("downsample.")]
        return ZeroGradients.apply(F.relu(identity), *unused)


class GatedBasicBlock(GatedBlock, BasicBlock):
    """(N, in, H, W) -> (N, width, H/stride, W/stride)."""


class GatedBottleneck(GatedBlock, Bottleneck):
    """(N, in, H, W) -> (N, 4 width, H/stride, W/stride)."""


def average_pooling(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """Section 4: (N, in, H, W) -> (N, out, H/stride, W/stride), pooled and zero-padded, else None (identity)."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.AvgPool2d(stride, ceil_mode=True), ZeroPadding(in_channels, out_channels, stride=1))


def decay_linearly(net: nn.Module, survival_probability: float) -> None:
    """Set the probability of block l of L, counted from 1, to 1 - l/L (1 - survival_probability) (equation 4)."""
    check_number("survival_probability", survival_probability, minimum=0, maximum=1, note="for the last block")
    blocks = [module for module in net.modules() if isinstance(module, GatedBlock)]
    for i, block in enumerate(blocks, start=1):
        block.survival_probability = 1 - i / len(blocks) * (1 - survival_probability)


class StochasticDepth(ResNet):
    """(N, in_channels, H, W) -> (N, num_classes). `survival_probability` is that of the last block."""

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
    """(N, in_channels, H, W) -> (N, num_classes). `survival_probability` is that of the last block."""

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
