"""Which layers FSDP (fully sharded data parallelism, Zhao et al., 2023, arXiv 2304.11277) shards by themselves."""

from torch import nn

LARGE = 1_000_000
"""Parameters of a layer that is gathered when it is used and not before; smaller ones are gathered together."""


def large_layers(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """A policy for `auto_wrap_policy`: convolutions and linear layers with `LARGE` parameters or more.

    The network itself is never among them, as some of its methods besides `forward` are called, too.
    """
    return recurse or (isinstance(module, nn.Conv2d | nn.Linear) and nonwrapped_numel >= LARGE)
