"""What an evaluation gives: the predictions for each image, the metrics, and the figures of each class."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cnnzoo.callbacks.class_report import per_class_report
from cnnzoo.training.multilabel import ClassScores

NUM_BINS = 15
"""Equally wide bins of the confidence, for the calibration error and its plot."""


@dataclass(frozen=True)
class Predictions:
    """The predictions for N images, on the CPU.

    logits: (N, num_classes) float32.
    predicted: (N,) int64, the class with the largest logit; of a multi-label network (N, num_classes) bool.
    labels: (N,) int64; of a multi-label set (N, num_classes) uint8.
    paths: of the images; None if they are not files.
    """

    logits: Tensor
    predicted: Tensor
    labels: Tensor
    paths: tuple[str, ...] | None

    @property
    def confidence(self) -> Tensor:
        """(N,): the softmax probability of the predicted class; not of a multi-label network."""
        return self.logits.softmax(1).gather(1, self.predicted[:, None])[:, 0]


@dataclass(frozen=True)
class Bin:
    """The images whose confidence is in one of `NUM_BINS` bins, with their mean confidence and their accuracy."""

    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    metrics: "loss" (cross-entropy), "acc1", "acc5" (if there are more than five classes), "balanced_acc", "f1" (see
        `class_averages`), and "calibration_error": the mean difference between confidence and accuracy over `NUM_BINS`
        bins of the confidence, weighted by their images (Guo et al., 2017, arXiv 1706.04599). Accuracies are fractions.
    seconds: from the start of the loader to the last prediction.
    confusion: (num_classes, num_classes), images by true class (row) and predicted class (column).
    bins: from low to high confidence.
    skipped: files that could not be read, with `on_bad_file="skip"`.
    predictions: None if they were dropped to save memory.
    """

    classes: tuple[str, ...]
    metrics: dict[str, float]
    seconds: float
    confusion: npt.NDArray[np.int64]
    bins: tuple[Bin, ...]
    skipped: tuple[str, ...]
    predictions: Predictions | None

    @property
    def images(self) -> int:
        return int(self.confusion.sum())

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    def per_class(self) -> list[dict[str, Any]]:
        """One row for each class: its name, precision, recall, F1 and number of images."""
        counts = [self.confusion.diagonal(), self.confusion.sum(0), self.confusion.sum(1)]
        rows = per_class_report([count.tolist() for count in counts], [str(n) for n in range(len(self.classes))])
        return [{"class": name, **row} for name, row in zip(self.classes, rows.values(), strict=True)]


@dataclass(frozen=True)
class MultilabelEvaluation(Evaluation):
    """The result of `evaluate` for a multi-label network, which has no confusion matrix and no bins.

    metrics: "loss" (binary cross-entropy), "map" (mean average precision) and "f1"; see `ClassScores.averages`.
    scores: of each class.
    """

    scores: ClassScores = field(kw_only=True)
    num_images: int = field(kw_only=True)

    @property
    def images(self) -> int:
        return self.num_images

    def per_class(self) -> list[dict[str, Any]]:
        """For each class its name, average precision, precision, recall, F1, number of images and threshold."""
        rows = self.scores.report([str(n) for n in range(len(self.classes))])
        return [{"class": name, **row} for name, row in zip(self.classes, rows.values(), strict=True)]
