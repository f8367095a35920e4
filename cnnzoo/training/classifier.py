"""The LightningModule: the training and evaluation steps, their metrics, and the contents of a checkpoint."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision, Precision
from pytorch_lightning.utilities import GradClipAlgorithmType
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.utilities.distributed import gather_all_tensors

from cnnzoo.callbacks.class_report import per_class_report
from cnnzoo.callbacks.steps import PROGRESS_BAR_VALUES, is_logged_step
from cnnzoo.checks import check_number
from cnnzoo.errors import UserError
from cnnzoo.training.lightning_internals import log_row
from cnnzoo.training.losses import Mixing, classification_loss
from cnnzoo.training.metrics import ClassCounts, Mean, class_averages, read_values, topk_correct
from cnnzoo.training.optimizers import build_optimizer, call_factory, check_arguments, update_saved_settings

Batch = tuple[Tensor, Tensor]  # images (N, C, H, W) float, labels (N,) int64; MultilabelClassifier: (N, num_classes)


class Classifier(pl.LightningModule):
    """Trains an image classifier.

    net: `(N, C, H, W) -> (N, num_classes)` logits; needs `forward_with_aux` if `aux_weight` is not 0.
    optimizer: called with the parameter groups.
    scheduler: called with the optimizer, `total_steps` and `steps_per_epoch`; None keeps the learning rate constant.
        Returns a schedule that is updated after every step, or a list as Lightning's `configure_optimizers` does.
    decay_norm_bias, first_layer_lr_ratio: of the optimizer's groups, see `parameter_groups`.
    label_smoothing, class_weights, focal_gamma: of the training loss, see `classification_loss`; label smoothing is
        from 0 up to, but not including, 1.
    mixing: mixes the images of each training batch, see `build_mixing`.
    aux_weight: factor of each auxiliary loss.
    test_time_flip: evaluate the mean of the logits of each image and its mirror image.
    channels_last: store the weights and pass the images in the channels-last memory format.
    topk: the k of each accuracy that is evaluated, logged as `acc<k>`.
    num_classes: if given, `balanced_acc` and `f1` are evaluated too, see `class_averages`.
    metadata: plain values that every checkpoint contains, enough to rebuild the network for inference.

    Every `log_every_n_steps` steps, it logs `train/loss` and `train/acc1` of the step's batch, `lr`, and the values
    that callbacks pass to `log_step`. Only these steps wait for the device, once each. By epoch it logs the means
    `train/loss_epoch` and `train/acc1_epoch`, and `loss` and the accuracies of `topk` under `val/` and `test/`.
    Accuracies are fractions, 0 to 1. For mixed images, `train/acc1` counts the class with the larger share. The losses
    of validation and test are plain cross-entropy.

    `logged_values` are the values of the latest logged step, as numbers. `eval_counts` has for "val" and "test" the
    latest counts of `ClassCounts`.
    """

    task = "multiclass"

    def __init__(
        self,
        net: nn.Module,
        *,
        optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer],
        scheduler: Callable[..., LRScheduler | list[dict[str, Any]]] | None = None,
        decay_norm_bias: bool = False,
        first_layer_lr_ratio: float = 1.0,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        focal_gamma: float = 0.0,
        mixing: Mixing | None = None,
        aux_weight: float = 0.0,
        test_time_flip: bool = False,
        channels_last: bool = True,
        topk: Sequence[int] = (1, 5),
        num_classes: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.net: Any = net.to(memory_format=self.memory_format)
        self.optimizer, self.scheduler = optimizer, scheduler
        self.group_settings: Any = {
            "decay_norm_bias": decay_norm_bias,
            "first_layer_lr_ratio": first_layer_lr_ratio,
        }
        check_arguments("optimizer", optimizer)
        check_arguments("scheduler", scheduler, given=("total_steps", "steps_per_epoch"))
        build_optimizer(optimizer, net, **self.group_settings)  # reports bad values before the data is loaded
        self.label_smoothing = check_number("label_smoothing", label_smoothing, minimum=0, below=1)
        self.class_weights = None if class_weights is None else torch.tensor(class_weights)
        self.focal_gamma = check_number("focal_gamma", focal_gamma, minimum=0)
        self.mixing, self.aux_weight, self.test_time_flip = mixing, aux_weight, test_time_flip
        self.metadata = dict(metadata or {})
        self.logged_values: dict[str, float] = {}
        self.eval_counts: dict[str, list[list[int]]] = {}
        self._step_values: dict[str, Tensor | float] = {}  # of the present step
        self._batch_images = 0  # in the latest training batch
        self._resumed_means: dict[str, list[Tensor]] = {}
        self.train_means: Any = nn.ModuleDict({name: Mean() for name in ("loss", "acc1")})
        self.topk = tuple(topk)
        names = ("loss", *(f"acc{k}" for k in self.topk))
        self.eval_means: Any = nn.ModuleDict(
            {stage: nn.ModuleDict({name: Mean() for name in names}) for stage in ("val", "test")}
        )
        counts = {} if num_classes is None else {stage: ClassCounts(num_classes) for stage in ("val", "test")}
        self.class_counts: Any = nn.ModuleDict(counts)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_classes) logits."""
        return self.net(self._convert(images))

    def _convert(self, images: Tensor) -> Tensor:
        """The images in the network's data type, which is not float32 with `trainer.precision=bf16-true` or 64-true."""
        dtype: Any = self.dtype
        return images.to(dtype=dtype, memory_format=self.memory_format)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        targets = labels
        if self.mixing is not None:
            images, targets = self.mixing(images, labels)
        aux_logits: list[Tensor] = []
        if self.aux_weight:
            logits, aux_logits = self.net.forward_with_aux(self._convert(images))
        else:
            logits = self(images)
        loss = self._loss(logits, targets)
        for aux in aux_logits:
            loss = loss + self.aux_weight * self._loss(aux, targets)
        count = self._batch_images = len(labels)
        # The learning rate changes before the values are read, after the step.
        self._step_values["lr"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        self._step_values["train/loss"] = loss.detach()
        self.train_means["loss"].add(loss.detach(), times=count, images=count)
        self._add_accuracy(logits.detach(), targets)
        self._log_means("train", self.train_means, suffix="_epoch")
        return loss

    def _add_accuracy(self, logits: Tensor, targets: Tensor) -> None:
        """Add the accuracy of a training batch to the means and to the values of the step."""
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        correct = topk_correct(logits, labels, 1).sum()
        self.train_means["acc1"].add(correct, images=len(labels))
        self._step_values["train/acc1"] = correct

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return classification_loss(
            logits,
            targets,
            class_weights=self.class_weights,
            label_smoothing=self.label_smoothing,
            focal_gamma=self.focal_gamma,
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Update the `val/` metrics; returns the logits, which Lightning passes to the callbacks."""
        return self._evaluation_step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Update the `test/` metrics; returns the logits, which Lightning passes to the callbacks."""
        return self._evaluation_step(batch, "test")

    def _evaluation_step(self, batch: Batch, stage: str) -> Tensor:
        images, labels = batch
        logits = self(images)
        if self.test_time_flip:
            logits = (logits + self(images.flip(-1))) / 2
        self._add_evaluated(stage, logits, labels)
        return logits

    def _add_evaluated(self, stage: str, logits: Tensor, labels: Tensor) -> None:
        """Add a batch to the metrics of an evaluation."""
        count, means = len(labels), self.eval_means[stage]
        if stage in self.class_counts:
            self.class_counts[stage].add(logits.argmax(1), labels)
        means["loss"].add(F.cross_entropy(logits, labels), times=count, images=count)
        for k in self.topk:
            means[f"acc{k}"].add(topk_correct(logits, labels, k).sum(), images=count)
        self._log_means(stage, means, prog_bar="acc1" if stage == "val" else None)

    def _log_means(self, stage: str, means: Any, *, suffix: str = "", prog_bar: str | None = None) -> None:
        """In the first step of an epoch, register its means with Lightning, which reads and resets them at its end."""
        if means["loss"].update_called:
            return
        for name, mean in means.items():
            mean.update()
            self.log(f"{stage}/{name}{suffix}", mean, on_step=False, on_epoch=True, prog_bar=name == prog_bar)

    def on_validation_epoch_start(self) -> None:
        self._reset_counts("val")

    def on_validation_epoch_end(self) -> None:
        self._log_class_averages("val")

    def on_test_epoch_start(self) -> None:
        self._reset_counts("test")

    def on_test_epoch_end(self) -> None:
        self._log_class_averages("test")

    def _reset_counts(self, stage: str) -> None:
        if stage in self.class_counts:
            self.class_counts[stage].reset()

    def _log_class_averages(self, stage: str) -> None:
        if stage not in self.class_counts:
            return
        metric = self.class_counts[stage]
        metric.update()
        counts = metric.compute()  # of all ranks
        self.eval_counts[stage] = counts.tolist()
        for name, value in class_averages(counts).items():
            self.log(f"{stage}/{name}", value, sync_dist=self.trainer.world_size > 1)

    def class_reports(self, names: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
        """For "val" and "test", as far as they were evaluated, the figures of each class; `names` are the classes."""
        return {stage: per_class_report(counts, names) for stage, counts in self.eval_counts.items()}

    def restore_validation(self, saved: Mapping[str, Any]) -> None:
        """Take over the validation of a checkpoint, from its entry "cnnzoo"."""
        if saved.get("val_counts"):
            self.eval_counts["val"] = saved["val_counts"]

    def log_step(self, values: Mapping[str, Tensor | float]) -> None:
        """Log values with the present step, if it is a logged one. Callbacks call it at any time within the step."""
        self._step_values.update(values)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Read and log the values of a logged step. Lightning calls it after the callbacks."""
        if is_logged_step(self.trainer):
            values = read_values(self._step_values)
            if "train/acc1" in values:
                values["train/acc1"] /= self._batch_images
            self.logged_values = values
            log_row(self.trainer, values, prog_bar=PROGRESS_BAR_VALUES)
        self._step_values = {}

    def configure_model(self) -> None:
        """Shard the network if the strategy has a device mesh (`trainer=fsdp`)."""
        if self.device_mesh is not None:
            from cnnzoo.runtime.fsdp import shard_network  # here: only that strategy needs it

            shard_network(self.net, self.device_mesh["data_parallel"])

    def load_full_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load an unsharded state dict, also if the network is sharded. All ranks must call it."""
        if self.device_mesh is not None:
            from cnnzoo.runtime.fsdp import shard_state_dict

            state = shard_state_dict(self, state)
        self.load_state_dict(state)

    def configure_optimizers(self) -> Any:
        """Build the optimizer and the learning-rate schedule.

        Raises `UserError` if the number of steps is unknown, or if the optimizer or the scheduler rejects a value.
        """
        optimizer = build_optimizer(self.optimizer, self.net, **self.group_settings)
        if self.scheduler is None:
            return optimizer
        self.trainer.fit_loop.setup_data()  # `estimated_stepping_batches` loads no data if only max_steps is set
        total_steps = self.trainer.estimated_stepping_batches
        if total_steps == float("inf"):
            raise UserError(
                "trainer.max_epochs=-1: the learning-rate schedule needs a number of steps; "
                "set trainer.max_epochs to 1 or more, or set trainer.max_steps"
            )
        batches = self.trainer.num_training_batches
        if batches == float("inf"):
            raise UserError("trainer.limit_train_batches: the training data has no length; type a number of batches")
        schedule = call_factory(
            "scheduler",
            self.scheduler,
            optimizer,
            total_steps=int(total_steps),
            steps_per_epoch=batches / self.trainer.accumulate_grad_batches,
        )
        if isinstance(schedule, LRScheduler):
            schedule = [{"scheduler": schedule, "interval": "step"}]
        return [optimizer], schedule

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients, also for a fused optimizer with mixed precision, which Lightning refuses.

        Lightning refuses it because a fused optimizer unscales the gradients itself. bfloat16 needs no scaling.
        """
        if not gradient_clip_val:
            return
        precision = self.trainer.precision_plugin
        if isinstance(precision, MixedPrecision) and precision.scaler is None:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(precision, optimizer, gradient_clip_val, algorithm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the metadata, the current metrics, and the sums behind the training means of the current epoch.

        All of it is plain types and tensors, so that loading executes no code.
        """
        metrics = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        checkpoint["cnnzoo"] = {**self.metadata, "epochs": self.current_epoch, "metrics": metrics}
        checkpoint["cnnzoo"]["val_counts"] = self.eval_counts.get("val")
        gather = gather_all_tensors if self.trainer.world_size > 1 else lambda state: [state]
        checkpoint["train_means"] = {  # name: [totals, weights], each (world_size,)
            name: [torch.stack(gather(state.clone())).cpu() for state in (mean.total, mean.weight)]
            for name, mean in self.train_means.items()
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._resumed_means = checkpoint["train_means"]
        update_saved_settings(checkpoint, build_optimizer(self.optimizer, self.net, **self.group_settings))

    def on_fit_start(self) -> None:
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(self.device, self.dtype)  # type: ignore[arg-type]

    def on_train_start(self) -> None:
        """Restore the training means of an epoch that a resumed run is in the middle of."""
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        for name, (totals, weights) in self._resumed_means.items():
            mean = self.train_means[name]
            if len(totals) != world_size:  # saved with another number of ranks: rank 0 takes the sums
                totals, weights = (F.pad(state.sum().reshape(1), (0, world_size - 1)) for state in (totals, weights))
            mean.total, mean.weight = totals[rank].to(mean.weight), weights[rank].to(mean.weight)
        self._resumed_means = {}
