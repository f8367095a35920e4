"""How large the weights and their gradients are."""

from collections.abc import Iterable

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies import FSDPStrategy
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from cnnzoo.callbacks.steps import is_logging_step


class GradientNorm(Callback):
    """Logs `norm/gradient` and `norm/weight`, the Euclidean norms of all trainable parameters taken as one vector.

    Only at the steps that are logged; it reads each parameter twice then, and waits for nothing. The gradient is the
    one that the optimizer is about to use, before clipping: of all accumulated batches and all ranks, and unscaled
    under float16, where a step that the scaler skips shows as infinite or NaN.

    Where ranks hold parts of each parameter, their squares are added up over the ranks: `trainer.strategy=fsdp` with
    full sharding; with a hybrid strategy, replicas are counted as if they were parts, so that norms are too large by
    the root of their number.
    """

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log both."""
        if not is_logging_step(trainer):
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = (p.grad for p in parameters if p.grad is not None)
        pl_module.log("norm/gradient", _total_norm(gradients, trainer, pl_module.device))
        pl_module.log("norm/weight", _total_norm((p.detach() for p in parameters), trainer, pl_module.device))


def _total_norm(tensors: Iterable[Tensor], trainer: Trainer, device: torch.device) -> Tensor:
    total = get_total_norm(tensors)
    if hasattr(total, "full_tensor"):  # a DTensor, whose module takes long to import: it knows its parts by itself
        return total.full_tensor()
    total = total.to(device)  # of no tensors at all it lies on the CPU
    if isinstance(trainer.strategy, FSDPStrategy):
        return trainer.strategy.reduce(total.square(), reduce_op="sum").sqrt()
    return total
