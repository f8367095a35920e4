"""The results of predict as text: a table, JSON with one object a line, or CSV. Rows are written batch by batch."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.cells import cell_len, set_cell_size

from cnnzoo.predict.predictor import Prediction
from cnnzoo.runtime.console import LiveBar, is_live_terminal
from cnnzoo.runtime.files import atomic_write

MAX_CLASS_WIDTH = 24  # columns; a longer name shifts the rest of its row
DIGITS = 6  # decimals of probabilities in JSON and CSV

Write = Callable[[str], object]


class Format(Protocol):
    """The text of results: what comes first, and the rows of a batch."""

    header: str

    def rows(self, predictions: Sequence[Prediction]) -> str: ...


class Table:
    """One line per image: the path, the most probable class, its probability, and the next classes.

    paths, classes: all of them, which determine the widths of the columns.
    width: the width of the terminal, at which lines are cut; None: nothing is cut.
    """

    def __init__(self, paths: Sequence[str], classes: Sequence[str] | None, width: int | None = None) -> None:
        self.width = width
        longest = max(len("image"), max((cell_len(printable(path)) for path in paths), default=0))
        self.path_width = longest if width is None else min(longest, max(16, width * 2 // 5))
        self.class_width = min(MAX_CLASS_WIDTH, max(map(cell_len, ("class", *(classes or ())))))
        self.header = self._line("image", "class", "prob.", "next classes")

    def rows(self, predictions: Sequence[Prediction]) -> str:
        return "".join(map(self._row, predictions))

    def _path(self, prediction: Prediction) -> str:
        path = printable(prediction.path)
        if cell_len(path) > self.path_width:  # the end of a path tells more than its beginning
            path = "…" + path[1 - self.path_width :]
        return path

    def _row(self, prediction: Prediction) -> str:
        path = self._path(prediction)
        if prediction.error is not None:
            return self._line(path, f"cannot be read: {prediction.error}", "", "")
        ranked = _ranked_texts(prediction)
        return self._line(path, *ranked[0], ", ".join(map(" ".join, ranked[1:])))

    def _line(self, path: str, name: str, probability: str, rest: str) -> str:
        return self._cut(f"{_pad(path, self.path_width)}  {_pad(name, self.class_width)}  {probability:>6}  {rest}")

    def _cut(self, line: str) -> str:
        """The line, at most as wide as the terminal."""
        line = line.rstrip()
        if self.width is not None and cell_len(line) > self.width:
            line = set_cell_size(line, self.width - 1) + "…"
        return line + "\n"


class MultilabelTable(Table):
    """One line per image: the path, and the classes that it belongs to with their probabilities, or "none"."""

    def __init__(self, paths: Sequence[str], width: int | None = None) -> None:
        super().__init__(paths, None, width)
        self.header = self._cut(f"{_pad('image', self.path_width)}  classes")

    def _row(self, prediction: Prediction) -> str:
        text = ", ".join(map(" ".join, _ranked_texts(prediction))) or "none"
        if prediction.error is not None:
            text = f"cannot be read: {prediction.error}"
        return self._cut(f"{_pad(self._path(prediction), self.path_width)}  {text}")


class JsonLines:
    """One JSON object per line: `path`, and either `predictions` (class, index, probability) or `error`."""

    header = ""

    def rows(self, predictions: Sequence[Prediction]) -> str:
        return "".join(map(self._row, predictions))

    def _row(self, prediction: Prediction) -> str:
        values: dict[str, object] = {"path": prediction.path}
        if prediction.error is not None:
            values["error"] = prediction.error
        else:
            ranked = zip(prediction.classes, prediction.indices, prediction.probabilities, strict=True)
            values["predictions"] = [
                {"class": name, "index": index, "probability": round(probability, DIGITS)}
                for name, index, probability in ranked
            ]
        return json.dumps(values, ensure_ascii=False) + "\n"


class Csv:
    """CSV with the columns `path`, `class_1`, `probability_1`, ..., and `error`, which is empty for a good image."""

    def __init__(self, topk: int) -> None:
        self.topk = topk
        names = [f"{name}_{rank}" for rank in range(1, topk + 1) for name in ("class", "probability")]
        self.header = self._text([["path", *names, "error"]])

    def rows(self, predictions: Sequence[Prediction]) -> str:
        return self._text([self._row(prediction) for prediction in predictions])

    def _row(self, prediction: Prediction) -> list[object]:
        row: list[object] = [prediction.path]
        for name, probability in zip(prediction.classes, prediction.probabilities, strict=True):
            row += [name, round(probability, DIGITS)]
        return [*row, *[""] * (2 * self.topk + 1 - len(row)), prediction.error or ""]

    @staticmethod
    def _text(rows: Sequence[Sequence[object]]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue()


class MultilabelCsv(Csv):
    """CSV with the columns `path`, `classes` and `probabilities`, which `separator` joins, and `error`."""

    separator = ";"

    def __init__(self) -> None:
        self.header = self._text([["path", "classes", "probabilities", "error"]])

    def _row(self, prediction: Prediction) -> list[object]:
        probabilities = (str(round(probability, DIGITS)) for probability in prediction.probabilities)
        lists = (self.separator.join(values) for values in (prediction.classes, probabilities))
        return [prediction.path, *lists, prediction.error or ""]


@contextmanager
def open_output(path: Path | None, bar: LiveBar | None) -> Iterator[Write]:
    """A function that writes text to the file `path`, which appears when the block ends, or else to stdout.

    bar: a bar on stdout, above which the text is printed.
    """
    if path is not None:
        with atomic_write(path, errors="backslashreplace", newline="") as file:
            yield file.write
        return

    def write(text: str) -> None:
        if bar is not None:
            bar.print_above(text)
        else:
            sys.stdout.write(text)
            sys.stdout.flush()  # each batch is visible at once

    yield write


def bar_stream() -> str | None:
    """Where to draw a progress bar: "stdout", "stderr" or None.

    Standard output is preferred if it is a terminal, because rows that are printed there would otherwise overwrite the
    bar. There is no bar if standard output is a pipe: the reader may be on the same terminal.
    """
    if is_live_terminal():
        return "stdout"
    to_pipe = not sys.stdout.isatty() and not sys.stdout.seekable()
    return "stderr" if is_live_terminal(stderr=True) and not to_pipe else None


def _ranked_texts(prediction: Prediction) -> list[tuple[str, str]]:
    """The names and the probabilities of the classes in a prediction."""
    return [
        (printable(name), f"{probability:.1%}")
        for name, probability in zip(prediction.classes, prediction.probabilities, strict=True)
    ]


def printable(text: str) -> str:
    """The text with escapes for what a terminal would not print, such as newlines in file names."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))
