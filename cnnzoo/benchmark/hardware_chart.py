"""The chart of `job=hardware`: the times of the networks as bars, measured and published."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cnnzoo.benchmark.published import COLUMNS, CPU, GPU, GPU_WITHOUT_CUDNN, published_time
from cnnzoo.benchmark.timing import format_ms

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {CPU: "tab:blue", GPU: "tab:green", GPU_WITHOUT_CUDNN: "tab:orange"}


def draw_times(figure: "Figure", totals: Mapping[str, Mapping[str, float]], *, has_published: bool) -> None:
    """Draw one bar for each network and column on a logarithmic axis, and the published times as lighter bars.

    totals: milliseconds of both passes by network and column; columns that were not measured are missing.
    """
    lengths = {}
    for column in COLUMNS:
        lengths[column, column] = {name: times[column] for name, times in totals.items() if column in times}
        published = {name: published_time(name, column) for name in totals} if has_published else {}
        label = f"{column}, 2016-17"
        lengths[column, label] = {name: time.total_ms for name, time in published.items() if time is not None}
    bars = {key: values for key, values in lengths.items() if values}
    axes, names, height = figure.subplots(), list(totals), 0.8 / len(bars)
    for index, ((column, label), values) in enumerate(bars.items()):
        positions = [names.index(name) + (index + 0.5) * height - 0.4 for name in values]
        alpha = 1.0 if label == column else 0.4
        drawn = axes.barh(
            positions, list(values.values()), 0.9 * height, color=COLORS[column], alpha=alpha, label=label
        )
        axes.bar_label(drawn, list(map(format_ms, values.values())), padding=2, fontsize=6)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.set_xlabel("forward and backward pass of one batch, ms")
    axes.grid(axis="x", alpha=0.25)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
