"""Bubble chart of accuracy against multiply-accumulates, with bubbles as large as the number of parameters.

After Figure 2 of Canziani et al., "An Analysis of Deep Neural Network Models for Practical Applications" (2016, arXiv
1605.07678).
"""

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnzoo.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".pdf", ".svg")
AREA_PER_MILLION = 6.0
"""Area of a bubble per million parameters, in square points."""

Box = tuple[float, float, float, float]
"""Left, bottom, right and top in pixels of the figure."""


def save_chart(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the chart of the networks with a published accuracy on ImageNet; `rows` are those of `zoo_rows`.

    Raises `UserError` if the file cannot be written or matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"picture={path}: expected a file that ends in {', '.join(SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"picture={path} cannot be written: there is no directory {path.parent}")
    os.environ.pop("MPLBACKEND", None)  # the chart needs no backend, and an unknown one fails the import
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns about its cache if $HOME cannot be written
    try:
        figure = build_figure(rows)
    except ImportError as error:
        raise UserError(f'picture={path} needs matplotlib: type pip install "cnnzoo[plot]"') from error
    try:
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"picture={path} cannot be written: {error.strerror}") from error


def build_figure(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw the chart, without a window and without matplotlib's global state."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = [row for row in rows if row["measured_on"].startswith("ImageNet")]
    families = dict.fromkeys(row["family"] for row in rows)
    palette = [colormaps["tab20"](i) for i in (*range(0, 20, 2), *range(1, 20, 2))]  # saturated colours first
    colors = dict(zip(families, palette, strict=False))
    figure = Figure(figsize=(13, 9), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for row in sorted(rows, key=lambda row: -row["parameters"]):  # small bubbles on top
        one_crop = row["measured_on"].endswith(" 1-crop")
        color = colors[row["family"]]
        axes.scatter(
            row["multiply_accumulates"] / 1e9,
            100 * row["top1"],
            s=AREA_PER_MILLION * row["parameters"] / 1e6,
            facecolor=(color, 0.5 if one_crop else 0.0),
            edgecolor=color,
            linewidth=1.2,
        )
    axes.set_xscale("log")
    axes.set_xticks([0.2, 0.5, 1, 2, 5, 10, 20, 50])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlim(*_axis_limits([row["multiply_accumulates"] / 1e9 for row in rows]))
    axes.set_xlabel("multiply-accumulates per image, billions")
    axes.set_ylabel("top-1 accuracy on the ImageNet validation set, %")
    axes.grid(alpha=0.25)
    axes.margins(0.06)
    handles = [Line2D([], [], color=color, marker="o", linestyle="", label=name) for name, color in colors.items()]
    handles += [
        Line2D([], [], color="gray", marker="o", linestyle="", alpha=0.5, label="one central crop"),
        Line2D([], [], color="gray", marker="o", linestyle="", fillstyle="none", label="ten crops or other"),
    ]
    axes.add_artist(axes.legend(handles=handles, loc="lower right", fontsize=8))
    sizes = [
        axes.scatter([], [], s=AREA_PER_MILLION * millions, color="gray", alpha=0.5, label=f"{millions} M parameters")
        for millions in (5, 50, 150)
    ]
    axes.legend(handles=sizes, loc="upper left", fontsize=8, labelspacing=2, borderpad=1.4, handletextpad=1.6)
    # Fix the layout now: .svg and .pdf have another resolution, which would change it and move the labels.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    _place_labels(axes, rows)
    return figure


def _axis_limits(values: Sequence[float]) -> tuple[float, float]:
    """Limits of a logarithmic axis with a margin on both sides."""
    return min(values) / 1.5, max(values) * 1.6


def _place_labels(axes: "Axes", rows: Sequence[Mapping[str, Any]]) -> None:
    """Place each name near its bubble with the least overlap, and draw a line to the bubble if it is far away."""
    figure = axes.get_figure()
    assert figure is not None
    scale = figure.dpi / 72  # pixels per point
    to_fraction = figure.transFigure.inverted()

    def to_figure_fraction(x: float, y: float) -> tuple[float, float]:
        left, bottom = to_fraction.transform((x, y))
        return left, bottom

    bubbles, occupied = [], []
    for row in rows:
        x, y = axes.transData.transform((row["multiply_accumulates"] / 1e9, 100 * row["top1"]))
        radius = scale * math.sqrt(AREA_PER_MILLION * row["parameters"] / 1e6 / math.pi)
        bubbles.append((row["name"], x, y, radius))
        occupied.append((x - 0.7 * radius, y - 0.7 * radius, x + 0.7 * radius, y + 0.7 * radius))
    frame = axes.get_window_extent()
    for legend in axes.get_children():
        if type(legend).__name__ == "Legend":
            left, bottom, right, top = legend.get_window_extent().extents
            occupied.append((left, bottom, right, top))
    for name, x, y, radius in sorted(bubbles, key=lambda bubble: bubble[2]):
        text = axes.annotate(name, (0, 0), xycoords="figure fraction", fontsize=7, ha="left", va="bottom")
        extent = text.get_window_extent()

        def cost(candidate: tuple[Box, float]) -> float:
            box, distance = candidate
            inside = box[0] > frame.x0 and box[1] > frame.y0 and box[2] < frame.x1 and box[3] < frame.y1
            return sum(_overlap_area(box, other) for other in occupied) + 4 * distance + (0 if inside else 1e6)

        box, distance = min(_label_boxes(x, y, radius, extent.width, extent.height, scale), key=cost)
        corner = to_figure_fraction(box[0], box[1])
        text.xy = corner
        text.set_position(corner)
        occupied.append(box)
        if distance > 6 * scale:
            label_end = to_figure_fraction(min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))
            line = {"arrowstyle": "-", "linewidth": 0.5, "color": "gray"}
            bubble_end = to_figure_fraction(x, y)
            axes.annotate("", bubble_end, label_end, "figure fraction", "figure fraction", line)


def _label_boxes(
    x: float, y: float, radius: float, width: float, height: float, scale: float
) -> Iterator[tuple[Box, float]]:
    """Candidate boxes of a label around a bubble, each with its distance from the edge of the bubble in pixels."""
    for distance_points in (2, 5, 10, 16, 24, 34, 46, 60):
        for step in range(24):
            angle = 2 * math.pi * step / 24
            reach = radius + distance_points * scale
            cx = x + math.cos(angle) * (reach + width / 2)
            cy = y + math.sin(angle) * (reach + height / 2)
            yield (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2), distance_points * scale


def _overlap_area(a: Box, b: Box) -> float:
    """Area of the overlap in square pixels, with a margin of one pixel around each box."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 2
    height = min(a[3], b[3]) - max(a[1], b[1]) + 2
    return width * height if width > 0 and height > 0 else 0.0
