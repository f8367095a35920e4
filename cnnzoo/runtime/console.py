"""How the jobs' log and their progress reach the terminal: log lines, and below them one live bar."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from cnnzoo.runtime.formatting import format_duration

RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
"""Where torchrun, SLURM and Lightning say which process of a training this is; the first has 0 in all that are set."""
NAME_WIDTH, LEFT_WIDTH = (
    13,
    11,
)  # characters of "filling cache" and "epoch 300/300", and of "12h34m left": all bars begin alike
COUNT_WIDTH, FIGURES_WIDTH = (
    7,
    22,
)  # at least: of "123/456", and of "loss 0.512  acc1 0.900"; so that a bar keeps its length
MIN_BAR_WIDTH, MAX_BAR_WIDTH = 8, 40  # of the bar itself
MARGIN_COLUMNS = 4  # for two ^C
EMPTY_FIELDS: dict[str, Any] = {"left": None, "told": 0.0, "count": "", "figures": ""}  # beside a row
REFRESHES_PER_SECOND = 3  # times a second; each takes about 2 ms of one core


class ConsoleHandler(logging.StreamHandler):
    """Writes to whatever `sys.stdout` is at the time: above a live progress bar, not through it.

    Of the processes of a training only the first says what is not at least a warning: all would say the same.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.addFilter(lambda record: record.levelno >= logging.WARNING or is_rank_zero())

    @property
    def stream(self) -> TextIO:
        """The present standard output."""
        return sys.stdout


class TimeLeftEstimator:
    """How long something takes that goes evenly, once it is under way: what came before its first mark is left out."""

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None

    @property
    def began(self) -> bool:
        """Whether there was a mark yet."""
        return self._began is not None

    def left(self, done: float, total: float) -> float | None:
        """Mark that `done` of `total` is done by now; the seconds that the rest takes, None at the first mark."""
        now = time.perf_counter()
        if self._began is None:
            self._began = now, done
        began, before = self._began
        return (now - began) * max(total - done, 0.0) / (done - before) if done > before else None


class TimeLeftColumn(ProgressColumn):
    """`1m12s left`, counted down between two updates of the field `left`, in seconds."""

    def render(self, task: Task) -> Text:
        """The text."""
        if task.fields.get("left") is None:
            return Text("")
        seconds = max(task.fields["left"] - (time.perf_counter() - task.fields["told"]), 0.0)
        return Text(f"{format_duration(seconds):>6} left", style="progress.remaining")


class RightMargin(Constrain):
    """Leaves the last columns free, where a terminal echoes ^C: a line that wraps there would stay behind."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What is inside, that much narrower."""
        self.width = options.max_width - MARGIN_COLUMNS
        yield from super().__rich_console__(console, options)


class ProgressRows(Progress):
    """`Progress` with a margin."""

    def get_renderable(self) -> RenderableType:
        """The rows."""
        return RightMargin(super().get_renderable())


class LiveBar:
    """Rows of name, bar, count, time left and figures, below what is logged; gone without a trace when it is closed."""

    def __init__(self) -> None:
        self.progress = ProgressRows(
            TextColumn("{task.description}", table_column=Column(min_width=NAME_WIDTH, no_wrap=True)),
            BarColumn(None, table_column=Column(min_width=MIN_BAR_WIDTH, max_width=MAX_BAR_WIDTH, ratio=1)),
            TextColumn(
                "{task.fields[count]}", justify="right", table_column=Column(min_width=COUNT_WIDTH, no_wrap=True)
            ),
            TimeLeftColumn(table_column=Column(width=LEFT_WIDTH, no_wrap=True)),
            TextColumn("{task.fields[figures]}", table_column=Column(min_width=FIGURES_WIDTH, no_wrap=True)),
            console=Console(force_terminal=True),
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
        )
        self.rows = {row: self.progress.add_task("", visible=False, **EMPTY_FIELDS) for row in ("stage", "run")}
        # A thread draws all: Ctrl-C interrupts the main thread alone, and half a drawing would stay on the screen
        self._pen = ThreadPoolExecutor(1, thread_name_prefix="cnnzoo-bar")
        self._pen.submit(self.progress.start).result()

    def show(
        self, name: str, done: float, total: float, *, row: str = "stage", left: float | None, count: str, figures: str
    ) -> None:
        """Set the row "stage", or "run" below it: its name, how far it is, the seconds left, what stands beside it."""
        fields: dict[str, Any] = {"left": left, "told": time.perf_counter(), "count": count, "figures": figures}
        self.progress.update(self.rows[row], description=name, total=total, completed=done, visible=True, **fields)
        if done >= total:  # drawn at once, as the next thing may take its place
            self._pen.submit(self.progress.refresh).result()

    def close(self) -> None:
        """Take it off the screen."""
        self._pen.submit(self.progress.stop).result()
        self._pen.shutdown()


@contextmanager
def live_bar() -> Iterator[LiveBar | None]:
    """A bar on a terminal, None elsewhere; closed at the end, whatever happens."""
    if not is_live_terminal():
        yield None
        return
    shown = LiveBar()
    try:
        yield shown
    finally:
        shown.close()


def is_live_terminal() -> bool:
    """Whether standard output is a terminal on which lines can be drawn again."""
    return sys.stdout.isatty() and Console().is_interactive


def is_rank_zero() -> bool:
    """Whether this is the first process of a training, or the only one."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)
