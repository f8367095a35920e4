"""Terminal output of the jobs: log lines, and one live progress bar below them."""

import logging
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

from cnnzoo.runtime.distributed import global_rank, is_rank_zero
from cnnzoo.runtime.formatting import format_duration
from cnnzoo.runtime.stdout import discard_stdout

# Widths in characters. Names and times have one width, so that all bars start in the same column; counts and details
# have a minimum, so that a bar does not change its length with every update.
NAME_WIDTH = 13  # "filling cache", "epoch 300/300"
TIME_LEFT_WIDTH = 11  # "12h34m left"
MIN_COUNT_WIDTH = 7  # "123/456"
MIN_DETAILS_WIDTH = 22  # "loss 0.512  acc1 0.900"
MIN_BAR_WIDTH, MAX_BAR_WIDTH = 8, 40
RIGHT_MARGIN = 4  # room for two ^C
REFRESHES_PER_SECOND = 3  # each takes about 2 ms of one core


class ConsoleHandler(logging.StreamHandler):  # type: ignore[type-arg]  # it takes none at run time before Python 3.11
    """Writes log records to the current `sys.stdout`, which a live progress bar replaces to keep lines above it.

    Only rank 0 logs below WARNING. Formats may use `%(rank)d`, the global rank.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.addFilter(_filter_by_rank)

    @property
    def stream(self) -> TextIO:
        return sys.stdout

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        discard_stdout()  # training continues; train.log has the messages
        if not isinstance(error, BrokenPipeError):
            print(f"warning: stdout: cannot be written: {error.strerror}; its output is lost", file=sys.stderr)


class LogFileHandler(logging.FileHandler):
    """A file handler that prints one line, instead of a traceback for each record, if the file cannot be written."""

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failed:
            self._failed = True
            print(f"warning: {self.baseFilename}: cannot be written: {error.strerror}", file=sys.stderr)


def _filter_by_rank(record: logging.LogRecord) -> bool:
    record.rank = global_rank()
    return record.levelno >= logging.WARNING or is_rank_zero()


class TimeLeftEstimator:
    """Estimates how long a task still takes, from its average speed since the first call of `estimate`.

    The time before that call is not counted: the first step includes one-time costs.
    """

    def __init__(self) -> None:
        self._start: tuple[float, float] | None = None  # when the first call was, and how much was done then

    @property
    def started(self) -> bool:
        """Whether `estimate` has been called."""
        return self._start is not None

    def estimate(self, done: float, total: float) -> float | None:
        """Seconds until `total` is reached if `done` is reached now; None at the first call."""
        now = time.perf_counter()
        if self._start is None:
            self._start = now, done
        start, done_at_start = self._start
        return (now - start) * max(total - done, 0.0) / (done - done_at_start) if done > done_at_start else None


class TimeLeftColumn(ProgressColumn):
    """`1m12s left`: the field `seconds_left`, counted down since the field `updated_at`."""

    def render(self, task: Task) -> Text:
        seconds = task.fields["seconds_left"]
        if seconds is None:
            return Text("")
        seconds = max(seconds - (time.perf_counter() - task.fields["updated_at"]), 0.0)
        return Text(f"{format_duration(seconds):>6} left", style="progress.remaining")


class RightMargin(Constrain):
    """Leaves the last columns free. A terminal echoes ^C there, and a line that wraps could not be erased."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.width = options.max_width - RIGHT_MARGIN
        yield from super().__rich_console__(console, options)


class ProgressWithMargin(Progress):
    """rich's `Progress` with a right margin."""

    def get_renderable(self) -> RenderableType:
        return RightMargin(super().get_renderable())


class LiveBar:
    """A progress bar below the log lines, with two rows: "stage", and "run" below it.

    A row shows a name, a bar, a count, the time left and details. Closing the bar erases it.

    stderr: draw the bar on stderr, and leave what is printed on stdout alone. By default, lines that are printed on
        stdout appear above the bar.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        self.progress = ProgressWithMargin(
            TextColumn("{task.description}", table_column=Column(min_width=NAME_WIDTH, no_wrap=True)),
            BarColumn(None, table_column=Column(min_width=MIN_BAR_WIDTH, max_width=MAX_BAR_WIDTH, ratio=1)),
            TextColumn(
                "{task.fields[count]}", justify="right", table_column=Column(min_width=MIN_COUNT_WIDTH, no_wrap=True)
            ),
            TimeLeftColumn(table_column=Column(width=TIME_LEFT_WIDTH, no_wrap=True)),
            TextColumn("{task.fields[details]}", table_column=Column(min_width=MIN_DETAILS_WIDTH, no_wrap=True)),
            console=Console(stderr=stderr, force_terminal=True),
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=not stderr,
        )
        empty: dict[str, Any] = {"seconds_left": None, "updated_at": 0.0, "count": "", "details": ""}
        self.rows = {row: self.progress.add_task("", visible=False, **empty) for row in ("stage", "run")}
        # One other thread draws everything: Ctrl-C interrupts only the main thread, where it could leave half a bar.
        self._drawing_thread = ThreadPoolExecutor(1, thread_name_prefix="cnnzoo-bar")
        self._drawing_thread.submit(self.progress.start).result()

    def show(
        self,
        name: str,
        done: float,
        total: float,
        *,
        row: str = "stage",
        seconds_left: float | None,
        count: str,
        details: str,
    ) -> None:
        """Update a row: its name, the filled part of the bar (`done` of `total`), and the texts beside it."""
        fields: dict[str, Any] = {
            "seconds_left": seconds_left,
            "updated_at": time.perf_counter(),
            "count": count,
            "details": details,
        }
        self.progress.update(self.rows[row], description=name, total=total, completed=done, visible=True, **fields)
        if done >= total:  # draw it now, because the next stage may replace it before the next refresh
            self._drawing_thread.submit(self.progress.refresh).result()

    def print_above(self, text: str) -> None:
        """Print lines above the bar as they are: `print` would wrap them at the width of the terminal."""
        self._drawing_thread.submit(self.progress.console.out, text, highlight=False, end="").result()

    def close(self) -> None:
        """Erase the bar."""
        self._drawing_thread.submit(self.progress.stop).result()
        self._drawing_thread.shutdown()


@contextmanager
def live_bar() -> Iterator[LiveBar | None]:
    """A bar on a terminal, None elsewhere; closed when the `with` block ends."""
    if not is_live_terminal():
        yield None
        return
    bar = LiveBar()
    try:
        yield bar
    finally:
        bar.close()


def is_live_terminal(*, stderr: bool = False) -> bool:
    """Whether standard output, or standard error, is a terminal whose lines can be redrawn."""
    return (sys.stderr if stderr else sys.stdout).isatty() and Console(stderr=stderr).is_interactive
