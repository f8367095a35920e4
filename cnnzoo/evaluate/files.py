"""The files of an evaluation: evaluation.json, and for each network the tables as CSV and the plots as PNG."""

import csv
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnzoo.evaluate.evaluation import NUM_BINS, Evaluation
from cnnzoo.evaluate.members import Group, Member
from cnnzoo.evaluate.plots import confusion_picture, save_png, save_reliability_plot
from cnnzoo.runtime.files import atomic_write, write_json

log = logging.getLogger(__name__)


def write_evaluation(directory: Path, evaluation: Evaluation, title: str) -> None:
    """Write the tables and the plots of one network, which has its predictions, to `directory`; creates it.

    Without matplotlib, reliability.png is left out. An OSError names the file that cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _write_csv(directory / "per_class.csv", evaluation.per_class())
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


def prediction_rows(evaluation: Evaluation) -> Iterable[dict[str, Any]]:
    """One row for each image: its path or position, true and predicted class, and confidence."""
    predictions, names = evaluation.predictions, evaluation.classes
    assert predictions is not None
    key = "index" if predictions.paths is None else "path"
    images: Sequence[Any] = predictions.paths or range(len(predictions.labels))
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
    return {
        "images": evaluation.images,
        **evaluation.metrics,
        "calibration": {"bins": NUM_BINS, "norm": "l1", "reliability": [vars(b) for b in evaluation.bins]},
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
