"""What three families or more share."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def local_response_norm() -> nn.LocalResponseNorm:
    """Local response normalization with AlexNet's constants (section 3.3): (N, C, H, W) -> (N, C, H, W).

    PyTorch divides alpha by the size of the window, as the author's code does and the printed formula does not.
    """
    return nn.LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=2.0)


class ZeroPadding(nn.Module):
    """(N, in, H, W) -> (N, out, H/stride, W/stride): every stride-th pixel, and zeros for the channels after `in`.

    Option A of the ResNets: a shortcut without parameters.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.more = out_channels - in_channels
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


def init_rectifier(net: nn.Module) -> None:
    """Draw every convolution and linear layer from N(0, 2 / fan_in), biases zero (He et al., arXiv 1502.01852).

    It keeps the signal's variance through any number of rectified layers, so a network without batch norm starts to
    learn at once; with the N(0, 0.01) of the early papers it may sit still for many epochs.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Dropped(torch.autograd.Function):
    """The first argument; the others, parameters of layers that chance has left out, get a gradient of zero."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*parameters)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        needed = zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        return gradients[0], *(torch.zeros_like(parameter) if needs else None for parameter, needs in needed)


def up_to_last(layers: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """What the last of `layers` is given: (N, in) -> (N, last.in_features)."""
    for layer in layers[:-1]:
        x = layer(x)
    return x
