"""Layers and initializations that at least three families share."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def local_response_norm() -> nn.LocalResponseNorm:
    """Local response normalization with AlexNet's constants (section 3.3): (N, C, H, W) -> (N, C, H, W).

    PyTorch divides alpha by the window size, as the author's code does. The printed formula does not.
    """
    return nn.LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=2.0)


class ZeroPadding(nn.Module):
    """(N, in, H, W) -> (N, out, H/stride, W/stride): every stride-th pixel, padded with channels of zeros.

    Option A of the ResNets, a shortcut without parameters.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.extra_channels = out_channels - in_channels
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra_channels))


def init_kaiming_normal(net: nn.Module) -> None:
    """Initialize convolutions and linear layers from N(0, 2 / fan_in) with zero biases (He et al., arXiv 1502.01852).

    This keeps the variance of the signal through any number of ReLU layers, so a network without batch norm learns from
    the first step. With N(0, 0.01), as in the early papers, the loss may not fall for many epochs.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class ZeroGradients(torch.autograd.Function):
    """Returns `x` unchanged and gives `parameters`, those of layers skipped in this step, a gradient of zero."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*parameters)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        parameters = zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        return gradients[0], *(torch.zeros_like(p) if needs_grad else None for p, needs_grad in parameters)


def apply_all_but_last(layers: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """Apply all `layers` but the last: (N, in) -> (N, layers[-1].in_features)."""
    for layer in layers[:-1]:
        x = layer(x)
    return x
