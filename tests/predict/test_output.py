"""The table, the JSON and the CSV of predictions."""

import csv
import json

import pytest

from cnnzoo.predict.output import Csv, JsonLines, Table, open_output, printable
from cnnzoo.predict.predictor import Prediction

GOOD = Prediction("a é.jpg", ("tabby, cat", "dog"), (0.91234567, 0.08), (281, 7))
BAD = Prediction('b "c".jpg', error="an empty file")


def test_table_aligns_columns():
    table = Table(["a é.jpg", 'b "c".jpg', "a.jpg"], ["tabby, cat", "dog", "horse"])
    assert table.header == "image      class        prob.  next classes\n"
    assert table.rows([GOOD, BAD]) == (
        "a é.jpg    tabby, cat   91.2%  dog 8.0%\n" + 'b "c".jpg  cannot be read: an empty file\n'
    )


def test_table_with_one_class_has_no_next():
    prediction = Prediction("a.jpg", ("7",), (1.0,), (7,))
    assert Table(["a.jpg"], None).rows([prediction]) == "a.jpg  7      100.0%\n"


def test_table_fits_a_terminal():
    path = "photos/" + "x" * 60 + "/cat.jpg"
    table = Table([path], ["a class with a very long name"] * 5, width=60)
    prediction = Prediction(path, ("a class with a very long name",) * 5, (0.2,) * 5, (0, 1, 2, 3, 4))
    line = table.rows([prediction]).removesuffix("\n")
    assert len(line) == 60
    assert line.endswith("…")
    assert line.startswith("…xxx")
    assert "/cat.jpg  a class" in line


def test_table_escapes_what_is_not_printable():
    assert printable("a\nb\x1b[31m\udcff é") == "a\\nb\\x1b[31m\\udcff é"
    table = Table(["a\nb"], None)
    assert table.rows([Prediction("a\nb", ("7",), (1.0,), (7,))]).count("\n") == 1


def test_wide_characters_count_as_two_columns():
    table = Table(["猫.jpg", "cat.jpg"], None)
    rows = table.rows([Prediction(path, ("7",), (1.0,), (7,)) for path in ("猫.jpg", "cat.jpg")]).splitlines()
    assert rows == ["猫.jpg   7      100.0%", "cat.jpg  7      100.0%"]


def test_json_has_one_object_per_line():
    first, second = map(json.loads, JsonLines().rows([GOOD, BAD]).splitlines())
    assert first == {
        "path": "a é.jpg",
        "predictions": [
            {"class": "tabby, cat", "index": 281, "probability": 0.912346},
            {"class": "dog", "index": 7, "probability": 0.08},
        ],
    }
    assert second == {"path": 'b "c".jpg', "error": "an empty file"}


def test_csv_has_equal_columns():
    output = Csv(topk=2)
    rows = list(csv.DictReader((output.header + output.rows([GOOD, BAD])).splitlines()))
    assert rows == [
        {
            "path": "a é.jpg",
            "class_1": "tabby, cat",
            "probability_1": "0.912346",
            "class_2": "dog",
            "probability_2": "0.08",
            "error": "",
        },
        {
            "path": 'b "c".jpg',
            "class_1": "",
            "probability_1": "",
            "class_2": "",
            "probability_2": "",
            "error": "an empty file",
        },
    ]


def test_output_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "out.csv"
    with open_output(path, None) as write:
        write("a\n\udcff\n")
        assert not path.exists()
    assert path.read_text() == "a\n\\udcff\n"


def test_output_file_of_a_failure_is_removed(tmp_path):
    def fail():
        with open_output(tmp_path / "out.csv", None) as write:
            write("a\n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list(tmp_path.iterdir())
