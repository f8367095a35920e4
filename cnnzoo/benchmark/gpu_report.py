"""`Report`: the results of `benchmark.py job=gpu`, one line each as soon as it is known, and all of them as JSON."""

import gc
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from cnnzoo.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Status = Literal["pass", "fail", "skipped", "measured"]
"""A skipped check could not run on this machine. A measured figure has no bar here, such as a GPU's time on a CPU."""
Relation = Literal["<", "<=", ">="]

CHECK_WIDTH, FIGURE_WIDTH, BAR_WIDTH = 49, 12, 7
"""Widths of the columns, in characters."""
MAX_REASON = 200
"""Characters of a reason; an exception's message may be long."""

log = logging.getLogger(__name__)


class SkippedError(Exception):
    """Raised by a check that cannot run on this machine; its message is the reason."""


class CheckError(Exception):
    """Raised by a check that fails without a figure; its message is the reason."""


@dataclass(frozen=True)
class Result:
    """One line: what was checked, the figure, its bar and the outcome.

    figure: None if nothing was measured.
    relation, bar: the figure passes if `figure <relation> bar`; None without a bar.
    reason: why the check failed or was skipped, or a note about the figure.
    details: further figures, for the JSON file only.
    """

    check: str
    status: Status
    figure: float | None = None
    unit: str = ""
    relation: Relation | None = None
    bar: float | None = None
    reason: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The line of the table."""
        figure = "-" if self.figure is None else f"{_format_figure(self.figure)} {self.unit}".strip()
        bar = "" if self.bar is None else f"{self.relation} {_format_figure(self.bar)}"
        status = self.status.upper() if self.status == "fail" else self.status
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.check:<{CHECK_WIDTH}} {figure:>{FIGURE_WIDTH}}  {bar:<{BAR_WIDTH}} {status}{reason}"


class Report:
    """Collects results, logs each as one line, and writes all of them to `path` after each one.

    path: a JSON file, or None for no file.
    facts: about the machine, for the file.

    Raises `UserError` if the file cannot be written.
    """

    def __init__(self, path: Path | None, facts: dict[str, Any]) -> None:
        self.path, self.facts = path, facts
        self.results: list[Result] = []
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """The time since the report was created."""
        return time.perf_counter() - self._start

    @property
    def failed(self) -> list[Result]:
        """The results of checks that failed."""
        return [result for result in self.results if result.status == "fail"]

    def log_header(self) -> None:
        """Log the names of the columns."""
        log.info("%s", f"{'check':<{CHECK_WIDTH}} {'figure':>{FIGURE_WIDTH}}  {'bar':<{BAR_WIDTH}} result")

    def judge(
        self, check: str, figure: float, unit: str, relation: Relation, bar: float, *, note: str = "", **details: Any
    ) -> None:
        """Add a figure that passes if `figure <relation> bar`; NaN never passes."""
        passed = {"<": figure < bar, "<=": figure <= bar, ">=": figure >= bar}[relation]
        self._add(Result(check, "pass" if passed else "fail", figure, unit, relation, bar, note, details))

    def measure(self, check: str, figure: float, unit: str, *, note: str = "", **details: Any) -> None:
        """Add a figure that has no bar."""
        self._add(Result(check, "measured", figure, unit, reason=note, details=details))

    def skip(self, check: str, reason: str) -> None:
        """Add a check that cannot run on this machine."""
        self._add(Result(check, "skipped", reason=reason))

    @contextmanager
    def checking(self, check: str) -> Iterator[None]:
        """Add a failed check if the block raises, and continue after it. `SkippedError` adds a skipped one.

        Frees the GPU's memory that the block leaves behind.
        """
        try:
            yield
        except SkippedError as error:
            self.skip(check, str(error))
        except Exception as error:
            log.debug("%s", check, exc_info=True)
            self._add(Result(check, "fail", reason=one_line(error)))
        free_memory()

    def to_dict(self) -> dict[str, Any]:
        """The contents of the JSON file. `passed` is true only if each check with a bar ran and passed."""
        counts = Counter(result.status for result in self.results)
        return {
            "passed": counts["pass"] > 0 and not counts["fail"] and not counts["skipped"],
            "counts": {status: counts[status] for status in ("pass", "fail", "skipped", "measured")},
            "seconds": round(self.seconds, 1),
            "machine": self.facts,
            "results": [
                {
                    "check": result.check,
                    "status": result.status,
                    "figure": None if result.figure is None or math.isnan(result.figure) else result.figure,
                    "unit": result.unit,
                    "relation": result.relation,
                    "bar": result.bar,
                    "reason": result.reason,
                    **({"details": result.details} if result.details else {}),
                }
                for result in self.results
            ],
        }

    def _add(self, result: Result) -> None:
        self.results.append(result)
        log.info("%s", result.text)
        if self.path is not None:
            try:
                self.path.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
            except OSError as error:
                raise UserError(f"json={self.path} cannot be written: {error.strerror}") from error


def free_memory() -> None:
    """Free the GPU's memory that is not used any more, so that the next check has as much of it."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def one_line(error: BaseException) -> str:
    """The first line of an exception's message, after its type, at most `MAX_REASON` characters."""
    lines = str(error).strip().splitlines() or [""]
    name = "" if isinstance(error, UserError | CheckError) else f"{type(error).__name__}: "
    text = f"{name}{lines[0]}".removesuffix(": ")
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 3]}..."


def _format_figure(figure: float) -> str:
    """`0`, `0.982`, `131`, `28,450`: three significant digits, or a whole number."""
    if figure == int(figure) if math.isfinite(figure) else False:
        return f"{int(figure):,}"
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def draw_shares(figure: "Figure", *, results: Sequence[Result], bar: float) -> None:
    """Training as a fraction of a hand-written loop, one group of bars for each network; `bar` is a line.

    results: those whose details have "shares", by the name of the loader.
    """
    axes = figure.subplots()
    loaders = list(results[0].details["shares"])
    height = 0.8 / len(loaders)
    for index, loader in enumerate(loaders):
        positions = [row + (index + 0.5) * height - 0.4 for row in range(len(results))]
        bars = axes.barh(positions, [result.details["shares"][loader] for result in results], height, label=loader)
        axes.bar_label(bars, fmt="{:.3f}", padding=2, fontsize=7)
    axes.set_yticks(range(len(results)), [result.check.partition(":")[0] for result in results])
    axes.axvline(bar, color="black", linewidth=1)
    axes.set_xlabel("training from RAM / hand-written loop")
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=len(loaders), fontsize=8)
