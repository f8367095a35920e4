"""The LightningModule of multi-label classification."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from cnnzoo.training.classifier import Classifier
from cnnzoo.training.metrics import Mean
from cnnzoo.training.multilabel import (
    DEFAULT_THRESHOLD,
    ClassScores,
    MultilabelOutputs,
    multilabel_loss,
    score_classes,
)


class MultilabelClassifier(Classifier):
    """Trains a network that predicts any number of classes for each image.

    net: `(N, C, H, W) -> (N, num_classes)` logits; the probability of a class is their sigmoid.
    num_classes: of the network.
    thresholds: from which probability on an image is predicted to belong to each class; None: 0.5, until the first
        validation of a training. Each validation chooses those with the largest F1, and checkpoints contain them.
    arguments: as for `Classifier`, with `multilabel_loss` instead of `classification_loss`.

    It logs `train/loss`, `train/loss_epoch`, and under `val/` and `test/` `loss` (binary cross-entropy), `map` (the
    mean average precision) and `f1`; see `ClassScores`. `scores` has for "val" and "test" the latest `ClassScores`.
    The logits of an evaluation stay on the device until it ends.
    """

    task = "multilabel"

    def __init__(
        self, net: nn.Module, *, num_classes: int, thresholds: Sequence[float] | None = None, **arguments: Any
    ) -> None:
        super().__init__(net, topk=(), **arguments)
        self.train_means: Any = nn.ModuleDict({"loss": Mean()})
        self.thresholds = list(thresholds or [DEFAULT_THRESHOLD] * num_classes)
        self.num_classes = num_classes
        self.scores: dict[str, ClassScores] = {}
        self._outputs = MultilabelOutputs()

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return multilabel_loss(
            logits,
            targets,
            class_weights=self.class_weights,
            label_smoothing=self.label_smoothing,
            focal_gamma=self.focal_gamma,
        )

    def _add_accuracy(self, logits: Tensor, targets: Tensor) -> None:
        """A step has no accuracy: the thresholds are known only after a validation."""

    def _add_evaluated(self, stage: str, logits: Tensor, labels: Tensor) -> None:
        loss, count, means = F.binary_cross_entropy_with_logits, len(labels), self.eval_means[stage]
        means["loss"].add(loss(logits, labels.to(logits.dtype)), times=count, images=count)
        self._outputs.add(logits, labels)
        self._log_means(stage, means)

    def _reset_counts(self, stage: str) -> None:
        self._outputs = MultilabelOutputs()

    def _log_class_averages(self, stage: str) -> None:
        outputs, self._outputs = self._outputs, MultilabelOutputs()
        world_size = self.trainer.world_size
        probabilities, labels = outputs.gather(self.num_classes, self.device, world_size=world_size)
        choose = stage == "val" and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking
        scores = score_classes(probabilities, labels, None if choose else self.thresholds)
        self.scores[stage] = scores
        if choose:
            self.thresholds = scores.thresholds
        for name, value in scores.averages().items():
            self.log(f"{stage}/{name}", value, sync_dist=world_size > 1)

    def class_reports(self, names: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
        return {stage: scores.report(names) for stage, scores in self.scores.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["cnnzoo"]["thresholds"] = self.thresholds
        checkpoint["cnnzoo"]["val_scores"] = asdict(self.scores["val"]) if "val" in self.scores else None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.restore_validation(checkpoint["cnnzoo"])

    def restore_validation(self, saved: Mapping[str, Any]) -> None:
        self.thresholds = list(saved["thresholds"])
        if saved["val_scores"] is not None:
            self.scores["val"] = ClassScores(**saved["val_scores"])
