"""Norms of the gradient and the weights."""

from collections.abc import Iterable

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies import FSDPStrategy
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from cnnzoo.callbacks.steps import is_logging_step, log_step


class GradientNorm(Callback):
    """Logs `norm/gradient` and `norm/weight`: the Euclidean norms of all trainable parameters as one vector.

    It runs only at logged steps, reads each parameter twice and never waits for the device. The gradient is the one
    that the optimizer is about to use, before clipping: over all accumulated batches and all ranks, and unscaled under
    float16. A float16 step that the gradient scaler skips shows as infinite or NaN.

    With sharded parameters (`trainer.strategy=fsdp`), squares are summed over the ranks. A hybrid sharding strategy
    counts each replica as a shard, which makes the norms too large by the square root of the number of replicas.
    """

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if not is_logging_step(trainer):
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = (p.grad for p in parameters if p.grad is not None)
        norms = {
            "norm/gradient": _total_norm(gradients, trainer, pl_module.device),
            "norm/weight": _total_norm((p.detach() for p in parameters), trainer, pl_module.device),
        }
        log_step(pl_module, norms)


def _total_norm(tensors: Iterable[Tensor], trainer: Trainer, device: torch.device) -> Tensor:
    """The norm over all ranks, as a scalar tensor on `device`."""
    total = get_total_norm(tensors)
    if hasattr(total, "full_tensor"):  # a DTensor, which sums over its shards; importing its class takes long
        return total.full_tensor()
    total = total.to(device)  # without any tensors, get_total_norm returns a CPU tensor
    if isinstance(trainer.strategy, FSDPStrategy):
        return trainer.strategy.reduce(total.square(), reduce_op="sum").sqrt()
    return total
