"""What an evaluation prints: the figures of one network, or a table of several with their ensembles."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cnnzoo.describe.tables import format_count
from cnnzoo.evaluate.members import Group, Member
from cnnzoo.evaluate.results import NUM_BINS, Evaluation
from cnnzoo.runtime.files import display_path
from cnnzoo.runtime.formatting import plural

MAX_CLASS_ROWS = 30
"""Up to this many classes, the table has all; for more, the ones with the lowest F1."""
WORST_CLASSES = 15
METRIC_COLUMNS = {
    "acc1": "top-1",
    "acc5": "top-5",
    "map": "mAP",
    "loss": "loss",
    "balanced_acc": "balanced",
    "f1": "F1",
    "calibration_error": "ECE",
}
"""Headers of the metrics in a table."""
NARROW_METRICS = ("acc1", "map", "loss", "calibration_error")
"""The metrics in a table for a narrow terminal."""
CLASS_COLUMNS = {"ap": "AP", "precision": "precision", "recall": "recall", "f1": "F1", "threshold": "threshold"}
"""Headers of the figures of a class."""


def result_rows(member: Member) -> dict[str, str]:
    """The table with the figures of one network."""
    evaluation, metrics = member.evaluation, member.evaluation.metrics
    operations = member.multiply_accumulates
    operations_text = "" if operations is None else f", {format_count(operations)} multiply-accumulates"
    flip = ", with test-time flip" if member.test_time_flip else ""
    skipped = f", {plural(len(evaluation.skipped), 'file')} skipped" if evaluation.skipped else ""
    if "map" in metrics:
        figures = {
            "scores": f"mean average precision {metrics['map']:.4f}, macro F1 {metrics['f1']:.4f}{flip}",
            "loss": f"{metrics['loss']:.4f}",
        }
    else:
        top5 = f", top-5 {metrics['acc5']:.4f}" if "acc5" in metrics else ""
        figures = {
            "accuracy": f"top-1 {metrics['acc1']:.4f}{top5}{flip}",
            "loss": f"{metrics['loss']:.4f}",
            "by class": f"balanced accuracy {metrics['balanced_acc']:.4f}, macro F1 {metrics['f1']:.4f}",
            "calibration": f"expected error {metrics['calibration_error']:.4f} ({NUM_BINS} bins, L1 norm)",
        }
    return {
        "network": f"{member.network}, {member.parameters:,} parameters{operations_text}",
        "weights": member.label,
        "data": f"{member.data}: {split_text(member.split)}, {plural(evaluation.images, 'image')} of "
        f"{len(evaluation.classes)} classes{skipped}",
        "device": f"{member.device}, precision {member.precision}, batches of {member.batch_size}",
        **figures,
        "speed": f"{evaluation.images_per_second:,.0f} images/s, loading included",
    }


def split_text(split: str) -> str:
    return "all splits" if split == "all" else f"{split} split"


def class_table(evaluation: Evaluation) -> Table:
    """The figures of each class in `CLASS_COLUMNS`; of many classes, those with the lowest F1."""
    rows = evaluation.per_class()
    title = None
    if len(rows) > MAX_CLASS_ROWS:
        rows = sorted((row for row in rows if row["images"]), key=lambda row: row["f1"])[:WORST_CLASSES]
        title = f"The {len(rows)} classes with the lowest F1; per_class.csv has all:"
    table = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", title=title, title_justify="left"
    )
    table.add_column("class", overflow="fold")
    columns = {name: header for name, header in CLASS_COLUMNS.items() if rows and name in rows[0]}
    for header in (*columns.values(), "images"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        figures = ("-" if row[name] is None else f"{row[name]:.4f}" for name in columns)
        table.add_row(plain(row["class"]), *figures, f"{row['images']:,}")
    return table


def members_table(members: Sequence[Member], groups: Sequence[Group], width: int) -> Table:
    """One row for each network, by group of the same images, with the group's mean and ensemble below it.

    Below 110 columns it has fewer metrics, to fit 80 columns.
    """
    wide = width >= 110
    metrics = [name for name in METRIC_COLUMNS if any(name in member.evaluation.metrics for member in members)]
    if not wide:
        metrics = [name for name in metrics if name in NARROW_METRICS]
    table = Table(box=None, pad_edge=False, padding=(0, 2 if wide else 1, 0, 0), header_style="bold")
    table.add_column("network", no_wrap=True)
    table.add_column("weights", overflow="fold")
    for header in ("images", *(METRIC_COLUMNS[name] for name in metrics), "images/s"):
        table.add_column(header, justify="right", no_wrap=True)

    def figures(values: Mapping[str, float]) -> list[str]:
        return [f"{values[name]:.4f}" if name in values else "" for name in metrics]

    for number, group in enumerate(groups):
        if number:
            table.add_row()
        for index in group.members:
            member = members[index]
            evaluation = member.evaluation
            table.add_row(
                member.network,
                plain(member.label),
                f"{evaluation.images:,}",
                *figures(evaluation.metrics),
                f"{evaluation.images_per_second:,.0f}",
            )
        if group.ensemble is not None:
            count, speed = len(group.members), f"{group.ensemble.images_per_second:,.0f}"
            table.add_row("mean", f"of the {count} networks above", "", *figures(group.mean), "", style="dim")
            images = f"{group.ensemble.images:,}"
            table.add_row("ensemble", f"of the {count}", images, *figures(group.ensemble.metrics), speed, style="bold")
    return table


def group_notes(members: Sequence[Member], groups: Sequence[Group]) -> list[str]:
    """For several networks, why some are in no ensemble."""
    alone = [members[group.members[0]] for group in groups if group.ensemble is None]
    if len(members) < 2 or not alone:
        return []
    names = ", ".join(f"{member.label} ({member.data})" for member in alone[:3]) + (", ..." if len(alone) > 3 else "")
    return [f"in no ensemble, because no other network has the same classes and the same test images: {names}"]


def files_row(out: Path, *, report: bool) -> dict[str, str]:
    """The last lines: where the files are."""
    rows = {"files": display_path(out)}
    return rows | ({"report": display_path(out / "report.html")} if report else {})


def plain(text: str) -> Any:
    """Text that rich prints as it is, without its markup."""
    from rich.text import Text

    return Text(text)


def print_tables(console: Console, *tables: Table) -> None:
    for table in tables:
        console.print()
        console.print(table)
