"""The LightningModule: what a training step is, what is measured, and what a checkpoint holds."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from cnnzoo.errors import UserError

Batch = tuple[Tensor, Tensor]  # images (N, C, H, W) float, labels (N,) int64


class Mean(Metric):
    """A mean over images of all ranks, of whatever comes: torchmetrics' own leaves nan out, and looks for it each time.

    Looking makes a GPU wait.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("weight", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, value: Tensor, images: int) -> None:
        """Add the mean of so many images."""
        self.total += value * images
        self.weight += images

    def compute(self) -> Tensor:
        """The mean."""
        return self.total / self.weight


class Classifier(pl.LightningModule):
    """Trains a network to tell classes apart, with cross-entropy.

    net: `(N, C, H, W) -> (N, num_classes)` logits; with `forward_with_aux` where `aux_weight` is not 0.
    optimizer: takes the parameter groups.
    scheduler: takes the optimizer, `total_steps` and `steps_per_epoch`; None keeps the rate.
    metadata: plain values that every checkpoint carries, enough to rebuild the network for inference.

    Logs `train/loss`, `train/acc1` and `lr` by step, their means over the epoch as `train/loss_epoch` and
    `train/acc1_epoch`, and `val/` and `test/` `loss`, `acc1` and `acc5` by epoch. Accuracies are shares, 0 to 1.
    Losses of validation and test are plain cross-entropy, without label smoothing.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer],
        scheduler: Callable[..., LRScheduler] | None = None,
        label_smoothing: float = 0.0,
        aux_weight: float = 0.0,
        channels_last: bool = True,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing={label_smoothing}: a number from 0 up to but not 1")
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.net: Any = net.to(memory_format=self.memory_format)
        self.optimizer, self.scheduler = optimizer, scheduler
        self.label_smoothing, self.aux_weight = label_smoothing, aux_weight
        self.metadata = dict(metadata or {})
        self._resumed_means: dict[str, list[Tensor]] = {}
        self.train_means: Any = nn.ModuleDict({name: Mean() for name in ("loss", "acc1")})
        self.eval_means: Any = nn.ModuleDict(
            {stage: nn.ModuleDict({name: Mean() for name in ("loss", "acc1", "acc5")}) for stage in ("val", "test")}
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_classes) logits."""
        return self.net(images.contiguous(memory_format=self.memory_format))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch, auxiliary heads included."""
        images, labels = batch
        aux_logits: list[Tensor] = []
        if self.aux_weight:
            images = images.contiguous(memory_format=self.memory_format)
            logits, aux_logits = self.net.forward_with_aux(images)
        else:
            logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        for aux in aux_logits:
            loss = loss + self.aux_weight * F.cross_entropy(aux, labels, label_smoothing=self.label_smoothing)
        acc1 = topk_correct(logits, labels, 1).mean()
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/acc1", acc1, prog_bar=True)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        self.train_means["loss"].update(loss.detach(), len(labels))
        self.train_means["acc1"].update(acc1, len(labels))
        for name, mean in self.train_means.items():
            self.log(f"train/{name}_epoch", mean, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Add one batch to `val/`; returns its logits, which callbacks get."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Add one batch to `test/`; returns its logits, which callbacks get."""
        return self._evaluate(batch, "test")

    def _evaluate(self, batch: Batch, stage: str) -> Tensor:
        images, labels = batch
        logits = self(images)
        means = self.eval_means[stage]
        means["loss"].update(F.cross_entropy(logits, labels), len(labels))
        means["acc1"].update(topk_correct(logits, labels, 1).mean(), len(labels))
        means["acc5"].update(topk_correct(logits, labels, 5).mean(), len(labels))
        for name, mean in means.items():
            self.log(f"{stage}/{name}", mean, on_step=False, on_epoch=True, prog_bar=stage == "val" and name == "acc1")
        return logits

    def configure_model(self) -> None:
        """Shard the network where the trainer's strategy wants that (`trainer=fsdp`)."""
        if self.device_mesh is not None:
            from cnnzoo.runtime.fsdp import shard_network  # here: only that strategy needs it

            shard_network(self.net, self.device_mesh["data_parallel"])

    def load_full_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """`load_state_dict` of whole weights, into shares of them where the network is sharded; all ranks call it."""
        if self.device_mesh is not None:
            from cnnzoo.runtime.fsdp import shard_state_dict

            state = shard_state_dict(self, state)
        self.load_state_dict(state)

    def configure_optimizers(self) -> Any:
        """The optimizer on two groups, weights and the rest, of which only the weights decay; the schedule by step.

        Decaying neither biases nor normalization layers is He et al.'s rule ("conv and fc weights"), and most others'.
        """
        parameters = [p for p in self.net.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = _call_factory("optimizer", self.optimizer, [group for group in groups if group["params"]])
        if self.scheduler is None:
            return optimizer
        total = self.trainer.estimated_stepping_batches
        if total == float("inf"):
            raise UserError("trainer.max_epochs=-1: a schedule needs an end; type a number, or trainer.max_steps=...")
        batches = self.trainer.num_training_batches
        if batches == float("inf"):
            raise UserError("the training data has no length: type trainer.limit_train_batches=...")
        per_epoch = batches / self.trainer.accumulate_grad_batches
        scheduler = _call_factory(
            "scheduler", self.scheduler, optimizer, total_steps=int(total), steps_per_epoch=per_epoch
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what inference needs, the figures of this moment, and the sums behind the means of the present epoch.

        All of it is plain, so that loading runs no code.
        """
        now = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        checkpoint["cnnzoo"] = {**self.metadata, "epochs": self.current_epoch, "metrics": now}
        gather = gather_all_tensors if self.trainer.world_size > 1 else lambda part: [part]
        checkpoint["train_means"] = {  # of each rank, in their order
            name: [torch.stack(gather(part.clone())).cpu() for part in (mean.total, mean.weight)]
            for name, mean in self.train_means.items()
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sums until training starts."""
        self._resumed_means = checkpoint["train_means"]

    def on_train_start(self) -> None:
        """Go on with the means of an epoch that a resumed run is in the middle of."""
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        for name, (totals, weights) in self._resumed_means.items():
            mean = self.train_means[name]
            mean.update(torch.zeros_like(mean.weight), 0)  # or it would say that it was never used
            if len(totals) != ranks:  # as many as there were then: the first has it all
                totals, weights = (F.pad(part.sum().reshape(1), (0, ranks - 1)) for part in (totals, weights))
            mean.total, mean.weight = totals[rank].to(mean.weight), weights[rank].to(mean.weight)
        self._resumed_means = {}


def _call_factory(key: str, factory: Callable[..., Any], *args: Any, **numbers: Any) -> Any:
    """`factory(...)`; what it says of a value that it cannot take becomes a `UserError` with all the values typed."""
    try:
        return factory(*args, **numbers)
    except (TypeError, ValueError) as error:
        typed = ", ".join(f"{key}.{name}={value}" for name, value in getattr(factory, "keywords", {}).items())
        raise UserError(f"{key}: {error} ({typed})") from error


def topk_correct(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """(N, num_classes), (N,) -> (N,) float: 1 where the label is among the `k` largest logits (all, if fewer)."""
    k = min(k, logits.shape[1])
    return (logits.topk(k, dim=1).indices == labels[:, None]).any(dim=1).float()
