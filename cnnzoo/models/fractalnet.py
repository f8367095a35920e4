"""FractalNet, after "FractalNet: Ultra-Deep Neural Networks without Residuals" (Larsson et al., 2016, 1605.07648).

Figure 1 and section 4. A net of B blocks and C columns has B * 2^(C-1) layers on its longest path: `fractalnet20` has
five blocks of three columns, `fractalnet40` five of four. As in the authors' generator (gustavla/fractalnet), a unit is
convolution, dropout, batch norm, rectifier, and at the end of a block every column is pooled before they are joined.

Departures: convolutions have no bias and batch norm has scale and shift, where the authors' Caffe has it the other way
round; batch norm is one for all paths, where the authors' generator gives the columns of global drop-path their own;
the last map is averaged, so that images larger than 32 x 32 fit (at 32 it is 1 x 1 already).

What local drop-path drops is computed and has weight 0 in the join; under global drop-path one column alone is
computed, which saves the others' time, and the parameters of the others get gradients of zero, so that weight decay and
momentum go on and ranks that draw differently still agree. A traced or compiled training graph has no branches: there
every column is computed, the same in all but time and batch norm's running statistics.

`fractalnet34` is a reconstruction: the paper says four blocks of four columns with 128, 256, 512 and 1024 maps, and the
first and last layers of ResNet-34, and prints no number of parameters. Here the columns of the first three blocks are
pooled, and those of the fourth are joined as they are, for the average pool that follows. The paper gives it no dropout
rates: it has none. Its small form replaces the first layers by a 3 x 3 unit of stride 1, as the field does for 32 x 32.
"""

from collections.abc import Sequence

import torch
from torch import nn

from cnnzoo.errors import UserError
from cnnzoo.models.layers import Dropped
from cnnzoo.models.registry import Accuracy, Info, Paper, register

PAPER = Paper("FractalNet: Ultra-Deep Neural Networks without Residuals", 2016, "1605.07648")


def ends(columns: int) -> list[list[int]]:
    """The columns, 0 the shallowest, of which a unit ends at each step of a block; those that end together are joined.

    `ends(3)` is [[2], [1, 2], [2], [0, 1, 2]]: column c has 2^c units, of 2^(columns - 1 - c) steps each.
    """
    steps = range(1, 2 ** (columns - 1) + 1)
    return [[c for c in range(columns) if step % 2 ** (columns - 1 - c) == 0] for step in steps]


def draw_column(columns: int, global_share: float) -> torch.Tensor:
    """The column of global drop-path for one mini-batch, () int64 on the CPU; -1: this one is under local drop-path."""
    drawn = torch.randint(columns, (), device="cpu")
    return torch.where(torch.rand((), device="cpu") < global_share, drawn, -1)


@torch.fx.wrap  # the draw belongs into the graph, not its outcome on the day of tracing
def draw_paths(like: torch.Tensor, blocks: int, columns: int, drop_path: float, global_share: float) -> torch.Tensor:
    """Drop-path for one mini-batch (section 3.1): what each column weighs in each join, (blocks, steps, columns).

    Local: every join drops each input with probability `drop_path`; one that would lose all keeps one at random.
    Global, for a `global_share` of the mini-batches: one column, drawn for the whole network, is all that counts; the
    joins that it does not take part in, whose outputs go nowhere, stay local. The weights of a join sum to 1.
    """
    joined = torch.tensor([[c in together for c in range(columns)] for together in ends(columns)], device="cpu")
    luck = torch.rand(blocks, *joined.shape, device="cpu").masked_fill(~joined, -1.0)
    kept = (luck >= drop_path) & joined | (luck == luck.amax(-1, keepdim=True))  # the luckiest always survives
    only = joined & (torch.arange(columns, device="cpu") == draw_column(columns, global_share))
    kept = torch.where(only.any(-1, keepdim=True), only, kept)
    return (kept / kept.sum(-1, keepdim=True)).to(like.device)


def join(inputs: Sequence[torch.Tensor], weights: Sequence[torch.Tensor] | None) -> torch.Tensor:
    """The mean of (N, C, H, W) inputs, or their sum with 0-dimensional weights: -> (N, C, H, W)."""
    if weights is None:
        return sum(inputs[1:], inputs[0]) / len(inputs)
    weighted = [x * weight for x, weight in zip(inputs, weights, strict=True)]
    return sum(weighted[1:], weighted[0])


class Unit(nn.Sequential):
    """(N, in, H, W) -> (N, out, H, W): what the paper calls a convolutional layer."""

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)


class FractalBlock(nn.Module):
    """(N, in, H, W) -> (N, width, H/2, W/2), Figure 1 left; (N, width, H, W) where nothing is pooled."""

    def __init__(self, in_channels: int, width: int, columns: int, *, dropout: float, pool: bool) -> None:
        super().__init__()
        self.ends = ends(columns)
        self.columns = nn.ModuleList(
            nn.ModuleList(Unit(width if i else in_channels, width, dropout=dropout) for i in range(2**c))
            for c in range(columns)
        )
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()

    def forward(self, x: torch.Tensor, paths: torch.Tensor | None = None) -> torch.Tensor:
        """`paths`: the weights of the columns in each join, (steps, columns); None: all alike."""
        now = [x] * len(self.columns)  # what the next unit of each column is given
        done = [0] * len(self.columns)
        for step, together in enumerate(self.ends):
            for c in together:
                now[c] = self.columns[c][done[c]](now[c])  # type: ignore[index]
                done[c] += 1
            if step == len(self.ends) - 1:
                now = [self.pool(out) for out in now]
            if len(together) > 1:
                weights = None if paths is None else [paths[step, c] for c in together]
                out = join([now[c] for c in together], weights)
                for c in together:
                    now[c] = out
        return now[-1]

    def column(self, index: int) -> list[nn.Module]:
        """The units of one column and the pool."""
        return [*self.columns[index].children(), self.pool]


class FractalNet(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes).

    columns: C. widths: maps of each block. dropout: its rate in each block, or one for all. drop_path: the probability
    with which local drop-path drops an input of a join. global_share: the share of the mini-batches that are under
    global drop-path instead. first: layers before the first block, for which `in_channels` come out of them.
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
        for argument, share in (("drop_path", drop_path), ("global_share", global_share)):
            if not 0 <= share <= 1:
                raise UserError(f"{argument}={share}: expected 0 to 1")
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
        """(N, in_channels, H, W) -> (N, num_features, H/32, W/32), the last feature map; fractalnet34's small: H/8."""
        paths, share = None, self.global_share
        if self.training:
            columns = len(self.blocks[0].columns)  # type: ignore[arg-type]
            if not isinstance(x, torch.fx.Proxy) and not torch.compiler.is_compiling():
                column, share = int(draw_column(columns, share)), 0.0
                if column >= 0:
                    return self._column_features(x, column)
            paths = draw_paths(x, len(self.blocks), columns, self.drop_path, share)
        x = self.first(x)
        for i, block in enumerate(self.blocks):
            x = block(x, None if paths is None else paths[i])  # half the sides of the one before
        return x

    def _column_features(self, x: torch.Tensor, index: int) -> torch.Tensor:
        layers = self.column(index)[:-3]
        used = {id(parameter) for parameter in layers.parameters()}
        unused = [p for block in self.blocks for p in block.parameters() if id(p) not in used]
        return Dropped.apply(layers(x), *unused)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.avgpool(self.forward_features(x))
        return self.fc(torch.flatten(x, 1))

    def column(self, index: int) -> nn.Sequential:
        """One column, 0 the shallowest and -1 the deepest, as a plain network: (N, C, H, W) -> (N, num_classes).

        It computes what this network does where global drop-path has chosen the column. The layers are this network's
        own, not copies: training either changes both.
        """
        layers = [layer for block in self.blocks for layer in block.column(index)]  # type: ignore[operator]
        plain = nn.Sequential(self.first, *layers, self.avgpool, nn.Flatten(), self.fc)
        plain.training = self.training  # the layers' own flags, of frozen batch norm say, stay as they are
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
    """A FractalNet between the first and last layers of ResNet-34; `stem="small"`: its small form."""
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
