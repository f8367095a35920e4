"""`gradient_checkpointing=true`: activations are recomputed in the backward pass, not kept (Chen et al. 2016)."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from cnnzoo.errors import UserError

MIN_STRETCH = 4  # layers, such as convolution, dropout, normalization and activation


def checkpoint_gradients(net: nn.Module) -> None:
    """Make each block of `net` keep only its input in training, and compute the rest again in the backward pass.

    Gradients and the running statistics of batch norm stay the same. A block is a module with several layers, such as a
    residual block, or a stretch of a plain sequence of layers, of which N are cut into about sqrt(N) stretches.

    Raises UserError if the network has no blocks.
    """
    blocks = list(_blocks(net))
    if not blocks:
        raise UserError(
            f"gradient_checkpointing=true: {type(net).__name__} has no blocks, only single layers; leave it out"
        )
    for block in blocks:
        if isinstance(block, nn.Sequential) and _is_plain(block):
            _checkpoint_sequence(block)
        else:
            _checkpoint_module(block)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The largest modules below `module` that are not containers of other blocks."""
    for child in module.children():
        layers = [layer for layer in child.modules() if not list(layer.children())]
        if len(layers) < 2 or not any(True for _ in child.parameters()):
            continue
        is_container = isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict) and not _is_plain(child)
        if is_container or hasattr(child, "column"):  # FractalNet also runs a single column of a block
            yield from _blocks(child)
        else:
            yield child


def _is_plain(module: nn.Module) -> bool:
    """Whether all children are single layers."""
    return not any(list(child.children()) for child in module.children())


def _checkpoint_module(module: nn.Module) -> None:
    module.forward = _checkpointed(module.forward, module)


def _checkpoint_sequence(sequence: nn.Sequential) -> None:
    layers = list(sequence)
    length = max(MIN_STRETCH, math.ceil(len(layers) / round(math.sqrt(len(layers)))))
    stretches = [nn.Sequential(*layers[start : start + length]) for start in range(0, len(layers), length)]
    functions = [_checkpointed(stretch.forward, stretch) for stretch in stretches]

    def forward(input: Any) -> Any:
        for function in functions:
            input = function(input)
        return input

    sequence.forward = forward  # type: ignore[method-assign]


def _checkpointed(forward: Callable[..., Any], module: nn.Module) -> Callable[..., Any]:
    """`forward` with gradient checkpointing while `module` is in training mode."""
    norms = [layer for layer in module.modules() if isinstance(layer, _NormBase)]

    def call(*args: Any) -> Any:
        if not module.training:
            return forward(*args)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), _frozen(norms)))

    return call


@contextmanager
def _frozen(norms: list[_NormBase]) -> Iterator[None]:
    """Keep the running statistics: the first forward pass has already updated them."""
    saved = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, saved, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
