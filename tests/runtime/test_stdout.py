"""Output whose reader has ended, and streams that are closed from the start."""

import os
import subprocess
import sys

import pytest

CODE = """
import logging, sys
from cnnzoo.runtime.stdout import exit_at_broken_pipe, replace_closed_streams
replace_closed_streams()
"""


def run(code, **options):
    return subprocess.run([sys.executable, "-c", CODE + code], stderr=subprocess.PIPE, text=True, **options)


@pytest.fixture
def broken_pipe():
    """The writing end of a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def test_broken_pipe_exits_without_traceback(broken_pipe):
    process = run("with exit_at_broken_pipe():\n    print('text')", stdout=broken_pipe)
    assert (process.returncode, process.stderr) == (141, "")


def test_broken_pipe_does_not_end_logging(broken_pipe):
    code = """
from cnnzoo.runtime.console import ConsoleHandler
logging.basicConfig(level="INFO", handlers=[ConsoleHandler()])
for _ in range(3):
    logging.getLogger("x").info("text")
print("done", file=sys.stderr)
"""
    process = run(code, stdout=broken_pipe)
    assert (process.returncode, process.stderr) == (0, "done\n")


def test_closed_stdout_is_replaced():
    code = "with exit_at_broken_pipe():\n    print('text', sys.stdout.isatty())"
    process = run(code, preexec_fn=lambda: os.close(1))
    assert (process.returncode, process.stderr) == (0, "")
