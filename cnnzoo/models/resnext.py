"""ResNeXt, after "Aggregated Residual Transformations for Deep Neural Networks" (Xie et al., 2016, arXiv 1611.05431).

A block is the sum of many small transformations of the same shape. Their number, the cardinality, is a dimension
besides depth and width. At equal cost, a larger cardinality raises accuracy more than further layers or channels do.

Table 1 and Figure 3(c): ResNet's bottleneck with a grouped 3 x 3 convolution between two ungrouped 1 x 1 convolutions.
In a name, 32x4d means a cardinality of 32 groups and a bottleneck width of 4, the number of channels per group in the
first stage, which doubles with each stage. 50_32x4d, 101_32x8d and 101_64x4d equal torchvision's; 101_32x8d is not from
the paper.

`resnext29_8x64d` and `resnext29_16x64d` are the networks for CIFAR of section 5.3. In the first version of the paper
the activation came first in a block; here it follows the addition, as in the last version and the authors' code.

The small stem of the ImageNet networks is ResNet's, a 3 x 3 convolution of stride 1 without a pool.
"""

from collections.abc import Sequence
from functools import partial

from cnnzoo.errors import UserError
from cnnzoo.models.registry import Accuracy, Info, Paper, register
from cnnzoo.models.resnet import V1, V1_V2, Bottleneck, ResNet

PAPER = Paper("Aggregated Residual Transformations for Deep Neural Networks", 2016, "1611.05431")


class ResNeXt(ResNet):
    """(N, in_channels, H, W) -> (N, num_classes), Table 1. `depths`: number of blocks of each stage."""

    def __init__(
        self,
        depths: Sequence[int],
        *,
        cardinality: int,
        bottleneck_width: int,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "native",
    ) -> None:
        block = partial(Bottleneck, cardinality=cardinality, bottleneck_width=bottleneck_width)
        super().__init__(block, depths, num_classes=num_classes, in_channels=in_channels, stem=stem)


class CifarResNeXt(ResNet):
    """(N, in_channels, H, W) -> (N, num_classes), section 5.3: three stages of (depth - 2) / 9 blocks."""

    def __init__(
        self,
        depth: int,
        *,
        cardinality: int,
        bottleneck_width: int,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        if depth < 11 or (depth - 2) % 9:
            raise UserError(f"depth={depth}: expected 9 n + 2 layers, such as 11, 20, 29, 38")
        super().__init__(
            partial(Bottleneck, cardinality=cardinality, bottleneck_width=bottleneck_width),
            [(depth - 2) // 9] * 3,
            num_classes=num_classes,
            in_channels=in_channels,
            stem="small",
            widths=(64, 128, 256),
        )


for name, depths, cardinality, bottleneck_width, parameters, multiply_accumulates, top1, top5, weights in (
    ("resnext50_32x4d", (3, 4, 6, 3), 32, 4, 25_028_904, 4_230_479_872, 0.77618, 0.93698, V1_V2),
    ("resnext101_32x4d", (3, 4, 23, 3), 32, 4, 44_177_704, 7_969_996_800, 0.788, 0.944, ()),
    ("resnext101_32x8d", (3, 4, 23, 3), 32, 8, 88_791_336, 16_414_015_488, 0.79312, 0.94526, V1_V2),
    ("resnext101_64x4d", (3, 4, 23, 3), 64, 4, 83_455_272, 15_460_270_080, 0.83246, 0.96454, V1),
):
    torchvision_source = f"torchvision ResNeXt{name[7:].replace('d', 'D')}_Weights.IMAGENET1K_V1"
    register(
        Info(
            name=name,
            family="resnext",
            paper=PAPER,
            parameters=parameters,
            multiply_accumulates=multiply_accumulates,
            min_size=1,
            small_min_size=1,
            accuracy=Accuracy(
                top1, top5, f"{torchvision_source if weights else 'the paper, Table 4'}, ImageNet val, one crop of 224"
            ),
            torchvision=name if weights else None,
            weights=weights,
        ),
        ResNeXt,
        depths=depths,
        cardinality=cardinality,
        bottleneck_width=bottleneck_width,
    )

for cardinality, parameters, multiply_accumulates, top1 in (
    (8, 34_426_698, 5_387_266_048, 0.9635),
    (16, 68_155_210, 10_688_866_304, 0.9642),
):
    register(
        Info(
            name=f"resnext29_{cardinality}x64d",
            family="resnext",
            paper=PAPER,
            parameters=parameters,
            multiply_accumulates=multiply_accumulates,
            num_classes=10,
            input_size=32,
            min_size=1,
            accuracy=Accuracy(top1, None, "the paper, Table 7, CIFAR-10 test, mean of ten runs"),
        ),
        CifarResNeXt,
        depth=29,
        cardinality=cardinality,
        bottleneck_width=64,
    )
