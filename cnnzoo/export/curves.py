"""The picture of a run's training curves."""

import csv
import logging
import os
from pathlib import Path

from cnnzoo.runtime.files import atomic_write

PANELS = {"loss": ("loss", 1.0), "acc1": ("top-1 accuracy, %", 100.0), "map": ("mean average precision, %", 100.0)}
"""Metric: label of the axis, and the factor to its unit. A run has one of the last two."""
COLUMNS = {"train": "train/{}_epoch", "validation": "val/{}"}
Points = tuple[list[int], list[float]]

log = logging.getLogger(__name__)


def save_curves(metrics_csv: Path, path: Path) -> bool:
    """Draw loss and accuracy of training and validation against the step as a PNG.

    metrics_csv: as a run writes it.

    Returns False, and logs why, if there is nothing to draw or if matplotlib is not installed.
    """
    curves = {(panel, split): _read(metrics_csv, COLUMNS[split].format(panel)) for panel in PANELS for split in COLUMNS}
    omitted = "acc1" if curves["map", "validation"][0] else "map"
    panels = {panel: value for panel, value in PANELS.items() if panel != omitted}
    if not any(steps for steps, _ in curves.values()):
        log.info("no picture of the training curves: %s has none", metrics_csv)
        return False
    os.environ.pop("MPLBACKEND", None)  # the picture needs no backend, and an unknown one fails the import
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns about its cache if $HOME cannot be written
    try:
        from matplotlib.figure import Figure
    except ImportError:
        log.info('no picture of the training curves: it needs matplotlib; type pip install "cnnzoo[plot]"')
        return False
    figure = Figure(figsize=(10, 3.6), dpi=120, layout="constrained")
    for axes, (panel, (label, factor)) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for split in COLUMNS:
            steps, values = curves[panel, split]
            if not steps and panel == "map":  # it is measured in validation only
                continue
            marker = "o" if len(steps) == 1 else None
            axes.plot(steps, [factor * value for value in values], label=split, marker=marker)
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.25)
        axes.legend()
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")
    return True


def _read(metrics_csv: Path, column: str) -> Points:
    """The steps and the values of a column; empty if the file or the column is missing."""
    try:
        with metrics_csv.open(encoding="utf-8", newline="") as file:
            rows = [(int(row["step"]), float(row[column])) for row in csv.DictReader(file) if row.get(column)]
    except (OSError, KeyError, ValueError):
        return [], []
    return [step for step, _ in rows], [value for _, value in rows]
