"""Image files that a CSV or TSV file lists, one per row, with a column of paths and a column of labels."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cnnzoo.data.datasets.file_source import MAX_NAME_LENGTH, SPLIT_NAMES, ListedImages, check_column
from cnnzoo.data.datasets.labels import check_label_columns, encode_labels, multi_hot_from_columns
from cnnzoo.data.split import SPLITS, Split
from cnnzoo.errors import UserError, nearest
from cnnzoo.runtime.formatting import plural

DELIMITERS = ",;\t"
MAX_LISTED_FILES = 3  # missing files in an error message


class CSVFile(ListedImages):
    """The image files that the rows of a CSV file list. Its first line has the names of the columns.

    root: the directory that relative paths start from; None: that of the CSV file.
    path: the CSV file, in UTF-8, separated by commas, semicolons or tabs.
    path_column, label_column: the columns with the path and the class of each image; see `class_labels`.
    split_column: the column with "train", "val" or "test"; None: all images are train. Missing splits are taken from
        train, as in `ImageFolder`.
    label_columns: instead of `label_column`, columns with 0 or 1 that are the classes of a multi-label set.
    label_separator: what separates several classes in `label_column`, such as ";".

    Constructing it reads the CSV file and looks for the image files. `missing_files` is an error message about those
    that do not exist, or None. Raises UserError, with the row, for anything else that is wrong.
    """

    name = "csv"

    def __init__(
        self,
        root: str | None = None,
        split_seed: int = 0,
        *,
        path: str | None = None,
        path_column: str = "image",
        label_column: str = "label",
        split_column: str | None = None,
        label_columns: Sequence[str] | None = None,
        label_separator: str | None = None,
    ) -> None:
        if path is None or not str(path):
            given = root if root is not None and Path(str(root)).is_file() else "FILE.csv"
            raise UserError(f"data=csv: expected data.path={given}, with a column of paths and a column of labels")
        self.path = Path(str(path)).expanduser()
        table = _Table(self.path)
        base = self.path.parent if root is None else Path(str(root)).expanduser()
        if not base.is_dir():
            raise UserError(f"data.root={root}: no such directory; expected the one that the paths start from")
        names = table.column("data.path_column", path_column, likely=table.column_of_files(base))
        if "" in names:
            raise UserError(f"{table.place(names.index(''))}: nothing in column {path_column}, expected a path")
        directory = base.absolute()
        paths = [os.path.join(directory, name) for name in names]
        self.missing_files = _missing_files(table, names, paths)
        labels: npt.NDArray[Any]
        if label_columns is not None:
            label_columns = check_label_columns(label_columns, label_separator)
            columns = {name: table.column("data.label_columns", name) for name in label_columns}
            labels, classes = multi_hot_from_columns(columns, table.place)
        else:
            values = table.column("data.label_column", label_column)
            labels, classes = encode_labels(values, table.place, separator=label_separator)
        split_of_image = np.zeros(len(labels), np.int8)
        if split_column is not None:
            split_of_image = _split_numbers(table, table.column("data.split_column", split_column))
        images = Split(labels, paths=np.array([os.fsencode(name) for name in paths], np.bytes_))
        self._set_splits(
            images, classes, split_of_image, where=str(self.path), place=table.place, split_seed=split_seed
        )


class _Table:
    """The cells of a CSV file as text. Raises UserError for a file that is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line_numbers: list[int] = []
        self.rows: list[list[str]] = []
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                header = file.readline()
                file.seek(0)
                reader = csv.reader(file, delimiter=max(DELIMITERS, key=header.count))
                self.columns = [name.strip() for name in next(reader, [])]
                for row in reader:
                    if row:
                        self.rows.append(row)
                        self.line_numbers.append(reader.line_num)
        except OSError as error:
            raise UserError(f"data.path={path}: cannot be read: {error.strerror}") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"data.path={path}: is not a CSV file in UTF-8 ({error})") from error
        if not self.rows:
            raise UserError(f"data.path={path}: has no rows; expected a line with the names of the columns, then rows")
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise UserError(
                    f"{self.place(number)}: {plural(len(row), 'cell')}, expected {len(self.columns)} as in the first "
                    "line; put quotes around a value that contains the separator"
                )

    def place(self, row: int) -> str:
        """The place of a row: its line in the file, from 1 for the names of the columns."""
        return f"{self.path}: row {self.line_numbers[row]}"

    def column_of_files(self, directory: Path) -> str | None:
        """The first column whose cell in the first row names a file in `directory`."""
        cells = zip(self.columns, self.rows[0], strict=True)
        return next((name for name, cell in cells if os.path.isfile(os.path.join(directory, cell.strip()))), None)

    def column(self, key: str, name: str, *, likely: str | None = None) -> list[str]:
        """The cells of a column. `key` is the setting that names it, `likely` a column to suggest in an error."""
        index = self.columns.index(check_column(key, str(name), self.columns, str(self.path), likely=likely))
        return [row[index].strip() for row in self.rows]


def _split_numbers(table: _Table, names: Sequence[str]) -> npt.NDArray[np.int8]:
    """The number in `SPLITS` of each name; raises UserError for a name that is no split's."""
    for row, name in enumerate(names):
        if name.lower() not in SPLIT_NAMES:
            similar = nearest(name, SPLIT_NAMES, limit=1)
            hint = f"did you mean {similar[0]}?" if similar else f"expected {', '.join(SPLITS)}"
            raise UserError(f"{table.place(row)}: unknown split '{name[:MAX_NAME_LENGTH]}': {hint}")
    return np.array([SPLITS.index(SPLIT_NAMES[name.lower()]) for name in names], np.int8)


def _missing_files(table: _Table, names: Sequence[str], paths: Sequence[str]) -> str | None:
    """The error for the files that do not exist, with their rows. It lists each directory once, which is quick."""
    listed: dict[str, frozenset[str]] = {}
    missing = []
    for row, path in enumerate(paths):
        directory, name = os.path.split(path)
        if directory not in listed:
            try:
                listed[directory] = frozenset(os.listdir(directory))
            except OSError:
                listed[directory] = frozenset()
        if name not in listed[directory] and not os.path.isfile(path):  # a file system may ignore case
            missing.append(row)
    if not missing:
        return None
    first = "; ".join(f"row {table.line_numbers[row]}: {names[row][-60:]}" for row in missing[:MAX_LISTED_FILES])
    more = f"; and {len(missing) - MAX_LISTED_FILES} more" if len(missing) > MAX_LISTED_FILES else ""
    way_out = "type data.root=DIR with the directory that the paths start from"
    if len(missing) < len(paths):
        way_out = "correct them, or type data.on_bad_file=skip"
    return f"{table.path}: {plural(len(missing), 'file')} of {len(paths)} missing ({first}{more}); {way_out}"
