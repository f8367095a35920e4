"""LeNet-5, after "Gradient-Based Learning Applied to Document Recognition" (LeCun et al., Proc. IEEE, 1998).

Figure 2 and section II.B. The network has one form, for images of 32 x 32.

`lenet5` is what the community calls LeNet-5, and departs from the paper: every C3 map sees all six S2 maps (the
paper's Table I links some), the subsampling S2 and S4 has no parameters, the squashing is a plain tanh, and the
output is linear instead of ten radial basis functions with fixed centres.
"""

import torch
from torch import nn

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
