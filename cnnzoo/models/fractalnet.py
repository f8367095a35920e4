"""FractalNet, after "FractalNet: Ultra-Deep Neural Networks without Residuals" (Larsson et al., 2016, 1605.07648).

A very deep network without shortcuts around layers. A block joins columns of different depths, from one convolution to
2^(C-1) of them, by their mean. Drop-path turns off columns at random in training, so that each of them also works
alone.

Figure 1 and section 4. A net of B blocks and C columns has B * 2^(C-1) layers on its longest path: `fractalnet20` has
five blocks of three columns, `fractalnet40` five of four. As in the authors' generator (gustavla/fractalnet), a unit is
convolution, dropout, batch norm and ReLU. At the end of a block every column is pooled, then the columns are joined.

Departures: convolutions have no bias and batch norm has scale and shift, the reverse of the authors' Caffe networks.
All paths share one batch norm, whereas the authors' generator has separate ones for the columns of global drop-path.
The last feature map is averaged, which allows images larger than 32 x 32; at 32 x 32 it has one pixel.

Local drop-path computes all inputs of a join and gives the dropped ones a weight of 0. Global drop-path computes one
column only, which saves time. The parameters of the other columns get gradients of zero. Weight decay and momentum
therefore still apply to them, and ranks that sample different columns stay in step. A traced or compiled training
graph has no branches, so it computes every column; only the time and the running statistics of batch norm differ.

`fractalnet34` is a reconstruction. The paper states four blocks of four columns with 128, 256, 512 and 1024 channels
and the first and last layers of ResNet-34, but no number of parameters. Here the columns of the first three blocks are
pooled; those of the fourth are not, because an average pool follows. The paper states no dropout rates for it, so it
has none. Its small stem is a 3 x 3 unit of stride 1, the common choice for 32 x 32.
"""

from collections.abc import Sequence

import torch
from torch import nn

from cnnzoo.checks import check_int, check_number
from cnnzoo.models.layers import ZeroGradients
from cnnzoo.models.network import Network
from cnnzoo.models.registry import Accuracy, Info, Paper, register

PAPER = Paper("FractalNet: Ultra-Deep Neural Networks without Residuals", 2016, "1605.07648")


def columns_by_step(columns: int) -> list[list[int]]:
    """For each step of a block, the columns in which a unit ends; columns that end at the same step are joined.

    Column 0 is the shallowest. Column c has 2^c units of 2^(columns - 1 - c) steps each, so `columns_by_step(3)` is
    [[2], [1, 2], [2], [0, 1, 2]].
    """
    steps = range(1, 2 ** (columns - 1) + 1)
    return [[c for c in range(columns) if step % 2 ** (columns - 1 - c) == 0] for step in steps]


def sample_column(columns: int, global_share: float) -> torch.Tensor:
    """Sample the column of global drop-path for one mini-batch, () int64 on the CPU; -1 means local drop-path."""
    column = torch.randint(columns, (), device="cpu")
    return torch.where(torch.rand((), device="cpu") < global_share, column, -1)


@torch.fx.wrap  # so that a traced graph samples in every step, instead of holding the values of the tracing run
def sample_paths(like: torch.Tensor, blocks: int, columns: int, drop_path: float, global_share: float) -> torch.Tensor:
    """Sample drop-path for one mini-batch (section 3.1): the weight of each column in each join.

    Returns (blocks, steps, columns) on the device of `like`; the weights of a join sum to 1.

    Local drop-path: every join drops each input with probability `drop_path`, but always keeps at least one. Global
    drop-path, with probability `global_share`: one column of the whole network has weight 1 in its joins. Joins without
    that column stay local; their outputs are not used.
    """
    joined = torch.tensor([[c in ending for c in range(columns)] for ending in columns_by_step(columns)], device="cpu")
    score = torch.rand(blocks, *joined.shape, device="cpu").masked_fill(~joined, -1.0)
    keep = (score >= drop_path) & joined | (score == score.amax(-1, keepdim=True))  # the highest score is always kept
    global_column = joined & (torch.arange(columns, device="cpu") == sample_column(columns, global_share))
    keep = torch.where(global_column.any(-1, keepdim=True), global_column, keep)
    return (keep / keep.sum(-1, keepdim=True)).to(like.device)


def join(inputs: Sequence[torch.Tensor], weights: Sequence[torch.Tensor] | None) -> torch.Tensor:
    """The mean of (N, C, H, W) inputs, or their sum with 0-dimensional weights: -> (N, C, H, W)."""
    if weights is None:
        return sum(inputs[1:], inputs[0]) / len(inputs)
    weighted = [x * weight for x, weight in zip(inputs, weights, strict=True)]
    return sum(weighted[1:], weighted[0])


class Unit(nn.Sequential):
    """(N, in, H, W) -> (N, out, H, W), the paper's convolutional layer."""

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)


class FractalBlock(nn.Module):
    """(N, in, H, W) -> (N, width, H/2, W/2), Figure 1 left; (N, width, H, W) if `pool` is false."""

    def __init__(self, in_channels: int, width: int, columns: int, *, dropout: float, pool: bool) -> None:
        super().__init__()
        self.columns_by_step = columns_by_step(columns)
        self.columns = nn.ModuleList(
            nn.ModuleList(Unit(width if i else in_channels, width, dropout=dropout) for i in range(2**c))
            for c in range(columns)
        )
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()

    def forward(self, x: torch.Tensor, paths: torch.Tensor | None = None) -> torch.Tensor:
        """`paths`: the weights of the columns in each join, (steps, columns); None for equal weights."""
        maps = [x] * len(self.columns)  # the input of the next unit of each column
        next_unit = [0] * len(self.columns)
        for step, ending in enumerate(self.columns_by_step):
            for c in ending:
                maps[c] = self.columns[c][next_unit[c]](maps[c])  # type: ignore[index]
                next_unit[c] += 1
            if step == len(self.columns_by_step) - 1:
                maps = [self.pool(out) for out in maps]
            if len(ending) > 1:
                weights = None if paths is None else [paths[step, c] for c in ending]
                out = join([maps[c] for c in ending], weights)
                for c in ending:
                    maps[c] = out
        return maps[-1]

    def column(self, index: int) -> list[nn.Module]:
        """The units of one column, followed by the pool."""
        return [*self.columns[index].children(), self.pool]


class FractalNet(Network):
    """(N, in_channels, H, W) -> (N, num_classes).

    columns: the paper's C.
    widths: output channels of each block.
    dropout: the dropout rate of each block, or one rate for all blocks.
    drop_path: probability that local drop-path drops an input of a join.
    global_share: share of the mini-batches that use global instead of local drop-path.
    first: layers before the first block; `in_channels` is the number of their output channels.
    pool_last: whether the last block ends with a pool.
    """

    def __init__(
        self,
        columns: int,
        widths: Sequence[int],
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        dropout: float | Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4),
        drop_path: float = 0.15,
        global_share: float = 0.5,
        first: nn.Module | None = None,
        pool_last: bool = True,
    ) -> None:
        super().__init__()
        check_int("columns", columns, minimum=1, maximum=8, note="(the depth of a block doubles with each)")
        check_number("drop_path", drop_path, minimum=0, maximum=1)
        check_number("global_share", global_share, minimum=0, maximum=1)
        self.drop_path, self.global_share = drop_path, global_share
        self.first = nn.Identity() if first is None else first
        pools = [True] * (len(widths) - 1) + [pool_last]
        self.blocks = nn.ModuleList()
        rates = [dropout] * len(widths) if isinstance(dropout, int | float) else dropout
        for width, rate, pool in zip(widths, rates, pools, strict=True):
            self.blocks.append(FractalBlock(in_channels, width, columns, dropout=rate, pool=pool))
            in_channels = width
        self.num_features = in_channels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")  # Caffe's "xavier": variance 1 / fan_in
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) -> (N, num_features, H/32, W/32), the last feature map.

        fractalnet34 with the small stem: H/8.
        """
        paths, share = None, self.global_share
        if self.training:
            columns = len(self.blocks[0].columns)  # type: ignore[arg-type]
            if not isinstance(x, torch.fx.Proxy) and not torch.compiler.is_compiling():
                column, share = int(sample_column(columns, share)), 0.0
                if column >= 0:
                    return self._column_features(x, column)
            paths = sample_paths(x, len(self.blocks), columns, self.drop_path, share)
        x = self.first(x)
        for i, block in enumerate(self.blocks):
            x = block(x, None if paths is None else paths[i])  # halves height and width
        return x

    def _column_features(self, x: torch.Tensor, index: int) -> torch.Tensor:
        layers = self.column(index)[:-3]
        used = {id(parameter) for parameter in layers.parameters()}
        unused = [p for block in self.blocks for p in block.parameters() if id(p) not in used]
        return ZeroGradients.apply(layers(x), *unused)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(N, num_features, h, w) -> (N, num_classes)."""
        x = torch.flatten(self.avgpool(x), 1)
        return x if pre_logits else self.fc(x)

    def column(self, index: int) -> nn.Sequential:
        """One column as a plain network: (N, C, H, W) -> (N, num_classes). 0 is the shallowest, -1 the deepest.

        It computes what this network computes when global drop-path samples the column. The layers are shared with
        this network, not copied.
        """
        layers = [layer for block in self.blocks for layer in block.column(index)]  # type: ignore[operator]
        plain = nn.Sequential(self.first, *layers, self.avgpool, nn.Flatten(), self.fc)
        plain.training = self.training  # set without train(), which would change the mode of the shared layers too
        return plain


def imagenet_fractalnet(
    columns: int,
    widths: Sequence[int],
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    stem: str = "native",
    dropout: float | Sequence[float] = 0.0,
    drop_path: float = 0.15,
    global_share: float = 0.5,
) -> FractalNet:
    """A FractalNet between the first and last layers of ResNet-34; `stem="small"`: its small variant."""
    first = Unit(in_channels, 64)
    if stem == "native":
        first.conv = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        first.add_module("pool", nn.MaxPool2d(3, stride=2, padding=1))
    return FractalNet(
        columns,
        widths,
        num_classes=num_classes,
        in_channels=64,
        dropout=dropout,
        drop_path=drop_path,
        global_share=global_share,
        first=first,
        pool_last=False,
    )


for name, columns, parameters, multiply_accumulates, accuracy in (
    (
        "fractalnet20",
        3,
        33_724_618,
        845_222_912,
        Accuracy(0.9540, None, "the paper's Table 1, CIFAR-10+, with drop-path and dropout, all columns"),
    ),
    ("fractalnet40", 4, 76_106_634, 2_036_077_568, None),
):
    register(
        Info(
            name=name,
            family="fractalnet",
            paper=PAPER,
            parameters=parameters,
            multiply_accumulates=multiply_accumulates,
            num_classes=10,
            input_size=32,
            min_size=32,
            accuracy=accuracy,
        ),
        FractalNet,
        columns=columns,
        widths=(64, 128, 256, 512, 512),
    )

register(
    Info(
        name="fractalnet34",
        family="fractalnet",
        paper=PAPER,
        parameters=164_031_016,
        min_size=29,
        small_min_size=8,
        accuracy=Accuracy(0.7588, 0.9261, "the paper's Table 2, ImageNet val, ten crops"),
    ),
    imagenet_fractalnet,
    columns=4,
    widths=(128, 256, 512, 1024),
)
