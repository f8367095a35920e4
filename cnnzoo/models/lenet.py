"""LeNet-5, after "Gradient-Based Learning Applied to Document Recognition" (LeCun et al., Proc. IEEE, 1998).

Figure 2 and section II.B. The network has one form, for images of 32 x 32.

`lenet5` is what the community calls LeNet-5, and departs from the paper: every C3 map sees all six S2 maps (the
paper's Table I links some), the subsampling S2 and S4 has no parameters, the squashing is a plain tanh, and the
output is linear instead of ten radial basis functions with fixed centres.

`lenet5_paper` is the network of 1998. Its logits are -1/2 of the output units' squared distances, so that the common
cross-entropy is the paper's discriminative loss (equation 9, without its constant j). Departures: the digits' bitmaps
were drawn by eye after Figure 3, classes beyond the ten digits have codes of ours, and images are normalized by the
data's mean and deviation, where the paper has -0.1 for the background and 1.175 for ink.
"""

import hashlib
from itertools import groupby

import torch
from torch import nn
from torch.nn import functional as F

from cnnzoo.models.registry import Accuracy, Info, Paper, register

PAPER = Paper("Gradient-Based Learning Applied to Document Recognition", 1998, None)


class LeNet(nn.Module):
    """(N, in_channels, 32, 32) -> (N, num_classes). The layers carry the paper's names."""

    num_features = 84

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(in_channels, 6, kernel_size=5)
        self.s2 = nn.AvgPool2d(2)
        self.c3 = nn.Conv2d(6, 16, kernel_size=5)
        self.s4 = nn.AvgPool2d(2)
        self.c5 = nn.Conv2d(16, 120, kernel_size=5)
        self.f6 = nn.Linear(120, self.num_features)
        self.output = nn.Linear(self.num_features, num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, 32, 32) -> (N, 84), what F6 says."""
        x = torch.tanh(self.c1(x))  # (N, 6, 28, 28)
        x = self.s2(x)  # (N, 6, 14, 14)
        x = torch.tanh(self.c3(x))  # (N, 16, 10, 10)
        x = self.s4(x)  # (N, 16, 5, 5)
        x = torch.tanh(self.c5(x))  # (N, 120, 1, 1)
        x = torch.flatten(x, 1)
        return torch.tanh(self.f6(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.forward_features(x))


# the S2 maps that each of the 16 C3 maps sees (Table I)
LINKS = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)

# 0 to 9, side by side, 7 x 12 each (Figure 3)
BITMAPS = """
.#####. ...##.. .#####. ####### .#####. .#####. ..####. ####### .#####. .#####.
....... ..###.. ....... .....## ....... ....... .##.... .....## ##...## ##..###
..###.. .####.. .#####. ....##. ....... ####### ##..... .....## ##...## ##...##
.##.##. ...##.. ##...## ...##.. .##..## ##..... ##..... ....##. ##...## ##...##
##...## ...##.. #....## ..####. .##..## ##..... ######. ...##.. .#####. ##..###
##...## ...##.. ....##. .....## ###..## .####.. ###..## ...##.. ##...## .######
##...## ...##.. ..###.. .....## ##...## ..####. ##...## ..##... ##...## .....##
##...## ...##.. .##.... .....## ##...## .....## ##...## ..##... ##...## .....##
.##.##. ...##.. ##..... ##...## ##..### ##...## ###..## ..##... ##...## ....##.
..###.. .###### ####### .#####. .###### .#####. .#####. ..##... .#####. .####..
....... ....... ....... ....... .....## ....... ....... ....... ....... .......
....... ....... ....... ....... .....## ....... ....... ....... ....... .......
"""


def codes(num_classes: int) -> torch.Tensor:
    """(num_classes, 84) of -1 and 1: the digits' bitmaps, then codes as if drawn by lot, but the same at all times."""
    bitmaps = ["".join(rows) for rows in zip(*(line.split() for line in BITMAPS.split("\n") if line), strict=True)]
    ink = [[pixel == "#" for pixel in bitmap] for bitmap in bitmaps[:num_classes]]
    for n in range(len(bitmaps), num_classes):
        digest = hashlib.sha256(f"class {n}".encode()).digest()
        ink.append([byte >> bit & 1 == 1 for byte in digest for bit in range(8)][:84])
    return torch.tensor(ink, dtype=torch.float32) * 2 - 1


def squash(x: torch.Tensor) -> torch.Tensor:
    """Equation 6, whose constants (appendix A) give 1 at 1 and -1 at -1."""
    return 1.7159 * torch.tanh(2 / 3 * x)


class Subsampling(nn.Module):
    """(N, C, H, W) -> (N, C, H/2, W/2): the sum of each 2 x 2, times its map's coefficient, plus its map's bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = 4 * F.avg_pool2d(x, 2)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class LinkedConv(nn.Module):
    """(N, in, H, W) -> (N, len(links), H - 4, W - 4): a 5 x 5 convolution whose maps see those maps that `links` names.

    Neighbours that see equally many are one grouped convolution over the gathered inputs: no weight is masked.
    """

    inputs: torch.Tensor

    def __init__(self, links: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        runs = [list(run) for _, run in groupby(links, len)]
        self.convs = nn.ModuleList(
            nn.Conv2d(sum(map(len, run)), len(run), kernel_size=5, groups=len(run)) for run in runs
        )
        self.sizes = [sum(map(len, run)) for run in runs]
        self.register_buffer("inputs", torch.tensor(sum(links, ())), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gathered = x.index_select(1, self.inputs).split(self.sizes, 1)  # (N, 60, H, W)
        return torch.cat([conv(gathered[i]) for i, conv in enumerate(self.convs)], 1)


class RadialBasis(nn.Module):
    """(N, 84) -> (N, num_classes): -1/2 of the squared distance to each class's code (equation 7)."""

    centres: torch.Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("centres", codes(num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -0.5 * (x[:, None] - self.centres).square().sum(2)


class LeNetPaper(nn.Module):
    """(N, in_channels, 32, 32) -> (N, num_classes). The layers carry the paper's names."""

    num_features = 84

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(in_channels, 6, kernel_size=5)
        self.s2 = Subsampling(6)
        self.c3 = LinkedConv(LINKS)
        self.s4 = Subsampling(16)
        self.c5 = nn.Conv2d(16, 120, kernel_size=5)
        self.f6 = nn.Linear(120, self.num_features)
        self.output = RadialBasis(num_classes)

        for module in self.modules():  # appendix A
            if isinstance(module, nn.Conv2d | nn.Linear | Subsampling):
                fan_in = 4 if isinstance(module, Subsampling) else module.weight[0].numel()
                for parameter in module.parameters():
                    nn.init.uniform_(parameter, -2.4 / fan_in, 2.4 / fan_in)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, 32, 32) -> (N, 84), what F6 says."""
        x = squash(self.c1(x))  # (N, 6, 28, 28)
        x = squash(self.s2(x))  # (N, 6, 14, 14)
        x = squash(self.c3(x))  # (N, 16, 10, 10)
        x = squash(self.s4(x))  # (N, 16, 5, 5)
        x = squash(self.c5(x))  # (N, 120, 1, 1)
        x = torch.flatten(x, 1)
        return squash(self.f6(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.forward_features(x))


register(
    Info(
        name="lenet5",
        family="lenet",
        paper=PAPER,
        parameters=61_706,
        multiply_accumulates=416_520,
        num_classes=10,
        in_channels=1,
        input_size=32,
        min_size=32,
        max_size=32,
        accuracy=Accuracy(0.9905, None, "the paper's own form on MNIST, without distortions"),
    ),
    LeNet,
)

register(
    Info(
        name="lenet5_paper",
        family="lenet",
        paper=PAPER,
        parameters=60_000,
        num_classes=10,
        in_channels=1,
        input_size=32,
        min_size=32,
        max_size=32,
        accuracy=Accuracy(0.9905, None, "the paper's section III.B, MNIST test, trained without distortions"),
    ),
    LeNetPaper,
)
