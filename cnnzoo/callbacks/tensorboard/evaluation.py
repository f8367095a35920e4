"""What a network gets wrong: the confusion matrix, the accuracy of each class, the most confident mistakes."""

import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchmetrics.utilities.distributed import gather_all_tensors

from cnnzoo.callbacks.class_report import per_class_report
from cnnzoo.callbacks.steps import is_last_epoch, logged_step
from cnnzoo.callbacks.tensorboard.class_scores import write_class_scores
from cnnzoo.callbacks.tensorboard.drawing import (
    CORRECT_COLOR,
    WRONG_COLOR,
    draw_bars,
    draw_captioned_grid,
    draw_confusion_matrix,
)
from cnnzoo.callbacks.tensorboard.time_budget import TimeBudget
from cnnzoo.callbacks.tensorboard.writer import add_image, denormalize, escape_cell, summary_writers
from cnnzoo.checks import check_int, create_directory

MAX_MATRIX_CLASSES = 30
"""Up to this many classes, the confusion matrix is drawn, and each class has its own curve."""
MAX_TABLE_ROWS = 25
"""Rows of the pictures of the most confused pairs, and of the worst and the best classes."""


class Mistakes(NamedTuple):
    """K wrongly classified images. A confidence of -1 marks padding: the batch had fewer mistakes than K."""

    confidence: Tensor  # (K,) softmax probability of the predicted class
    labels: Tensor  # (K,)
    predicted: Tensor  # (K,)
    images: Tensor  # (K, C, H, W)


@dataclass
class Predictions:
    """Labels and predicted classes of all images, and the `max_mistakes` most confident mistakes with their images.

    All tensors stay on the device, and adding a batch does not wait for it.
    """

    max_mistakes: int
    labels: list[Tensor]
    predicted: list[Tensor]
    mistakes: Mistakes | None = None

    @classmethod
    def empty(cls, max_mistakes: int) -> "Predictions":
        return cls(max_mistakes, [], [])

    def add(self, logits: Tensor, images: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (N, num_classes), images (N, C, H, W), labels (N,)."""
        confidence, predicted = logits.detach().float().softmax(1).max(1)
        self.labels.append(labels)
        self.predicted.append(predicted)
        wrong_confidence = torch.where(predicted == labels, -1.0, confidence)
        top = wrong_confidence.topk(min(self.max_mistakes, len(labels))).indices
        mistakes = Mistakes(wrong_confidence[top], labels[top], predicted[top], images[top])
        if self.mistakes is not None:
            mistakes = Mistakes(*map(torch.cat, zip(self.mistakes, mistakes, strict=True)))
        self._set_mistakes(mistakes)

    def gather(self) -> "Predictions":
        """The predictions of all ranks, on each rank. A collective call; ranks may have different numbers of images."""
        assert self.mistakes is not None
        gathered = Predictions(
            self.max_mistakes, gather_all_tensors(torch.cat(self.labels)), gather_all_tensors(torch.cat(self.predicted))
        )
        gathered._set_mistakes(Mistakes(*(torch.cat(gather_all_tensors(tensor)) for tensor in self.mistakes)))
        return gathered

    def _set_mistakes(self, mistakes: Mistakes) -> None:
        """Keep the most confident ones."""
        top = mistakes.confidence.topk(min(self.max_mistakes, len(mistakes.confidence))).indices
        self.mistakes = Mistakes(*(tensor[top] for tensor in mistakes))

    def count_pairs(self, num_classes: int) -> npt.NDArray[np.int64]:
        """(pairs, 3): true class, predicted class, number of images. Most frequent first; only pairs that occur."""
        pair_ids = torch.cat(self.labels) * num_classes + torch.cat(self.predicted)
        pairs, counts = np.unique(pair_ids.cpu().numpy(), return_counts=True)
        table = np.stack([pairs // num_classes, pairs % num_classes, counts], 1)
        return table[np.argsort(-counts, kind="stable")]


class Evaluation(Callback):
    """Shows the confusion matrix, the accuracy of each class and the most confident mistakes, in validation and test.

    Up to 30 classes: the matrix with each row's accuracy as the image `val/confusion_matrix` and the tensor
    `val/confusion`, and a curve for each class, `val_class/<name>` (in validation only). For more classes: images of
    the 25 most confused pairs, `val/most_confused`, and of the worst and best classes, `val/worst_classes` and
    `val/best_classes`. Always: the text `val/classes`, a table of each class's precision, recall and F1; the image and
    the text `val/mistakes`, with the true and predicted class of each image; and `confusion_val.csv` in `directory`
    (None writes no file), which holds all pairs that occur in the latest validation. In the test, `test` replaces
    `val`. Of a multi-label set it shows what `write_class_scores` writes instead.

    In validation this takes at most `max_time_fraction` of the training time. If epochs are too short for that,
    pictures, texts and the file are skipped first, then the rest; the first and the last epoch have everything. For ten
    classes, the pictures take 20 ms and the rest 1 ms; for a thousand, all of it takes 150 ms.
    """

    def __init__(self, *, directory: str | None = None, mistakes: int = 12, max_time_fraction: float = 0.004) -> None:
        self.max_mistakes = check_int("callbacks.evaluation.mistakes", mistakes, minimum=1)
        self.directory = None if directory is None else Path(directory)
        self.time_budget = TimeBudget(max_time_fraction, "callbacks.evaluation.max_time_fraction")
        self._predictions: Predictions | None = None  # None while a validation is not shown
        self._drawing_seconds: float | None = None  # for the latest pictures; None before the first

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Create the directory now: after an epoch, an error would cost its time."""
        if self.directory is not None and trainer.is_global_zero:
            create_directory("callbacks.evaluation.directory", self.directory)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.time_budget.start()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide on rank 0 whether to show this validation: clocks differ between ranks."""
        self._predictions = None
        if trainer.sanity_checking or _is_multilabel(pl_module):
            return
        if trainer.strategy.broadcast(self.time_budget.has_time_left or is_last_epoch(trainer)):
            self._predictions = Predictions.empty(self.max_mistakes)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch; `outputs` are its logits."""
        if self._predictions is not None:
            with self.time_budget:
                self._predictions.add(outputs, *batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._predictions is not None:
            self._show(trainer, "val")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not _is_multilabel(pl_module):
            return
        if self.time_budget.has_time_left or is_last_epoch(trainer):
            self._show_class_scores(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._predictions = None if _is_multilabel(pl_module) else Predictions.empty(self.max_mistakes)

    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._predictions is not None:
            self._show(trainer, "test")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if _is_multilabel(pl_module):
            self._show_class_scores(trainer, pl_module, "test")

    def _show_class_scores(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Show what the module has computed at the end of its epoch, after this callback's hook for that."""
        with self.time_budget:
            report = pl_module.class_reports(trainer.datamodule.classes)[stage]  # type: ignore[attr-defined]
            for writer in summary_writers(trainer):
                write_class_scores(writer, stage, logged_step(trainer), report)

    def _show(self, trainer: Trainer, stage: str) -> None:
        assert self._predictions is not None
        predictions, self._predictions = self._predictions, None
        names, step = trainer.datamodule.classes, logged_step(trainer)  # type: ignore[attr-defined]
        with self.time_budget:
            if trainer.world_size > 1:
                predictions = predictions.gather()
            if not trainer.is_global_zero:
                return
            pairs = predictions.count_pairs(len(names))
            for writer in summary_writers(trainer):
                if len(names) <= MAX_MATRIX_CLASSES:
                    _write_scalars(writer, stage, step, _confusion_matrix(pairs, len(names)), names)
        is_first = self._drawing_seconds is None
        always_drawn = stage == "test" or is_first or is_last_epoch(trainer)
        if not (always_drawn or self.time_budget.covers(self._drawing_seconds or 0.0)):
            return
        start = time.perf_counter()
        self._draw(trainer, stage, step, predictions, pairs)
        self._drawing_seconds = time.perf_counter() - start
        if not is_first:  # the first pictures are a one-time cost, like the graph, and do not count
            self.time_budget.spent_seconds += self._drawing_seconds

    def _draw(
        self, trainer: Trainer, stage: str, step: int, predictions: Predictions, pairs: npt.NDArray[np.int64]
    ) -> None:
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        names = datamodule.classes
        if self.directory is not None:
            _write_csv(self.directory / f"confusion_{stage}.csv", step, pairs, names)
        for writer in summary_writers(trainer):
            if len(names) <= MAX_MATRIX_CLASSES:
                picture = draw_confusion_matrix(_confusion_matrix(pairs, len(names)), names)
                add_image(writer, f"{stage}/confusion_matrix", picture, step)
            else:
                _draw_class_tables(writer, stage, step, pairs, names)
            _draw_mistakes(writer, stage, step, predictions, names, datamodule)
            writer.add_text(f"{stage}/classes", _class_table(pairs, names), step)


def _is_multilabel(pl_module: LightningModule) -> bool:
    return getattr(pl_module, "task", None) == "multilabel"


def _confusion_matrix(pairs: npt.NDArray[np.int64], num_classes: int) -> npt.NDArray[np.int64]:
    """(num_classes, num_classes): number of images by true class (row) and predicted class (column)."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    matrix[pairs[:, 0], pairs[:, 1]] = pairs[:, 2]
    return matrix


def _write_csv(path: Path, step: int, pairs: npt.NDArray[np.int64], names: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "true", "predicted", "images"])
        writer.writerows([step, names[true], names[predicted], count] for true, predicted, count in pairs.tolist())


def _write_scalars(
    writer: SummaryWriter, stage: str, step: int, matrix: npt.NDArray[np.int64], names: Sequence[str]
) -> None:
    """Write the matrix as a tensor and, in validation, the accuracy of each class that has images."""
    writer.add_tensor(f"{stage}/confusion", torch.from_numpy(matrix), step)
    for n, name in enumerate(names):
        if stage == "val" and matrix[n].any():
            writer.add_scalar(f"{stage}_class/{name}", matrix[n, n] / matrix[n].sum(), step)


def _draw_class_tables(
    writer: SummaryWriter, stage: str, step: int, pairs: npt.NDArray[np.int64], names: Sequence[str]
) -> None:
    """Draw the most confused pairs, and the classes with the lowest and the highest accuracy."""
    totals = np.bincount(pairs[:, 0], pairs[:, 2], len(names)).astype(np.int64)
    correct = np.zeros(len(names), np.int64)
    is_correct = pairs[:, 0] == pairs[:, 1]
    correct[pairs[is_correct, 0]] = pairs[is_correct, 2]
    confused = [
        (f"{names[true]} \u2192 {names[predicted]}", count / totals[true], f"{count} of {totals[true]}")
        for true, predicted, count in pairs[~is_correct][:MAX_TABLE_ROWS].tolist()
    ]
    with_images = np.flatnonzero(totals)
    order = with_images[np.lexsort((-totals[with_images], correct[with_images] / totals[with_images]))]
    classes = [(names[n], correct[n] / totals[n], f"{correct[n] / totals[n]:.1%} of {totals[n]}") for n in order]
    for tag, rows, title, color in (
        ("most_confused", confused, "true class \u2192 predicted class: images of the true class", WRONG_COLOR),
        ("worst_classes", classes[:MAX_TABLE_ROWS], "classes with the lowest accuracy", CORRECT_COLOR),
        ("best_classes", classes[: -MAX_TABLE_ROWS - 1 : -1], "classes with the highest accuracy", CORRECT_COLOR),
    ):
        if rows:
            add_image(writer, f"{stage}/{tag}", draw_bars(rows, title, color=color), step)


def _class_table(pairs: npt.NDArray[np.int64], names: Sequence[str]) -> str:
    """A Markdown table with the precision, the recall and the F1 of each class."""
    true, predicted, count = pairs.T
    hits = true == predicted
    counts = [
        np.bincount(classes, images, len(names)).astype(int).tolist()
        for classes, images in ((true[hits], count[hits]), (predicted, count), (true, count))
    ]
    rows = [
        f"| {escape_cell(name)} | {row['precision']:.3f} | {row['recall']:.3f} | {row['f1']:.3f} | {row['images']} |"
        for name, row in per_class_report(counts, names).items()
    ]
    return "\n".join(["| class | precision | recall | F1 | images |", "|---|---|---|---|---|", *rows])


def _draw_mistakes(
    writer: SummaryWriter, stage: str, step: int, predictions: Predictions, names: Sequence[str], datamodule: Any
) -> None:
    assert predictions.mistakes is not None
    confidence, labels, predicted, images = (tensor.cpu() for tensor in predictions.mistakes)
    is_mistake = confidence >= 0
    mistakes = [
        (names[true], names[other], f"{probability:.0%}")
        for true, other, probability in zip(
            labels[is_mistake].tolist(), predicted[is_mistake].tolist(), confidence[is_mistake].tolist(), strict=True
        )
    ]
    if not mistakes:
        writer.add_text(f"{stage}/mistakes", "none", step)
        return
    captions = [f"true: {true}\npred: {other}\nconfidence {probability}" for true, other, probability in mistakes]
    picture = draw_captioned_grid(denormalize(images[is_mistake], datamodule), captions, columns=3, side=116)
    add_image(writer, f"{stage}/mistakes", picture, step)
    rows = [f"| {n} | {' | '.join(map(escape_cell, cells))} |" for n, cells in enumerate(mistakes, 1)]
    header = (
        "The most confident mistakes, in the order of the picture:\n\n"
        "| | true | predicted | confidence |\n|---|---|---|---|"
    )
    writer.add_text(f"{stage}/mistakes", "\n".join([header, *rows]), step)
