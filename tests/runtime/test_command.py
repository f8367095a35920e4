"""The form of the commands that messages suggest."""

import sys

import pytest

from cnnzoo.runtime import command


@pytest.mark.parametrize(
    ("argv0", "spec", "expected"),
    [
        ("train.py", None, "python train.py"),
        ("../a dir/train.py", None, "python '../a dir/train.py'"),
        ("/usr/bin/cnnzoo", None, "cnnzoo train"),
        ("/x/cnnzoo/__main__.py", "cnnzoo.__main__", "python -m cnnzoo train"),
        ("/x/cnnzoo/jobs/train.py", "cnnzoo.jobs.train", "python -m cnnzoo train"),
    ],
)
def test_job_command_has_the_typed_form(monkeypatch, argv0, spec, expected):
    monkeypatch.setenv(command.VARIABLE, "")
    monkeypatch.delenv(command.VARIABLE)
    monkeypatch.setattr(sys, "argv", [argv0])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec, raising=False)
    command.record_command("train")
    assert command.job_command("train") == expected
    assert command.job_command("describe") == expected.replace("train", "describe")


def test_job_command_of_a_child_process_is_the_parents(monkeypatch):
    monkeypatch.setenv(command.VARIABLE, "cnnzoo {job}")
    monkeypatch.setattr(sys, "argv", ["train.py"])
    command.record_command("train")
    assert command.job_command("train") == "cnnzoo train"
