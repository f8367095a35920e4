"""SIGINT before and after the imports of a job."""

import signal
import subprocess
import sys

import pytest

from cnnzoo.jobs import JOBS
from cnnzoo.runtime.interrupts import exit_at_sigint, is_interrupt, raise_at_sigint
from tests.helpers import ROOT

# Sends SIGINT when the job starts to import the command line, then runs the script.
INTERRUPTED = """
import runpy, signal, sys
from importlib.abc import MetaPathFinder

class Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "cnnzoo.cli":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def sigint():
    """`sigint(handler)` installs a handler for the test."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("script", [*(f"{job}.py" for job in JOBS), "cnnzoo/__main__.py"])
def test_sigint_during_imports_prints_nothing(script):
    arguments = [str(ROOT / script), *(["train"] if script == "cnnzoo/__main__.py" else [])]
    command = [sys.executable, "-c", INTERRUPTED, *arguments, "--help"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (-signal.SIGINT, "", "")


def test_sigint_raises_again_after_the_imports(sigint):
    sigint(signal.default_int_handler)
    exit_at_sigint()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    raise_at_sigint()
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_other_handlers_of_sigint_are_kept(sigint):
    for handler in (signal.SIG_IGN, lambda *_: None):
        sigint(handler)
        exit_at_sigint()
        raise_at_sigint()
        assert signal.getsignal(signal.SIGINT) == handler


def test_system_exit_of_lightning_is_interrupt():
    errors = []
    for first in (KeyboardInterrupt, ValueError):
        try:
            try:
                raise first
            except first:
                sys.exit(1)
        except SystemExit as error:
            errors.append(error)
    assert [is_interrupt(error) for error in errors] == [True, False]
    assert is_interrupt(KeyboardInterrupt())
    assert not is_interrupt(SystemExit(1))
