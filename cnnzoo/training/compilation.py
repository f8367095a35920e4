"""`compile=...`: the network as torch.compile builds it, for batches of one size."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnnzoo.data.datamodule import DataModule

MAX_GRAPHS = 32
"""With `data.start_size`, each image size has a graph of its own. If there are more, the network runs as it is."""


def compile_network(net: nn.Module, mode: bool | str, data: DataModule, *, with_aux: bool = False) -> None:
    """Compile `net` in place, with `forward_with_aux` if `with_aux`.

    mode: torch.compile's mode; True is its default one.

    Batches of `data.batch_size` images run compiled, all others as they are: an evaluation ends with a smaller batch,
    and compiling for its size as well would take longer than it saves.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_GRAPHS)
    options: dict[str, Any] = {"mode": "default" if mode is True else mode, "dynamic": False}
    net.compile(**options)
    assert net._compiled_call_impl is not None
    net._compiled_call_impl = _for_full_batches(net._compiled_call_impl, net._call_impl, data)
    if with_aux:
        forward: Any = net.forward_with_aux
        compiled = torch.compile(forward, **options)
        net.forward_with_aux = _for_full_batches(compiled, forward, data)  # type: ignore[assignment]


def _for_full_batches(compiled: Callable[..., Any], eager: Callable[..., Any], data: DataModule) -> Callable[..., Any]:
    """`compiled` for batches of `data.batch_size` images, which may still change, and `eager` for others."""

    def call(images: Tensor) -> Any:
        return (compiled if len(images) == data.batch_size else eager)(images)

    return call
