"""How many floating-point operations a training step has, and how many per second a device reaches at best."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from cnnzoo.benchmark.timing import repeat, time_call, warm_up

MATRIX_SIZES = {"gpu": (4096, 8192), "cpu": (1024, 2048)}
"""Rows of the square matrices that are multiplied; the best result counts."""
COUNTED_IMAGES = 2  # batch norm refuses a single value per channel


def training_flops(
    build: Callable[[], Any], image_shape: Sequence[int], *, with_aux: bool = False, device: str = "meta"
) -> float:
    """Floating-point operations of the forward and the backward pass for one image (C, H, W).

    An addition and a multiplication are two operations. Convolutions and linear layers are counted.

    build: builds the network.
    with_aux: whether its auxiliary heads are trained too.
    device: where the passes run. On the meta device nothing is computed, but a network cannot read values there.
    """
    with torch.device(device):
        net, images = build().train(), torch.empty((COUNTED_IMAGES, *image_shape))
    counter = FlopCounterMode(display=False)
    with counter:
        logits, aux_logits = net.forward_with_aux(images) if with_aux else (net(images), [])
        sum(output.sum() for output in (logits, *aux_logits)).backward()
    return counter.get_total_flops() / COUNTED_IMAGES


def measured_peak(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """Floating-point operations per second of the product of two large square matrices.

    Float32 products use TF32 as set in torch. `seconds` is the time for each size of matrices.
    """
    rates = []
    for size in MATRIX_SIZES["cpu" if device.type == "cpu" else "gpu"]:
        a, b = (torch.randn((size, size), device=device, dtype=dtype) for _ in range(2))
        multiply = partial(torch.mm, a, b)
        warm_up(multiply, seconds)
        rates.append(2 * size**3 / median(repeat(partial(time_call, multiply, device), seconds)))
    return max(rates)
