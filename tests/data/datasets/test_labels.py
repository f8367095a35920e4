"""Multi-label labels from columns and from lists."""

import numpy as np
import pytest

from cnnzoo.data.datasets.labels import (
    check_label_columns,
    encode_labels,
    multi_hot_from_columns,
    multi_hot_from_lists,
)
from cnnzoo.errors import UserError


def place(row):
    return f"labels.csv: row {row + 2}"


def test_multi_hot_from_columns_of_text_and_numbers():
    columns = {"even": ["1", "0", " 1 "], "prime": [True, False, 1], "big": [0.0, 1, "False"]}
    labels, classes = multi_hot_from_columns(columns, place)
    assert classes == ("even", "prime", "big")
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize(("value", "found"), [("2", "'2'"), ("", "nothing"), (None, "'none'"), (0.5, "'0.5'")])
def test_multi_hot_from_columns_other_value_is_an_error(value, found):
    with pytest.raises(UserError, match=f"labels.csv: row 3: found {found} in column even, expected 0 or 1"):
        multi_hot_from_columns({"even": ["1", value]}, place)


def test_multi_hot_from_lists_of_text():
    labels, classes = multi_hot_from_lists(["sky; tree", "", None, "sea;sky;"], place, separator=";")
    assert classes == ("sea", "sky", "tree")
    assert labels.tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0], [1, 1, 0]]


def test_multi_hot_from_lists_of_numbers():
    labels, classes = multi_hot_from_lists([[10, 2], [], [2]], place)
    assert classes == ("2", "10")
    assert labels.tolist() == [[1, 1], [0, 0], [1, 0]]
    named, _ = multi_hot_from_lists([[2, 0], [], [1]], place, classes=("sea", "sky", "tree"))
    assert named.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert multi_hot_from_lists([["tree"]], place, classes=("sea", "tree"))[0].tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("values", "arguments", "message"),
    [
        ([["a"], ["b"]], {"classes": ("a",)}, "labels.csv: row 3: unknown class 'b'; expected one of a"),
        ([[0], [2]], {"classes": ("a", "b")}, "labels.csv: row 3: unknown class '2'"),
        ([["a"], "a;b"], {}, "labels.csv: row 3: found the text 'a;b'.*data.label_separator=';'"),
        ([["a"], 3], {}, "labels.csv: row 3: found '3', expected a list"),
        (["", ""], {"separator": ";"}, "no image has a label"),
    ],
)
def test_multi_hot_from_lists_errors_name_the_row(values, arguments, message):
    with pytest.raises(UserError, match=message):
        multi_hot_from_lists(values, place, **arguments)


def test_encode_labels_recognizes_lists():
    assert encode_labels([["a"], ["a", "b"]], place)[0].tolist() == [[1, 0], [1, 1]]
    assert encode_labels(["a", "a;b"], place, separator=";")[0].tolist() == [[1, 0], [1, 1]]
    assert encode_labels(["a", "a;b"], place)[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("columns", "separator", "message"),
    [
        ("even", None, r"data.label_columns=even: expected a list of columns; type data.label_columns=\[even\]"),
        ([], None, r"data.label_columns=\[\]: expected a list of columns"),
        (3, None, "data.label_columns=3: expected a list of columns"),
        (["a", "a"], None, "a column is there twice"),
        (["a"], ";", "data.label_separator=;: it separates names in one column"),
    ],
)
def test_check_label_columns_errors(columns, separator, message):
    with pytest.raises(UserError, match=message):
        check_label_columns(columns, separator)
