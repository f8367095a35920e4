"""The installed command `cnnzoo`."""

import re
import subprocess
import sys

import pytest

from cnnzoo import __main__, __version__
from cnnzoo.jobs import JOBS


@pytest.fixture
def run_main(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setenv("CNNZOO_COMMAND", "cnnzoo {job}")
        monkeypatch.setattr(sys, "argv", ["cnnzoo", *arguments])
        __main__.main()
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_help_lists_the_jobs(run_main, arguments):
    page = run_main(*arguments)
    for job in JOBS:
        assert re.search(rf"^  cnnzoo {job} +[A-Z]", page, re.MULTILINE)
    assert max(map(len, page.splitlines())) <= 120


def test_version(run_main):
    assert run_main("--version") == f"cnnzoo {__version__}\n"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("trian", "error: unknown job 'trian': did you mean train?"),
        (
            "model=resnet",
            "error: 'model=resnet' is not a job; type the job first, for example: cnnzoo train model=resnet",
        ),
        ("--epochs", "error: '--epochs' is not a job"),
    ],
)
def test_wrong_job_is_one_line(run_main, argument, message):
    with pytest.raises(SystemExit) as exit_:
        run_main(argument)
    assert str(exit_.value).startswith(message)
    assert "\n" not in str(exit_.value)


def test_job_runs_from_any_directory(tmp_path):
    """Printed commands have the typed form, and every job finds its configuration."""
    process = subprocess.run([sys.executable, "-m", "cnnzoo", "describe"], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "python -m cnnzoo describe model=resnet" in process.stdout
    assert not list(tmp_path.iterdir())
