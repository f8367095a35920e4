"""Multi-label classification: its loss, average precision, and a threshold for each class."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_precision_recall_curve
from torchmetrics.utilities.distributed import gather_all_tensors

from cnnzoo.callbacks.class_report import per_class_report
from cnnzoo.training.metrics import class_averages

DEFAULT_THRESHOLD = 0.5
"""The threshold of a class before the first validation, and of one without images in the validation split."""


def multilabel_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> Tensor:
    """The mean binary cross-entropy over the images and classes, or the focal loss if `focal_gamma` > 0.

    logits: (N, num_classes).
    targets: (N, num_classes), 1 for the classes of an image, else 0; or values between them for mixed images.
    class_weights: (num_classes,) factors of the loss of each class's images, `pos_weight` of PyTorch.
    label_smoothing: the targets 1 and 0 become 1 - label_smoothing / 2 and label_smoothing / 2.
    focal_gamma: the exponent of (1 - p), where p is the probability of the right answer (Lin et al. 2017, equation 4).
    """
    targets = targets.to(logits.dtype)
    smoothed = targets * (1 - label_smoothing) + label_smoothing / 2 if label_smoothing else targets
    if not focal_gamma:
        return F.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=class_weights)
    losses = F.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=class_weights, reduction="none")
    right = torch.where(targets > 0, logits, -logits).sigmoid()
    return ((1 - right) ** focal_gamma * losses).mean()


@dataclass(frozen=True)
class ClassScores:
    """How well each class is recognized; plain types, which checkpoints and JSON files hold.

    average_precision: the area under the class's curve of precision by recall, as scikit-learn's
        `average_precision_score`; None for a class without images.
    thresholds: an image is predicted to belong to a class whose probability is at least this.
    counts: [correct, predicted, labeled] images of each class, for these thresholds.
    """

    average_precision: list[float | None]
    thresholds: list[float]
    counts: list[list[int]]

    def averages(self) -> dict[str, float]:
        """The means over the classes: "map" over those that have images, "f1" over those with images or predictions."""
        known = [value for value in self.average_precision if value is not None]
        f1 = class_averages(torch.tensor(self.counts))["f1"]
        return {"map": sum(known) / len(known) if known else math.nan, "f1": float(f1)}

    def report(self, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
        """For each class the average precision, the precision, recall and F1 for its threshold, and its images."""
        rows = per_class_report(self.counts, names)
        columns = zip(rows.items(), self.average_precision, self.thresholds, strict=True)
        return {name: {"ap": ap, **row, "threshold": threshold} for (name, row), ap, threshold in columns}


@dataclass
class MultilabelOutputs:
    """The probabilities and labels of all images of an evaluation, on the device. Adding a batch does not wait for it.

    probabilities: of the batches, each (N, num_classes) float32.
    labels: of the batches, each (N, num_classes) uint8.
    """

    probabilities: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        self.probabilities.append(logits.detach().float().sigmoid())
        self.labels.append(labels)

    def gather(self, num_classes: int, device: torch.device, *, world_size: int) -> tuple[Tensor, Tensor]:
        """(probabilities, labels) of all images of all ranks. A collective call; a rank may have no images."""
        empty = torch.empty(0, num_classes, device=device)
        probabilities, labels = torch.cat([empty, *self.probabilities]), torch.cat([empty.byte(), *self.labels])
        if world_size > 1:
            probabilities, labels = (torch.cat(gather_all_tensors(value)) for value in (probabilities, labels))
        return probabilities, labels


def score_classes(probabilities: Tensor, labels: Tensor, thresholds: Sequence[float] | None = None) -> ClassScores:
    """The scores of each class: probabilities (N, num_classes) from 0 to 1, labels (N, num_classes) 0 or 1.

    thresholds: one for each class; None chooses those with the largest F1 for these images, see `best_threshold`.

    Waits for the device several times per class.
    """
    has_images = labels.any(dim=0).tolist()
    average_precision: list[float | None] = []
    chosen: list[float] = []
    for column, known in enumerate(has_images):
        if not known:
            average_precision.append(None)
            chosen.append(DEFAULT_THRESHOLD)
            continue
        precision, recall, scores = binary_precision_recall_curve(
            probabilities[:, column], labels[:, column].long(), validate_args=False
        )
        average_precision.append(float(((recall[:-1] - recall[1:]) * precision[:-1]).double().sum()))
        chosen.append(best_threshold(precision[:-1], recall[:-1], scores))
    kept = chosen if thresholds is None else list(thresholds)
    predicted, positive = predict_classes(probabilities, kept), labels > 0
    counts = [(predicted & positive).sum(0), predicted.sum(0), positive.sum(0)]
    return ClassScores(average_precision, kept, [count.tolist() for count in counts])


def best_threshold(precision: Tensor, recall: Tensor, scores: Tensor) -> float:
    """The threshold with the largest F1, halfway between two neighboring scores, so that small errors matter less.

    precision, recall: for the threshold at each score.
    scores: the different probabilities in ascending order.
    """
    best = int((2 * precision * recall / (precision + recall).clamp(min=1e-12)).argmax())
    score, below = float(scores[best]), float(scores[best - 1]) if best else 0.0
    middle = float(torch.tensor((score + below) / 2))  # rounded to float32, as the probabilities are
    return middle if middle > below else score


def predict_classes(probabilities: Tensor, thresholds: Sequence[float]) -> Tensor:
    """(N, num_classes) bool: whether the probability of a class is at least its threshold."""
    return probabilities >= torch.tensor(thresholds, device=probabilities.device)
