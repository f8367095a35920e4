"""Fully sharded data parallelism (Zhao et al., 2023, arXiv 2304.11277), in torch's second form, `fully_shard`.

Each process holds its share of the weights, gradients and optimizer state; a layer is gathered when it is used. Weights
keep their shapes, and checkpoints are whole, so that nothing else knows of it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

MIN_LAYER_PARAMETERS = 1_000_000
"""Parameters of a layer that is gathered by itself; smaller ones are gathered together."""


class FullyShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for `fully_shard` over all processes, with one file for a checkpoint."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **arguments)

    def setup_environment(self) -> None:
        """Form the process group and the mesh, now that it is known how many processes there are."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def shard_network(net: nn.Module, mesh: Any) -> None:
    """Shard the network over the mesh, once: its large convolutions and linear layers each, the rest together."""
    if isinstance(net, FSDPModule):
        return
    net.to(memory_format=torch.contiguous_format)  # it shards no other; the images keep theirs
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
    """Whole weights, cut as the module's own are. All ranks call it."""
    own = module.state_dict()
    return {name: _shard_like(own.get(name), value) for name, value in state.items()}


def _shard_like(own: Tensor | None, value: Tensor) -> Tensor:
    if not isinstance(own, DTensor):
        return value
    return distribute_tensor(value.to(own.device_mesh.device_type), own.device_mesh, own.placements)
