"""Charts of the report as inline SVG, which follows the page's colors and is as sharp on a phone as on paper.

Each point has a title, which browsers show under the pointer. Colors are the CSS variables `--c0` to `--c9`.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from cnnzoo.describe.tables import format_count
from cnnzoo.evaluate.results import NUM_BINS, Bin

WIDTH, HEIGHT = 440, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 34, 40
"""Margins around the area of the plot, for the labels."""
NUM_COLORS = 10
Point = tuple[float, float]


class Axis:
    """Maps values to positions between `start` and `end`, linearly or by the logarithm."""

    def __init__(
        self, values: Iterable[float], start: float, end: float, *, log: bool = False, whole: bool = False
    ) -> None:
        """`whole`: the values are whole numbers, and so are the ticks."""
        values = list(values)
        self.log, self.start, self.end = log, start, end
        low, high = min(values), max(values)
        if log:
            self.ticks = _log_ticks(low, high)
            self.low, self.high = min(low, self.ticks[0]) / 1.1, max(high, self.ticks[-1]) * 1.1
        else:
            self.ticks = [tick for tick in _linear_ticks(low, high) if not whole or tick == int(tick)]
            self.low, self.high = min([low, *self.ticks]), max([high, *self.ticks])
            if self.low == self.high:  # such as the only epoch
                self.low, self.high = self.low - 0.5, self.high + 0.5

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def line_chart(title: str, lines: Mapping[int, Sequence[Point]], names: Mapping[int, str], x_label: str) -> str:
    """One line for each network, by its number, which determines its color; each has at least one point."""
    x = Axis((point[0] for points in lines.values() for point in points), LEFT, WIDTH - RIGHT, whole=True)
    y = Axis((point[1] for points in lines.values() for point in points), HEIGHT - BOTTOM, TOP)
    parts = []
    for number, points in lines.items():
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        last_x, last_y = points[-1]
        parts.append(
            f'<g style="--c: {_color(number)}"><title>{escape(names[number])}</title>'
            f'<polyline class="line" points="{path}"/>'
            f'<circle class="dot" cx="{x(last_x):.1f}" cy="{y(last_y):.1f}" r="3"/></g>'
        )
    return _frame(title, x, y, x_label, parts)


def scatter_chart(title: str, points: Mapping[int, Point], names: Mapping[int, str], x_label: str) -> str:
    """One numbered point for each network; the horizontal axis is logarithmic."""
    x = Axis((point[0] for point in points.values()), LEFT, WIDTH - RIGHT - 10, log=True)
    y = Axis((point[1] for point in points.values()), HEIGHT - BOTTOM, TOP)
    parts = [
        f'<g style="--c: {_color(number)}"><title>{escape(names[number])}: {escape(format_count(round(a)))}, {b:.4f}'
        f'</title><circle class="dot" cx="{x(a):.1f}" cy="{y(b):.1f}" r="5"/>'
        f'<text class="number" x="{x(a) + 8:.1f}" y="{y(b) + 4:.1f}">{number}</text></g>'
        for number, (a, b) in points.items()
    ]
    return _frame(title, x, y, x_label, parts, x_text=_short_count)


def reliability_chart(title: str, bins: Sequence[Bin]) -> str:
    """Bars of the accuracy by confidence, with the difference in another color; the line is a perfect calibration."""
    x, y = Axis((0, 1), LEFT, WIDTH - RIGHT), Axis((0, 1), HEIGHT - BOTTOM, TOP)
    parts = []
    for number, b in enumerate(bins):
        if not b.images:
            continue
        left, right = x(number / NUM_BINS) + 1, x((number + 1) / NUM_BINS) - 1
        low, high = sorted((b.accuracy, b.confidence))
        kind = "over" if b.accuracy < b.confidence else "under"
        bars = ((kind, high, low), ("bar", low, 0.0))
        parts.append(
            f"<g><title>{b.images:,} images: confidence {b.confidence:.3f}, accuracy {b.accuracy:.3f}</title>"
            + "".join(
                f'<rect class="{name}" x="{left:.1f}" y="{y(top):.1f}" width="{right - left:.1f}" '
                f'height="{y(bottom) - y(top):.1f}"/>'
                for name, top, bottom in bars
            )
            + "</g>"
        )
    parts.append(f'<line class="ideal" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    return _frame(title, x, y, "confidence", parts)


def _frame(
    title: str,
    x: Axis,
    y: Axis,
    x_label: str,
    parts: Sequence[str],
    x_text: Callable[[float], str] = lambda value: f"{value:g}",
) -> str:
    """The chart around `parts`: title, grid, labels of both axes."""
    lines = [f'<text class="title" x="{LEFT}" y="15">{escape(title)}</text>']
    for value in y.ticks:
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        lines.append(f'<text class="tick" x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in x.ticks:
        lines.append(f'<text class="tick" x="{x(value):.1f}" y="{HEIGHT - 22}" text-anchor="middle">')
        lines.append(f"{escape(x_text(value))}</text>")
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines.append(f'<text class="tick" x="{middle:.0f}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>')
    content = "".join([*lines, *parts])
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{content}</svg>'


def _short_count(value: float) -> str:
    """`50k`, `1.5M`."""
    return re.sub(r"\.0+(?=\D)", "", format_count(round(value))) if value >= 1000 else f"{value:g}"


def _color(number: int) -> str:
    return f"var(--c{(number - 1) % NUM_COLORS})"


def _linear_ticks(low: float, high: float) -> list[float]:
    """About five round numbers that cover `low` to `high`."""
    span = max(high - low, 1e-3 * max(abs(high), 1e-6))
    step = 10.0 ** math.floor(math.log10(span / 4))
    step = next(step * factor for factor in (1, 2, 5, 10) if step * factor * 5 >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 10) for n in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Numbers such as 1, 2, 5, 10 around `low` to `high`; of a range of more than three decades, the powers of 10."""
    factors = (1,) if high / low > 1000 else (1, 2, 5)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    below = [tick for tick in ticks if tick <= low] or ticks[:1]
    above = [tick for tick in ticks if tick >= high] or ticks[-1:]
    return [tick for tick in ticks if below[-1] <= tick <= above[0]]
