"""The files of an evaluation: evaluation.json, and for each network the tables as CSV and the plots as PNG."""

import csv
import logging
from collections.abc import Iterable, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from cnnzoo.evaluate.members import Group, Member
from cnnzoo.evaluate.plots import confusion_picture, save_png, save_reliability_plot
from cnnzoo.evaluate.results import NUM_BINS, Evaluation, MultilabelEvaluation, Predictions
from cnnzoo.runtime.files import atomic_write, write_json

log = logging.getLogger(__name__)


def write_evaluation(directory: Path, evaluation: Evaluation, title: str) -> None:
    """Write the tables and the plots of one network, which has its predictions, to `directory`; creates it.

    Without matplotlib, reliability.png is left out. A multi-label network has just per_class.csv and predictions.csv.
    An OSError names the file that cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _write_csv(directory / "per_class.csv", evaluation.per_class())
    if isinstance(evaluation, MultilabelEvaluation):
        _write_csv(directory / "predictions.csv", multilabel_rows(evaluation))
        return
    names = evaluation.classes
    true, predicted = np.nonzero(evaluation.confusion)
    _write_csv(
        directory / "confusion.csv",
        [
            {"true": names[row], "predicted": names[column], "images": int(evaluation.confusion[row, column])}
            for row, column in zip(true.tolist(), predicted.tolist(), strict=True)
        ],
    )
    _write_csv(directory / "predictions.csv", prediction_rows(evaluation))
    save_png(directory / "confusion.png", confusion_picture(evaluation.confusion, names))
    save_reliability_plot(directory / "reliability.png", evaluation, title)


def multilabel_rows(evaluation: MultilabelEvaluation) -> Iterable[dict[str, Any]]:
    """One row for each image: its path or position, its classes, the predicted ones, and the probability of each class.

    Semicolons separate the names of classes.
    """
    predictions, names = evaluation.predictions, evaluation.classes
    assert predictions is not None
    key, images = _images(predictions)
    columns = (predictions.labels, predictions.predicted, predictions.logits.sigmoid())
    for image, labels, predicted, probabilities in zip(images, *(column.tolist() for column in columns), strict=True):
        lists = {"labels": labels, "predicted": predicted}
        row = {key: image, **{name: ";".join(compress(names, values)) for name, values in lists.items()}}
        yield row | {f"p({name})": f"{value:.6f}" for name, value in zip(names, probabilities, strict=True)}


def _images(predictions: Predictions) -> tuple[str, Sequence[Any]]:
    """The name of the column that identifies the images, and its values."""
    if predictions.paths is None:
        return "index", range(len(predictions.labels))
    return "path", predictions.paths


def prediction_rows(evaluation: Evaluation) -> Iterable[dict[str, Any]]:
    """One row for each image: its path or position, true and predicted class, and confidence."""
    predictions, names = evaluation.predictions, evaluation.classes
    assert predictions is not None
    key, images = _images(predictions)
    columns = (predictions.labels, predictions.predicted, predictions.confidence)
    for image, true, predicted, confidence in zip(images, *(column.tolist() for column in columns), strict=True):
        yield {key: image, "label": names[true], "predicted": names[predicted], "confidence": f"{confidence:.6f}"}


def write_summary(path: Path, members: Sequence[Member], groups: Sequence[Group]) -> None:
    """Write evaluation.json: `members`, and `ensembles` with the positions of their members."""
    ensembles = [
        {"members": group.members, **_figures(group.ensemble), "mean_member": dict(group.mean)}
        for group in groups
        if group.ensemble is not None
    ]
    rows = [
        {
            "label": member.label,
            "network": member.network,
            "parameters": member.parameters,
            "multiply_accumulates": member.multiply_accumulates,
            **member.run,
            "data": member.data,
            "split": member.split,
            "batch_size": member.batch_size,
            "precision": member.precision,
            "device": member.device,
            "test_time_flip": member.test_time_flip,
            **_figures(member.evaluation),
        }
        for member in members
    ]
    write_json(path, {"members": rows, "ensembles": ensembles})


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    calibration = {"bins": NUM_BINS, "norm": "l1", "reliability": [vars(b) for b in evaluation.bins]}
    return {
        "images": evaluation.images,
        **evaluation.metrics,
        **({"calibration": calibration} if evaluation.bins else {}),
        "images_per_second": round(evaluation.images_per_second, 2),
        "seconds": round(evaluation.seconds, 3),
        "skipped_files": list(evaluation.skipped),
        "per_class": evaluation.per_class(),
    }


def _write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with atomic_write(path, newline="") as file:
        writer = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(file, row.keys(), lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
