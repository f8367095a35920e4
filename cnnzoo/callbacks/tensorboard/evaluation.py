"""Where a network is wrong: the confusion matrix, the accuracy of each class, the most confident mistakes."""

import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchmetrics.utilities.distributed import gather_all_tensors

from cnnzoo.callbacks.steps import is_last_epoch, logged_step
from cnnzoo.callbacks.tensorboard.drawing import draw_bars, draw_captioned_grid, draw_confusion_matrix
from cnnzoo.callbacks.tensorboard.time_budget import TimeBudget
from cnnzoo.callbacks.tensorboard.writer import add_image, denormalize, summary_writers
from cnnzoo.errors import UserError

MAX_MATRIX_CLASSES = 30
"""Up to so many classes the confusion matrix is drawn whole, and each class has a curve of its own."""
MAX_TABLE_ROWS = 25
"""Rows of the tables and pictures that show a part: of the pairs, and of the classes at either end."""


@dataclass
class Predictions:
    """What a network predicted of N images, and, of those it got wrong, the `most` that it was surest of, with the images.

    Sureness is the softmax probability of the class it said. All stays on the device, nothing is waited for.
    """

    most: int
    labels: list[Tensor]
    predicted: list[Tensor]
    mistakes: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    """Probabilities (K,), -1 for images that are none, labels (K,), answers (K,), images (K, C, H, W)."""

    @classmethod
    def none(cls, most: int) -> "Predictions":
        """Before the first batch."""
        return cls(most, [], [])

    def add(self, logits: Tensor, images: Tensor, labels: Tensor) -> None:
        """Take in a batch: (N, num_classes), (N, C, H, W), (N,)."""
        confidence, predicted = logits.detach().float().softmax(1).max(1)
        self.labels.append(labels)
        self.predicted.append(predicted)
        wrong = torch.where(predicted == labels, -1.0, confidence)
        top = wrong.topk(min(self.most, len(labels))).indices
        found = (wrong[top], labels[top], predicted[top], images[top])
        before = self.mistakes
        self._keep(found if before is None else tuple(map(torch.cat, zip(before, found, strict=True))))

    def gathered(self) -> "Predictions":
        """Those of all ranks, on each of them; ranks may differ in how many they have. A collective call."""
        assert self.mistakes is not None
        whole = Predictions(
            self.most, gather_all_tensors(torch.cat(self.labels)), gather_all_tensors(torch.cat(self.predicted))
        )
        whole._keep(tuple(torch.cat(gather_all_tensors(part)) for part in self.mistakes))
        return whole

    def _keep(self, found: tuple[Tensor, ...]) -> None:
        top = found[0].topk(min(self.most, len(found[0]))).indices
        confidence, labels, predicted, images = (part[top] for part in found)
        self.mistakes = confidence, labels, predicted, images

    def counts(self, num_classes: int) -> npt.NDArray[np.int64]:
        """(pairs, 3): true class, predicted class, how many images, the most frequent first; no pair without images."""
        both = torch.cat(self.labels) * num_classes + torch.cat(self.predicted)
        pairs, images = np.unique(both.cpu().numpy(), return_counts=True)
        table = np.stack([pairs // num_classes, pairs % num_classes, images], 1)
        return table[np.argsort(-images, kind="stable")]


class Evaluation(Callback):
    """Shows, of validation and of the test: the confusion matrix, the accuracy of each class, the surest mistakes.

    Up to 30 classes: the matrix, with the accuracy of each row, as the picture `val/confusion_matrix` and as the tensor
    `val/confusion`, and for validation a curve for each class, `val_class/<name>`. More: pictures of the 25 pairs most
    confused, `val/most_confused`, and of the worst and the best classes, `val/worst_classes`, `val/best_classes`.
    Always: `val/mistakes` with the true and the predicted class of each image, the same in words, `val/mistakes` among
    the texts, and `confusion_val.csv` in `directory` (None: no file), written anew each time, with all pairs that
    occur. `test` instead of `val` for the test.

    `max_time_fraction` of the training time is what validation may take of this. Where epochs are so short that it does not
    suffice, pictures, texts and the file are left out first, then the rest; the first and the last epoch have all.
    The logits are those that the step computed. Of ten classes, pictures take 20 ms, the rest 1 ms; of a thousand, all
    of it takes 150 ms.
    """

    def __init__(self, *, directory: str | None = None, mistakes: int = 12, max_time_fraction: float = 0.004) -> None:
        if mistakes < 1:
            raise UserError(f"callbacks.evaluation.mistakes={mistakes}: at least 1 image")
        self.directory = None if directory is None else Path(directory)
        self.most = mistakes
        self.time_budget = TimeBudget(max_time_fraction, "callbacks.evaluation.max_time_fraction")
        self._answers: Predictions | None = None
        self._drawing: float | None = None  # seconds that the latest pictures took

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time begins to count."""
        self.time_budget.start()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide whether this validation is shown: on the first rank, as clocks differ."""
        self._answers = None
        if not trainer.sanity_checking and trainer.strategy.broadcast(self.time_budget.left or is_last_epoch(trainer)):
            self._answers = Predictions.none(self.most)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in a batch, and `outputs`, its logits."""
        if self._answers is not None:
            with self.time_budget:
                self._answers.add(outputs, *batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show it."""
        if self._answers is not None:
            self._show(trainer, "val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A test is always shown."""
        self._answers = Predictions.none(self.most)

    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show it."""
        self._show(trainer, "test")

    def _show(self, trainer: Trainer, stage: str) -> None:
        assert self._answers is not None
        answers, self._answers = self._answers, None
        names, step = trainer.datamodule.classes, logged_step(trainer)  # type: ignore[attr-defined]
        with self.time_budget:
            if trainer.world_size > 1:
                answers = answers.gathered()
            if not trainer.is_global_zero:
                return
            table = answers.counts(len(names))
            for writer in summary_writers(trainer):
                if len(names) <= MAX_MATRIX_CLASSES:
                    _write_scalars(writer, stage, step, _confusion_matrix(table, len(names)), names)
        first = self._drawing is None
        if stage == "val" and not (first or is_last_epoch(trainer) or self.time_budget.covers(self._drawing or 0.0)):
            return
        began = time.perf_counter()
        self._draw(trainer, stage, step, answers, table)
        self._drawing = time.perf_counter() - began
        if not first:  # that one slows down the start, as the graph does, not the training
            self.time_budget.spent += self._drawing

    def _draw(
        self, trainer: Trainer, stage: str, step: int, answers: Predictions, table: npt.NDArray[np.int64]
    ) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        names = data.classes
        if self.directory is not None:
            _write_csv(self.directory / f"confusion_{stage}.csv", step, table, names)
        for writer in summary_writers(trainer):
            if len(names) <= MAX_MATRIX_CLASSES:
                picture = draw_confusion_matrix(_confusion_matrix(table, len(names)), names)
                add_image(writer, f"{stage}/confusion_matrix", picture, step)
            else:
                _draw_class_tables(writer, stage, step, table, names)
            _draw_mistakes(writer, stage, step, answers, names, data)


def _confusion_matrix(table: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """(size, size): how many images of each true class, by row, were said to be of which, by column."""
    matrix = np.zeros((size, size), np.int64)
    matrix[table[:, 0], table[:, 1]] = table[:, 2]
    return matrix


def _write_csv(path: Path, step: int, table: npt.NDArray[np.int64], names: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "true", "predicted", "images"])
        writer.writerows([step, names[true], names[said], images] for true, said, images in table.tolist())


def _write_scalars(
    writer: SummaryWriter, stage: str, step: int, matrix: npt.NDArray[np.int64], names: Sequence[str]
) -> None:
    """The matrix as a tensor, and a point on the curve of each class that has images."""
    writer.add_tensor(f"{stage}/confusion", torch.from_numpy(matrix), step)
    for n, name in enumerate(names):
        if stage == "val" and matrix[n].any():
            writer.add_scalar(f"{stage}_class/{name}", matrix[n, n] / matrix[n].sum(), step)


def _draw_class_tables(
    writer: SummaryWriter, stage: str, step: int, table: npt.NDArray[np.int64], names: Sequence[str]
) -> None:
    """The pairs most confused, and the classes at either end."""
    totals = np.bincount(table[:, 0], table[:, 2], len(names)).astype(np.int64)
    right = np.zeros(len(names), np.int64)
    diagonal = table[:, 0] == table[:, 1]
    right[table[diagonal, 0]] = table[diagonal, 2]
    pairs = [
        (f"{names[true]} \u2192 {names[said]}", images / totals[true], f"{images} of {totals[true]}")
        for true, said, images in table[~diagonal][:MAX_TABLE_ROWS].tolist()
    ]
    known = np.flatnonzero(totals)
    order = known[np.lexsort((-totals[known], right[known] / totals[known]))]
    rows = [(names[n], right[n] / totals[n], f"{right[n] / totals[n]:.1%} of {totals[n]}") for n in order]
    for name, part, title, wrong in (
        ("most_confused", pairs, "true class \u2192 predicted class: images of the true class", True),
        ("worst_classes", rows[:MAX_TABLE_ROWS], "classes with the lowest accuracy", False),
        ("best_classes", rows[: -MAX_TABLE_ROWS - 1 : -1], "classes with the highest accuracy", False),
    ):
        if part:
            add_image(writer, f"{stage}/{name}", draw_bars(part, title, wrong=wrong), step)


def _draw_mistakes(
    writer: SummaryWriter, stage: str, step: int, answers: Predictions, names: Sequence[str], data: Any
) -> None:
    assert answers.mistakes is not None
    sure, labels, said, images = (part.cpu() for part in answers.mistakes)
    are = sure >= 0
    lines = [
        (names[true], names[other], f"{probability:.0%}")
        for true, other, probability in zip(labels[are].tolist(), said[are].tolist(), sure[are].tolist(), strict=True)
    ]
    if not lines:
        writer.add_text(f"{stage}/mistakes", "none", step)
        return
    captions = [f"true: {true}\nsaid: {other}\n{probability} sure" for true, other, probability in lines]
    picture = draw_captioned_grid(denormalize(images[are], data), captions, columns=3, side=116)
    add_image(writer, f"{stage}/mistakes", picture, step)
    rows = [f"| {n} | {' | '.join(map(_escape_cell, line))} |" for n, line in enumerate(lines, 1)]
    head = "The surest mistakes, as in the picture, row by row:\n\n| | true | said | probability |\n|---|---|---|---|"
    writer.add_text(f"{stage}/mistakes", "\n".join([head, *rows]), step)


def _escape_cell(text: str) -> str:
    """The text in a cell of a Markdown table."""
    return text.replace("|", "\\|")
