"""Tables for the terminal, as wide as the terminal, and for CSV files, with exact numbers."""

import csv
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cnnzoo.describe.trace import Layer
from cnnzoo.errors import UserError

LEGEND = (
    "conv and pool: kernel, /stride, p padding, g groups, output channels. "
    "Memory: the output of a layer for one image in float32."
)


def make_console() -> Console:
    """A console for tables. Output to a file or a pipe is 160 columns wide, unless `COLUMNS` is set."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Console(width=width, highlight=False)


def layer_table(net: Layer, input_shape: Sequence[int], depth: int, width: int) -> Table:
    """One row for each layer at `depth`, and the totals. `width` is the width of the terminal in columns."""
    layers = list(net.at_depth(depth))
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 2 if width >= 100 else 1, 0, 0),
        header_style="bold",
        show_footer=True,
        footer_style="bold",
    )
    short_names = all(len(layer.name) <= 24 for layer in layers)  # then 80 columns wrap the kinds, not the names
    table.add_column("layer", "total", overflow="fold", no_wrap=short_names)
    table.add_column("", overflow="fold")
    memory = 4 * math.prod(input_shape)
    for header, footer in (
        ("output", shape_text(net.shape)),
        ("parameters", f"{net.parameters:,}"),
        ("multiply-\naccumulates", f"{net.multiply_accumulates:,}"),
        ("memory,\nKiB", _kib(memory + net.memory)),
    ):
        table.add_column(header, footer, justify="right", no_wrap=True)
    table.add_row("input", "", shape_text(input_shape), "", "", _kib(memory))
    for _, group in groupby(layers, key=lambda layer: layer.name.rpartition(".")[0].split(".")[0]):
        table.add_row()
        for layer in group:
            table.add_row(
                layer.name,
                layer.label,
                shape_text(layer.shape),
                _count(layer.parameters),
                _count(layer.multiply_accumulates),
                _kib(layer.memory) if layer.memory else "",
                style="" if layer.parameters else "dim",
            )
    table.add_row()
    return table


def layer_rows(net: Layer, depth: int) -> list[dict[str, Any]]:
    """The rows of `layer_table` for CSV. Memory is in bytes; the input is left out."""
    return [
        {
            "layer": layer.name,
            "kind": layer.label,
            "output": shape_text(layer.shape),
            "parameters": layer.parameters,
            "multiply_accumulates": layer.multiply_accumulates,
            "memory_bytes": layer.memory,
        }
        for layer in net.at_depth(depth)
    ]


def zoo_table(rows: Sequence[Mapping[str, Any]], width: int) -> Table:
    """The table of all networks; below 130 columns without the family and with rounded numbers, to fit 80 columns."""
    wide = width >= 130
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2 if wide else 1, 0, 0))
    number = "{:,}".format if wide else format_count
    size = "{in_channels}x{input_size}x{input_size}" if wide else "{input_size}"
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "name": lambda row: row["name"],
        **({"family": lambda row: row["family"]} if wide else {}),
        "year": lambda row: str(row["year"]),
        "input" if wide else "px": lambda row: size.format_map(row),
        "parameters" if wide else "params": lambda row: number(row["parameters"]),
        "multiply-accumulates" if wide else "MACs": lambda row: number(row["multiply_accumulates"]),
        "top-1": lambda row: "" if row["top1"] is None else f"{100 * row['top1']:.1f}",
        "measured on": lambda row: row["measured_on"],
        "torchvision weights" if wide else "torch-\nvision": lambda row: row["torchvision_weights"].replace(
            "IMAGENET1K_", ""
        ),
    }
    top1 = list(columns).index("top-1")
    for index, header in enumerate(columns):
        numeric = top1 - 3 <= index <= top1
        table.add_column(header, justify="right" if numeric else "left", no_wrap=True)
    for index, (_, family) in enumerate(groupby(rows, key=lambda row: row["family"])):
        if index:
            table.add_row()
        for row in family:
            table.add_row(*(text(row) for text in columns.values()))
    return table


def check_csv(path: Path, key: str = "csv") -> None:
    """Raise the `UserError` of `write_csv` before the rows are computed; the file is left as it is.

    key: the key that the user sets, for files of another kind.
    """
    if not path.absolute().parent.is_dir():
        raise UserError(f"{key}={path} cannot be written: there is no directory {path.absolute().parent}")
    existed = path.exists()
    try:
        path.open("a").close()
    except OSError as error:
        raise UserError(f"{key}={path} cannot be written: {error.strerror}") from error
    if not existed:
        path.unlink()


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with equal keys to a CSV file; raises `UserError` if the file cannot be written."""
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise UserError(f"csv={path} cannot be written: {error.strerror}") from error


def shape_text(shape: Sequence[int]) -> str:
    """`96x55x55`: channels, height, width."""
    return "x".join(map(str, shape))


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _kib(bytes_: int) -> str:
    return f"{bytes_ / 1024:,.1f}"


def format_count(number: int) -> str:
    """Round to three digits: `61.1M`, `4.09G`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            return f"{number / size:#.3g}".rstrip(".") + unit
    return str(number)
