"""LeNet-5, after "Gradient-Based Learning Applied to Document Recognition" (LeCun et al., Proc. IEEE, 1998).

Convolutions, whose weights are shared by all positions, alternate with subsampling; fully connected layers follow. All
of it is trained together, from pixels to classes, by gradient descent.

Figure 2 and section II.B. The network takes images of 32 x 32 and has no small variant.

`lenet5` is the network that is commonly called LeNet-5. It departs from the paper: every C3 map is connected to all six
S2 maps (to some of them in the paper's Table I), the subsampling layers S2 and S4 have no parameters, the squashing
function is a plain tanh, and the output layer is linear instead of ten radial basis functions with fixed centres.

`lenet5_paper` is the network of 1998. Its logits are -1/2 of the squared distances of the output units, which makes
cross-entropy equal to the paper's discriminative loss (equation 9, without its constant j). Departures: the bitmaps of
the digits are copied from Figure 3 by eye, classes beyond the ten digits have pseudo-random codes, and images are
normalized by the mean and standard deviation of the data (the paper: background -0.1, ink 1.175).
"""

import hashlib
from itertools import groupby

import torch
from torch import nn
from torch.nn import functional as F

from cnnzoo.models.network import Network
from cnnzoo.models.registry import Accuracy, Info, Paper, register

PAPER = Paper("Gradient-Based Learning Applied to Document Recognition", 1998, None)


class LeNet(Network):
    """(N, in_channels, 32, 32) -> (N, num_classes). The layers have the paper's names."""

    classifier_path = ("output",)
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
        """(N, in_channels, 32, 32) -> (N, 84), the output of F6."""
        x = torch.tanh(self.c1(x))  # (N, 6, 28, 28)
        x = self.s2(x)  # (N, 6, 14, 14)
        x = torch.tanh(self.c3(x))  # (N, 16, 10, 10)
        x = self.s4(x)  # (N, 16, 5, 5)
        x = torch.tanh(self.c5(x))  # (N, 120, 1, 1)
        x = torch.flatten(x, 1)
        return torch.tanh(self.f6(x))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(N, 84) -> (N, num_classes)."""
        return x if pre_logits else self.output(x)


# The S2 maps that each of the 16 C3 maps is connected to (Table I).
CONNECTIONS = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)

# The digits 0 to 9 side by side, 7 x 12 pixels each (Figure 3).
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


def class_codes(num_classes: int) -> torch.Tensor:
    """(num_classes, 84) of -1 and 1: the bitmaps of the digits, then pseudo-random codes that never change."""
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
    """(N, C, H, W) -> (N, C, H/2, W/2): sums of 2 x 2 pixels, times a weight, plus a bias per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = 4 * F.avg_pool2d(x, 2)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class SparseConv(nn.Module):
    """(N, in, H, W) -> (N, len(connections), H - 4, W - 4), a 5 x 5 convolution with a table of connections.

    Output channel i is connected to the input channels `connections[i]`. Adjacent output channels with the same number
    of inputs form one grouped convolution over the gathered inputs, so no weight has to be masked.
    """

    inputs: torch.Tensor

    def __init__(self, connections: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        runs = [list(run) for _, run in groupby(connections, len)]
        self.convs = nn.ModuleList(
            nn.Conv2d(sum(map(len, run)), len(run), kernel_size=5, groups=len(run)) for run in runs
        )
        self.sizes = [sum(map(len, run)) for run in runs]
        self.register_buffer("inputs", torch.tensor(sum(connections, ())), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gathered = x.index_select(1, self.inputs).split(self.sizes, 1)  # (N, 60, H, W)
        return torch.cat([conv(gathered[i]) for i, conv in enumerate(self.convs)], 1)


class RadialBasis(nn.Module):
    """(N, 84) -> (N, num_classes): -1/2 of the squared distance to each class's code (equation 7)."""

    centres: torch.Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("centres", class_codes(num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -0.5 * (x[:, None] - self.centres).square().sum(2)


class LeNetPaper(Network):
    """(N, in_channels, 32, 32) -> (N, num_classes). The layers have the paper's names."""

    classifier_path = ("output",)
    num_features = 84

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(in_channels, 6, kernel_size=5)
        self.s2 = Subsampling(6)
        self.c3 = SparseConv(CONNECTIONS)
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
        """(N, in_channels, 32, 32) -> (N, 84), the output of F6."""
        x = squash(self.c1(x))  # (N, 6, 28, 28)
        x = squash(self.s2(x))  # (N, 6, 14, 14)
        x = squash(self.c3(x))  # (N, 16, 10, 10)
        x = squash(self.s4(x))  # (N, 16, 5, 5)
        x = squash(self.c5(x))  # (N, 120, 1, 1)
        x = torch.flatten(x, 1)
        return squash(self.f6(x))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(N, 84) -> (N, num_classes)."""
        return x if pre_logits else self.output(x)


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
