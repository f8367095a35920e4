"""The classes of a multi-label set in TensorBoard: a table, and curves or pictures of their average precision."""

from collections.abc import Mapping
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from cnnzoo.callbacks.tensorboard.drawing import CORRECT_COLOR, draw_bars
from cnnzoo.callbacks.tensorboard.writer import add_image, escape_cell

MAX_CURVES = 30
"""Up to this many classes, each has its own curve."""
MAX_TABLE_ROWS = 25
"""Rows of the pictures of the worst and the best classes."""
COLUMNS = {
    "ap": "average precision",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "threshold": "threshold",
}

ClassReport = Mapping[str, Mapping[str, Any]]
"""By the name of a class: the figures of `COLUMNS`, and "images"; the average precision is None without images."""


def write_class_scores(writer: SummaryWriter, stage: str, step: int, report: ClassReport) -> None:
    """Write the text `<stage>/classes`, and curves `val_class/<name>`; of many classes pictures of the extreme ones."""
    known = {name: row for name, row in report.items() if row["ap"] is not None}
    if len(report) <= MAX_CURVES:
        for name, row in known.items():
            if stage == "val":
                writer.add_scalar(f"{stage}_class/{name}", row["ap"], step)
    else:
        bars = [(name, row["ap"], f"{row['ap']:.3f} of {row['images']}") for name, row in known.items()]
        bars.sort(key=lambda bar: bar[1])
        for tag, rows, which in (
            ("worst_classes", bars[:MAX_TABLE_ROWS], "lowest"),
            ("best_classes", bars[: -MAX_TABLE_ROWS - 1 : -1], "highest"),
        ):
            if rows:
                title = f"classes with the {which} average precision"
                add_image(writer, f"{stage}/{tag}", draw_bars(rows, title, color=CORRECT_COLOR), step)
    writer.add_text(f"{stage}/classes", class_table(report), step)


def class_table(report: ClassReport) -> str:
    """A Markdown table with the figures of each class; a dash for a class without images."""
    rows = []
    for name, row in report.items():
        figures = ["-" if row[key] is None else f"{row[key]:.3f}" for key in COLUMNS]
        rows.append(f"| {' | '.join([escape_cell(name), *figures, str(row['images'])])} |")
    titles = ["class", *COLUMNS.values(), "images"]
    return "\n".join([f"| {' | '.join(titles)} |", "|---" * len(titles) + "|", *rows])
