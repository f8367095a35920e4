"""Fully sharded data parallelism (Zhao et al., 2023, arXiv 2304.11277) with torch's `fully_shard`.

Each rank holds a part of the weights, gradients and optimizer state; a layer's weights are gathered when the layer is
used. Weights keep their shapes and checkpoints hold full weights, so the rest of the code does not depend on sharding.
"""

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

MIN_LAYER_PARAMETERS = 1_000_000
"""Layers with at least so many parameters are gathered one by one; all smaller ones are gathered together."""


class FullyShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for `fully_shard` over all ranks, with each checkpoint in one file."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **arguments)

    def setup_environment(self) -> None:
        # Shard over all ranks, whose number is known only here; Lightning's default is the number of machines.
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def shard_network(net: nn.Module, mesh: Any) -> None:
    """Shard `net` in place over the device mesh; a network that is sharded already stays as it is.

    Each convolution and linear layer with at least `MIN_LAYER_PARAMETERS` is a unit of its own, the rest is one unit.
    """
    if isinstance(net, FSDPModule):
        return
    net.to(memory_format=torch.contiguous_format)  # fully_shard requires it of weights; images stay channels-last
    for layer in net.modules():
        if (
            isinstance(layer, nn.Conv2d | nn.Linear)
            and sum(p.numel() for p in layer.parameters()) >= MIN_LAYER_PARAMETERS
        ):
            fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    if hasattr(net, "forward_with_aux"):
        register_fsdp_forward_method(net, "forward_with_aux")


def shard_state_dict(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Full weights, sharded as those of `module` are. All ranks must call it."""
    sharded = module.state_dict()
    return {name: _shard_like(sharded.get(name), value) for name, value in state.items()}


def _shard_like(sharded: Tensor | None, value: Tensor) -> Tensor:
    if not isinstance(sharded, DTensor):
        return value
    return distribute_tensor(value.to(sharded.device_mesh.device_type), sharded.device_mesh, sharded.placements)
