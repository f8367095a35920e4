"""Labels of images from columns: one class for each image, or any number of classes as multi-hot rows."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from cnnzoo.errors import UserError, list_choices

MultiHot = npt.NDArray[np.uint8]
"""(N, num_classes): 1 where the image belongs to the class, else 0. An image may belong to any number of classes."""
Place = Callable[[int], str]
"""The place of a row for an error message, such as "labels.csv, line 17"; rows count from 0."""

TRUE_VALUES = frozenset({"1", "1.0", "true"})
FALSE_VALUES = frozenset({"0", "0.0", "false"})


def encode_labels(
    values: Sequence[Any] | npt.NDArray[Any],
    place: Place,
    *,
    separator: str | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Labels from one column, (labels, classes): by `multi_hot_from_lists` if it has lists or a `separator` is given.

    Otherwise by `class_labels`.
    """
    is_list = not isinstance(values, np.ndarray) and any(isinstance(value, list | tuple) for value in values)
    if separator is not None or is_list:
        return multi_hot_from_lists(list(values), place, separator=separator, classes=classes)
    return class_labels(values, place, classes=classes)


def class_labels(
    values: Sequence[Any] | npt.NDArray[Any], place: Place, *, classes: Sequence[str] | None = None
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Labels from the class of each image: (labels int64 (N,), classes).

    values: names of classes, which are sorted; or whole numbers, which become names such as "7" in numerical order.
        Spaces around names are ignored.
    classes: the classes in their order; whole numbers are then positions in it, from 0.

    Raises UserError that names the place of a missing label, of a number that is not whole or is negative, of a value
    of another kind, and of one that is not in `classes`.
    """
    if isinstance(values, np.ndarray):  # of numbers
        unique, rows = np.unique(values, return_inverse=True)
        texts = [str(value) for value in unique.tolist()]
    else:
        for row, value in enumerate(values):
            if not isinstance(value, str | int | float | None):
                raise UserError(f"{place(row)}: found {str(value)[:40]}, expected the name or number of a class")
        numbers_of: dict[Any, int] = {}  # of the distinct values
        rows = np.array([numbers_of.setdefault(value, len(numbers_of)) for value in values], np.int64)
        texts = ["" if value is None else str(value).strip() for value in numbers_of]

    def first(number: int) -> str:
        return place(int(np.argmax(rows == number)))

    if "" in texts:
        raise UserError(f"{first(texts.index(''))}: no label; expected the name or number of a class")
    whole = [re.fullmatch(r"(-?(?:0|[1-9]\d*))(?:\.0*)?", text) for text in texts]
    if all(whole):
        numbers = [int(match[1]) for match in whole if match]
        limit = float("inf") if classes is None else len(classes)
        for number, value in enumerate(numbers):
            if not 0 <= value < limit:
                expected = "0 or more" if classes is None else f"from 0 to {len(classes) - 1}"
                raise UserError(f"{first(number)}: the label is {value}, expected a whole number {expected}")
        if classes is None:
            ordered = sorted(set(numbers))
            classes, numbers = [str(number) for number in ordered], [ordered.index(value) for value in numbers]
        return np.array(numbers, np.int64)[rows], tuple(classes)
    with suppress(ValueError, StopIteration):  # text, or numbers that begin with 0, which are names
        for text in texts:
            float(text)
        number = next(
            number for number, text in enumerate(texts) if not text.lstrip("-").isdecimal() and not whole[number]
        )
        raise UserError(
            f"{first(number)}: the label is {texts[number]}, expected the name of a class or a whole number"
        )
    if classes is None:
        classes = sorted(set(texts))
    columns = {name: column for column, name in enumerate(classes)}
    for number, text in enumerate(texts):
        if text not in columns:
            raise UserError(
                f"{first(number)}: unknown class '{text[:40]}'; expected one of {list_choices(classes, 10)}"
            )
    return np.array([columns[text] for text in texts], np.int64)[rows], tuple(classes)


def check_label_columns(label_columns: Any, label_separator: str | None) -> list[str]:
    """Return `data.label_columns` as a list of names. Raises UserError for anything else, and with a separator."""
    key = f"data.label_columns={label_columns}"
    if isinstance(label_columns, str) or not isinstance(label_columns, Iterable) or not (names := list(label_columns)):
        example = label_columns if isinstance(label_columns, str) and label_columns else "even,prime"
        raise UserError(f"{key}: expected a list of columns; type data.label_columns=[{example}]")
    if label_separator is not None:
        raise UserError(
            f"data.label_separator={label_separator}: it separates names in one column; leave it out, or {key}"
        )
    if len(set(names)) < len(names):
        raise UserError(f"{key}: a column is there twice; leave it out once")
    return [str(name) for name in names]


def multi_hot_from_columns(
    columns: Mapping[str, Iterable[Any]], place: Place, *, key: str = "data.label_columns"
) -> tuple[MultiHot, tuple[str, ...]]:
    """Labels from one column per class, with 1 (or true) and 0 (or false): (labels, classes).

    columns: the values of each column, numbers, booleans or text, by the name of the class.
    key: the setting that names the columns.

    Raises UserError that names the place of a value that is neither, and the column.
    """
    classes = tuple(columns)
    rows: list[npt.NDArray[np.uint8]] = []
    for name in classes:
        texts = [str(value).strip().lower() for value in columns[name]]
        wrong = next((row for row, text in enumerate(texts) if text not in TRUE_VALUES | FALSE_VALUES), None)
        if wrong is not None:
            found = f"'{texts[wrong][:40]}'" if texts[wrong] else "nothing"
            raise UserError(
                f"{place(wrong)}: found {found} in column {name}, expected 0 or 1; correct it, or leave the column out "
                f"of {key}"
            )
        rows.append(np.fromiter((text in TRUE_VALUES for text in texts), np.uint8, len(texts)))
    return np.ascontiguousarray(np.stack(rows, axis=1)), classes


def multi_hot_from_lists(
    values: Sequence[Any],
    place: Place,
    *,
    separator: str | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[MultiHot, tuple[str, ...]]:
    """Labels from a list of class names for each image: (labels, classes).

    values: for each image a list of names or numbers, or with `separator` a text such as "sky;tree". An empty list,
        an empty text and None stand for an image without a class. Spaces around names are ignored.
    classes: the classes in their order; numbers are then positions in it, from 0. None for all that occur, sorted
        (numbers by their value).

    Raises UserError that names the place of a value of another kind, and of a name that is not in `classes`; and if
    there is no class at all.
    """
    names = [_names(value, row, place, separator) for row, value in enumerate(values)]
    if classes is not None and _has_numbers(values):
        positions = {str(number): name for number, name in enumerate(classes)}
        names = [[positions.get(name, name) for name in row] for row in names]
    if classes is None:
        classes = _sorted({name for row in names for name in row})
        if not classes:
            raise UserError(f"{place(0)}: no image has a label; expected the names of classes")
    columns = {name: column for column, name in enumerate(classes)}
    labels = np.zeros((len(names), len(classes)), np.uint8)
    for row, row_names in enumerate(names):
        for name in row_names:
            if name not in columns:
                raise UserError(
                    f"{place(row)}: unknown class '{name[:40]}'; expected one of {list_choices(list(classes), 10)}"
                )
            labels[row, columns[name]] = 1
    return labels, tuple(classes)


def _names(value: Any, row: int, place: Place, separator: str | None) -> list[str]:
    """The names in one value of a column of lists."""
    if value is None:
        return []
    if separator is not None and isinstance(value, str):
        parts = [part.strip() for part in value.split(separator)]
        return [part for part in parts if part]
    if isinstance(value, list | tuple | np.ndarray):
        return [str(name).strip() for name in value]
    if isinstance(value, str):
        raise UserError(
            f"{place(row)}: found the text '{value[:40]}', expected a list of class names; for a text such as "
            "'a;b' type data.label_separator=';'"
        )
    raise UserError(f"{place(row)}: found {str(value)[:40]!r}, expected a list of class names")


def _has_numbers(values: Sequence[Any]) -> bool:
    """Whether the first of the lists that are not empty has a whole number."""
    first = next((value[0] for value in values if isinstance(value, list | tuple) and value), None)
    return isinstance(first, int)


def _sorted(names: set[str]) -> list[str]:
    """The names in alphabetical order; if all are whole numbers, in the order of their values."""
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
