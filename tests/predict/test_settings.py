"""The settings of the job predict are checked before anything is loaded."""

import re
from types import SimpleNamespace

import pytest

from cnnzoo.errors import UserError
from cnnzoo.predict import settings
from cnnzoo.predict.settings import check_config, pictures_dir, results_format

DEFAULTS = {
    "images": "photos",
    "topk": 5,
    "format": None,
    "out": None,
    "batch_size": "auto",
    "device": "auto",
    "precision": "auto",
    "explain": False,
    "explain_limit": 16,
    "trust_code": False,
    "layer": None,
}


def config(**values):
    return SimpleNamespace(**{**DEFAULTS, **values})


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"out": "new.csv", "format": "csv"},
        {"out": "new.dat", "format": "json"},
        {"out": "new", "explain": True, "format": "csv"},
        {"device": "cuda:1", "precision": 32, "batch_size": 7},
    ],
)
def test_good_settings_are_accepted(values):
    check_config(config(**values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"images": None}, "images: nothing to classify; type images=FILE"),
        ({"images": ""}, "images: nothing to classify"),
        ({"topk": 0}, "topk=0: expected a whole number >= 1"),
        ({"topk": "5"}, "topk=5"),
        ({"batch_size": 0}, "batch_size=0: expected a whole number >= 1 or auto"),
        ({"batch_size": None}, "batch_size=None"),
        ({"device": "gpu"}, "device=gpu: expected auto, cpu, cuda or mps"),
        ({"device": None}, "device=None: expected auto"),
        ({"precision": "bf16-mixed"}, "precision=bf16-mixed: expected auto, 32 or bf16"),
        ({"format": "xml"}, "format=xml: expected table, json or csv"),
        ({"explain": "yes"}, "explain=yes: expected true or false"),
        ({"trust_code": "yes"}, "trust_code=yes: expected true or false"),
        ({"explain_limit": 0}, "explain_limit=0"),
        ({"layer": "conv1"}, "layer=conv1: selects the feature maps to draw; also type explain=true"),
        ({"out": "new.csv", "explain": True}, "out=new.csv: with explain=true it is the directory for the pictures"),
        ({"out": "new.csv", "format": "json"}, "format=json: out=new.csv stands for format=csv; leave one of them out"),
        ({"out": "old.csv"}, "out=old.csv: this file exists already; type another name"),
        ({"out": "."}, "out=.: this directory exists already; type another name"),
        ({"out": "link"}, "out=link: this file exists already; type another name"),
    ],
)
def test_bad_settings_are_errors(values, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.csv").touch()
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        check_config(config(**values))


def test_explain_without_captum_names_the_extra(monkeypatch):
    monkeypatch.setattr(settings, "find_spec", lambda name: None if name == "captum" else object())
    with pytest.raises(UserError, match=re.escape('explain=true needs captum: type pip install "cnnzoo[explain]"')):
        check_config(config(explain=True))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "table"),
        ({"format": "json"}, "json"),
        ({"out": "x.csv"}, "csv"),
        ({"out": "x.JSONL"}, "json"),
        ({"out": "x.dat"}, "table"),
        ({"out": "x.dat", "format": "csv"}, "csv"),
        ({"out": "x", "explain": True}, "table"),
    ],
)
def test_format_follows_the_suffix(values, expected):
    assert results_format(config(**values)) == expected


def test_pictures_have_a_new_directory():
    assert str(pictures_dir(config(out="x"))) == "x"
    assert re.fullmatch(r"explanations/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", str(pictures_dir(config())))
