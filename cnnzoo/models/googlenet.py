"""GoogLeNet, or Inception-v1, after "Going Deeper with Convolutions" (Szegedy et al., 2014, arXiv 1409.4842).

An inception module looks at its input with filters of several sizes side by side, and concatenates what they find. 1 x
1 convolutions reduce the channels before the expensive filters: 22 layers need a twelfth of AlexNet's parameters. Two
auxiliary classifiers pass gradients to the lower layers in training.

Table 1 and Figure 3. `googlenet` equals torchvision's network of that name and loads its weights. It departs from the
paper: batch norm and no biases, no response normalization, 3 x 3 convolutions where the paper has 5 x 5 (a known
mistake, kept for the weights), a 2 x 2 pool before 5a, dropout 0.2 instead of 0.4, auxiliary heads on an adaptive pool.
torchvision's weights expect inputs in [-1, 1]. `transform_input=True`, which is set when they are loaded, converts from
the usual normalization by ImageNet's mean and standard deviation.

`googlenet_paper` is the network of Table 1, with pools that round up and a bias and a ReLU in every convolution. The
paper does not state the constants of the normalization and the initialization; here they are AlexNet's constants and He
initialization. Departures: global pooling, and auxiliary heads that pool their input to 14 x 14 first, which is the
identity for images of 224 pixels and allows images of any size from 31.

The small stem is the common one for 32 x 32 (kuangliu): one 3 x 3 convolution with 192 channels replaces all layers
before 3a, which removes the first two downsamplings. The inception modules stay as above.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from cnnzoo.errors import UserError
from cnnzoo.models.layers import init_kaiming_normal, local_response_norm
from cnnzoo.models.network import Network
from cnnzoo.models.registry import Accuracy, Info, Paper, register

PAPER = Paper("Going Deeper with Convolutions", 2014, "1409.4842")

# (x * std + mean - 0.5) / 0.5 for red, green and blue converts ImageNet's normalization to [-1, 1].
SCALE = (0.229 / 0.5, 0.224 / 0.5, 0.225 / 0.5)
SHIFT = ((0.485 - 0.5) / 0.5, (0.456 - 0.5) / 0.5, (0.406 - 0.5) / 0.5)


class ConvNormReLU(nn.Module):
    """(N, in, H, W) -> (N, out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class ConvReLU(nn.Module):
    """(N, in, H, W) -> (N, out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv(x), inplace=True)


def init_truncated_normal(net: nn.Module) -> None:
    """Initialize all weights from N(0, 0.01), truncated at 2; biases keep PyTorch's default."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.01, a=-2, b=2)


@dataclass(frozen=True)
class Form:
    """The layers in which torchvision's network and the paper's network differ."""

    conv: Callable[..., nn.Module]
    norm: Callable[[], nn.Module]
    """Normalization after the first pool and before the second."""
    kernel_5x5: int
    """Kernel size of the branch that Table 1 calls 5 x 5."""
    pool_4e: int
    """Kernel size of the pool after 4e."""
    aux_pool: Callable[[], nn.Module]
    """(N, C, H, W) -> (N, C, 4, 4)."""
    init: Callable[[nn.Module], None]


TORCHVISION = Form(
    conv=ConvNormReLU,
    norm=nn.Identity,
    kernel_5x5=3,
    pool_4e=2,
    aux_pool=partial(nn.AdaptiveAvgPool2d, 4),
    init=init_truncated_normal,
)
PUBLISHED = Form(
    conv=ConvReLU,
    norm=local_response_norm,
    kernel_5x5=5,
    pool_4e=3,
    aux_pool=lambda: nn.Sequential(nn.AdaptiveAvgPool2d(14), nn.AvgPool2d(5, stride=3)),
    init=init_kaiming_normal,
)


class Inception(nn.Module):
    """(N, in, H, W) -> (N, n1x1 + n3x3 + n5x5 + pool_proj, H, W). The arguments are the columns of Table 1."""

    def __init__(
        self,
        in_channels: int,
        n1x1: int,
        n3x3_reduce: int,
        n3x3: int,
        n5x5_reduce: int,
        n5x5: int,
        pool_proj: int,
        *,
        form: Form = TORCHVISION,
    ) -> None:
        super().__init__()
        conv = form.conv
        self.branch1 = conv(in_channels, n1x1, 1)
        self.branch2 = nn.Sequential(conv(in_channels, n3x3_reduce, 1), conv(n3x3_reduce, n3x3, 3))
        self.branch3 = nn.Sequential(conv(in_channels, n5x5_reduce, 1), conv(n5x5_reduce, n5x5, form.kernel_5x5))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), conv(in_channels, pool_proj, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class AuxiliaryHead(nn.Module):
    """(N, in, H, W) -> (N, num_classes), attached in the middle of the network (section 5)."""

    def __init__(self, in_channels: int, num_classes: int, *, dropout: float, form: Form) -> None:
        super().__init__()
        self.pool = form.aux_pool()
        self.conv = form.conv(in_channels, 128, 1)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.fc2 = nn.Linear(1024, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(self.pool(x))  # (N, 128, 4, 4)
        x = F.relu(self.fc1(torch.flatten(x, 1)), inplace=True)
        return self.fc2(self.dropout(x))


class GoogLeNet(Network):
    """(N, in_channels, H, W) -> (N, num_classes). The comments show shapes for images of 224 pixels."""

    num_features = 1024

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        form: Form = TORCHVISION,
        stem: str = "native",
        aux_logits: bool = False,
        transform_input: bool = False,
        dropout: float = 0.2,
        aux_dropout: float = 0.7,
    ) -> None:
        super().__init__()
        if transform_input and in_channels != 3:
            raise UserError(f"transform_input=True needs in_channels=3 (red, green, blue), not {in_channels}")
        self.transform_input = transform_input
        inception = partial(Inception, form=form)
        if stem == "small":
            self.conv1 = form.conv(in_channels, 192, 3)
        else:
            self.conv1 = form.conv(in_channels, 64, 7, stride=2)
            self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
            self.norm1 = form.norm()
            self.conv2 = form.conv(64, 64, 1)
            self.conv3 = form.conv(64, 192, 3)
            self.norm2 = form.norm()
            self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.small = stem == "small"

        self.inception3a = inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = inception(256, 128, 128, 192, 32, 96, 64)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = inception(528, 256, 160, 320, 32, 128, 128)
        self.maxpool4 = nn.MaxPool2d(form.pool_4e, stride=2, ceil_mode=True)
        self.inception5a = inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = inception(832, 384, 192, 384, 48, 128, 128)
        auxiliary = partial(AuxiliaryHead, num_classes=num_classes, dropout=aux_dropout, form=form)
        self.aux1 = auxiliary(512) if aux_logits else None
        self.aux2 = auxiliary(528) if aux_logits else None
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.num_features, num_classes)
        form.init(self)

    def _trunk(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(N, in_channels, H, W) -> the feature maps after 4a, 4d and 5b."""
        if self.transform_input:
            # One channel at a time with Python numbers, so that no tensor has to be copied to the device.
            x = torch.cat([x[:, i : i + 1] * SCALE[i] + SHIFT[i] for i in range(3)], 1)
        x = self.conv1(x)  # (N, 64, 112, 112); small: (N, 192, 28, 28) for an image of 28
        if not self.small:
            x = self.norm1(self.maxpool1(x))  # (N, 64, 56, 56)
            x = self.conv2(x)  # (N, 64, 56, 56)
            x = self.norm2(self.conv3(x))  # (N, 192, 56, 56)
            x = self.maxpool2(x)  # (N, 192, 28, 28)
        x = self.inception3a(x)  # (N, 256, 28, 28)
        x = self.inception3b(x)  # (N, 480, 28, 28)
        x = self.maxpool3(x)  # (N, 480, 14, 14)
        after_4a = self.inception4a(x)  # (N, 512, 14, 14)
        x = self.inception4b(after_4a)  # (N, 512, 14, 14)
        x = self.inception4c(x)  # (N, 512, 14, 14)
        after_4d = self.inception4d(x)  # (N, 528, 14, 14)
        x = self.inception4e(after_4d)  # (N, 832, 14, 14)
        x = self.maxpool4(x)  # (N, 832, 7, 7)
        x = self.inception5a(x)  # (N, 832, 7, 7)
        x = self.inception5b(x)  # (N, 1024, 7, 7)
        return after_4a, after_4d, x

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) -> (N, 1024, H/32, W/32), the last feature map; small: H/4."""
        return self._trunk(x)[-1]

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(N, 1024, h, w) -> (N, num_classes)."""
        x = self.dropout(torch.flatten(self.avgpool(x), 1))
        return x if pre_logits else self.fc(x)

    def forward_with_aux(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(N, in_channels, H, W) -> logits, and the logits of the auxiliary heads after 4a and 4d.

        The list is empty without `aux_logits=True`.
        """
        after_4a, after_4d, x = self._trunk(x)
        logits = self.forward_head(x)
        if self.aux1 is None or self.aux2 is None:
            return logits, []
        return logits, [self.aux1(after_4a), self.aux2(after_4d)]

    def adapt_pretrained(self, state: dict[str, torch.Tensor], *, published: bool) -> dict[str, torch.Tensor]:
        """Drop the keys of missing auxiliary heads, and fold the input transform into conv1 if it is off.

        Folding is exact except at the image border, where zero padding has a different meaning after the transform.
        """
        if self.aux1 is None:
            state = {key: value for key, value in state.items() if not key.startswith(("aux1.", "aux2."))}
        if published and not self.transform_input:
            weight = state["conv1.conv.weight"]
            shift = (weight.sum((2, 3)) * weight.new_tensor(SHIFT)).sum(1)
            scaled = weight * weight.new_tensor(SCALE).view(1, 3, 1, 1)
            mean = state["conv1.bn.running_mean"] - shift
            state = {**state, "conv1.conv.weight": scaled, "conv1.bn.running_mean": mean}
        return state


register(
    Info(
        name="googlenet",
        family="googlenet",
        paper=PAPER,
        parameters=6_624_904,
        multiply_accumulates=1_498_376_192,
        min_size=15,
        small_min_size=2,
        accuracy=Accuracy(
            0.69778, 0.89530, "torchvision GoogLeNet_Weights.IMAGENET1K_V1, ImageNet val, one crop of 224"
        ),
        torchvision="googlenet",
        weights=("IMAGENET1K_V1",),
    ),
    GoogLeNet,
    pretrained_arguments={"transform_input": True},
)
register(
    Info(
        name="googlenet_paper",
        family="googlenet",
        paper=PAPER,
        parameters=6_998_552,
        multiply_accumulates=1_582_671_872,
        min_size=31,
        small_min_size=4,
        accuracy=Accuracy(
            0.687,
            0.889,
            "the Caffe team's replica, ImageNet val of 2012, one crop of 224 (the paper prints top-5 alone, 0.8993)",
        ),
    ),
    GoogLeNet,
    form=PUBLISHED,
    dropout=0.4,
)
