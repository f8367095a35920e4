"""Pairs of blocks to compare, from the questions that lectures and papers ask about them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from cnnzoo.models.densenet import BottleneckLayer, DenseLayer
from cnnzoo.models.resnet import BasicBlock, Bottleneck
from cnnzoo.models.squeezenet import Fire


@dataclass(frozen=True)
class BlockComparison:
    """A question about two blocks, and the default input to compare them on.

    `blocks` maps a label to a constructor, `block(channels)`, for each of the two.
    """

    question: str
    channels: int
    image_size: int
    blocks: Mapping[str, Callable[[int], nn.Module]]
    channels_multiple: int = 1
    """The number of channels must be a multiple of this."""
    note: str = ""


class ParallelBranches(nn.Module):
    """(N, in, H, W) -> (N, sum of the branches' channels, H, W): apply all branches to the input and concatenate."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.children()], 1)


def conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    """(N, in, H, W) -> (N, out, H, W), without a bias, because the lectures do not count biases."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)


def pool() -> nn.MaxPool2d:
    """(N, C, H, W) -> (N, C, H, W)."""
    return nn.MaxPool2d(3, stride=1, padding=1)


def inception_naive(channels: int) -> nn.Module:
    """(N, channels, H, W) -> (N, 416 + channels, H, W), Figure 2(a) with the widths of the lecture."""
    return ParallelBranches(
        conv1x1=conv(channels, 128, 1), conv3x3=conv(channels, 192, 3), conv5x5=conv(channels, 96, 5), pool=pool()
    )


def inception(channels: int) -> nn.Module:
    """(N, channels, H, W) -> (N, 480, H, W), Figure 2(b) with the widths of the lecture."""
    return ParallelBranches(
        conv1x1=conv(channels, 128, 1),
        conv3x3=nn.Sequential(conv(channels, 64, 1), conv(64, 192, 3)),
        conv5x5=nn.Sequential(conv(channels, 64, 1), conv(64, 96, 5)),
        pool=nn.Sequential(pool(), conv(channels, 64, 1)),
    )


BLOCKS = {
    "inception": BlockComparison(
        "How much do bottlenecks of 64 channels save in an inception module? (GoogLeNet, Figure 2; CS231n, lecture 9)",
        256,
        28,
        {"naive": inception_naive, "with bottlenecks": inception},
        note="The slide of the lecture gives 358M for the second: it counts the 3x3 convolution twice.",
    ),
    "stack": BlockComparison(
        "How much do three 3x3 convolutions save over one 7x7 with the same receptive field? (VGG, section 2.3)",
        64,
        56,
        {
            "one 7x7": lambda c: nn.Sequential(conv(c, c, 7)),
            "three 3x3": lambda c: nn.Sequential(conv(c, c, 3), conv(c, c, 3), conv(c, c, 3)),
        },
    ),
    "residual": BlockComparison(
        "How much does a bottleneck save over a basic block with the same number of channels? (ResNet, Figure 5)",
        256,
        56,
        {"basic": lambda c: BasicBlock(c, c, 1), "bottleneck": lambda c: Bottleneck(c, c // 4, 1)},
        channels_multiple=4,
    ),
    "resnext": BlockComparison(
        "What do 32 groups of 4 channels cost compared with one group of 64? (ResNeXt, Figure 1)",
        256,
        56,
        {
            "bottleneck": lambda c: Bottleneck(c, c // 4, 1),
            "32 groups": lambda c: Bottleneck(c, c // 4, 1, cardinality=32, bottleneck_width=4),
        },
        channels_multiple=64,
    ),
    "fire": BlockComparison(
        "How much does a fire module save over a 3x3 convolution? (SqueezeNet, Figure 1)",
        128,
        56,
        {
            "3x3": lambda c: nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.ReLU(inplace=True)),
            "fire": lambda c: Fire(c, c // 8, c // 2),
        },
        channels_multiple=8,
    ),
    "dense": BlockComparison(
        "How much does a bottleneck save in a dense layer that adds 32 channels? (DenseNet, section 3)",
        512,
        14,
        {
            "plain": lambda c: DenseLayer(c, 32, dropout=0.0),
            "bottleneck": lambda c: BottleneckLayer(c, 32, dropout=0.0),
        },
    ),
}
