"""Tables: on the terminal, as wide as it is, and as CSV with every figure exact."""

import csv
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
    "conv and pool: kernel, /stride, p padding, g groups, output maps. "
    "Memory: what a layer puts out, one image in float32."
)


def console() -> Console:
    """The terminal; what goes to a file or a pipe is not folded to the width of some terminal."""
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Console(width=wide, highlight=False)


def layer_table(whole: Layer, given: Sequence[int], depth: int, width: int) -> Table:
    """The layers that `depth` levels open, a line for each, and their sums; `given` is the shape of the input."""
    layers = list(whole.opened(depth))
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 2 if width >= 100 else 1, 0, 0),
        header_style="bold",
        show_footer=True,
        footer_style="bold",
    )
    short = all(len(layer.name) <= 24 for layer in layers)  # so that 80 columns break the kinds, not the names
    table.add_column("layer", "total", overflow="fold", no_wrap=short)
    table.add_column("", overflow="fold")
    memory = 4 * _num_elements(given)
    for header, footer in (
        ("output", shape_text(whole.shape)),
        ("parameters", f"{whole.parameters:,}"),
        ("multiply-\naccumulates", f"{whole.multiply_accumulates:,}"),
        ("memory,\nKiB", _kib(memory + whole.memory)),
    ):
        table.add_column(header, footer, justify="right", no_wrap=True)
    table.add_row("input", "", shape_text(given), "", "", _kib(memory))
    for _, together in groupby(layers, key=lambda layer: layer.name.rpartition(".")[0].split(".")[0]):
        table.add_row()
        for layer in together:
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


def layer_rows(whole: Layer, depth: int) -> list[dict[str, Any]]:
    """The same for CSV; memory in bytes, without the input's."""
    return [
        {
            "layer": layer.name,
            "kind": layer.label,
            "output": shape_text(layer.shape),
            "parameters": layer.parameters,
            "multiply_accumulates": layer.multiply_accumulates,
            "memory_bytes": layer.memory,
        }
        for layer in whole.opened(depth)
    ]


def zoo_table(rows: Sequence[Mapping[str, Any]], width: int) -> Table:
    """The zoo. Below a width of 130 the family is left out and figures are rounded, so that 80 are enough."""
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
    for place, header in enumerate(columns):
        figures = list(columns).index("top-1") - 3 <= place <= list(columns).index("top-1")
        table.add_column(header, justify="right" if figures else "left", no_wrap=True)
    for place, (_, family) in enumerate(groupby(rows, key=lambda row: row["family"])):
        if place:
            table.add_row()
        for row in family:
            table.add_row(*(text(row) for text in columns.values()))
    return table


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows that have the same keys."""
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


def _num_elements(shape: Sequence[int]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _kib(bytes_: int) -> str:
    return f"{bytes_ / 1024:,.1f}"


def format_count(number: int) -> str:
    """Three digits: `61.1M`, `4.09G`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            return f"{number / size:#.3g}".rstrip(".") + unit
    return str(number)
