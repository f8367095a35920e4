"""Output whose reader has ended or whose disk is full, and streams that are closed from the start."""

import os
import subprocess
import sys

import pytest

CODE = """
import logging, sys
from cnnzoo.runtime.stdout import exit_at_stdout_error, prepare_streams
prepare_streams()
"""
LOGGING_CODE = """
from cnnzoo.runtime.console import ConsoleHandler
logging.basicConfig(level="INFO", handlers=[ConsoleHandler()])
for _ in range(3):
    logging.getLogger("x").info("text")
print("done", file=sys.stderr)
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
    process = run("with exit_at_stdout_error():\n    print('text')", stdout=broken_pipe)
    assert (process.returncode, process.stderr) == (141, "")


def test_broken_pipe_does_not_end_logging(broken_pipe):
    process = run(LOGGING_CODE, stdout=broken_pipe)
    assert (process.returncode, process.stderr) == (0, "done\n")


needs_dev_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")


@needs_dev_full
@pytest.mark.parametrize("length", [1, 100_000])  # in the buffer, and larger than it
def test_full_disk_exits_with_one_line(length):
    with open("/dev/full", "w") as stdout:
        process = run(f"with exit_at_stdout_error():\n    print('x' * {length})", stdout=stdout)
    assert process.returncode == 1
    assert process.stderr == "error: stdout: cannot be written: No space left on device\n"


@needs_dev_full
def test_full_disk_does_not_end_logging():
    with open("/dev/full", "w") as stdout:
        process = run(LOGGING_CODE, stdout=stdout)
    assert process.returncode == 0
    assert process.stderr == "warning: stdout: cannot be written: No space left on device; its output is lost\ndone\n"


@needs_dev_full
def test_error_of_another_file_is_raised():
    code = """
with exit_at_stdout_error(), open("/dev/full", "w") as file:
    file.write("text")
"""
    process = run(code, stdout=subprocess.PIPE)
    assert process.stderr.endswith("OSError: [Errno 28] No space left on device\n")
    assert "error: stdout" not in process.stderr


def test_characters_that_stdout_lacks_are_escaped():
    process = run("print('é')", stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (process.returncode, process.stdout) == (0, "\\xe9\n")


def test_closed_stdout_is_replaced():
    code = "with exit_at_stdout_error():\n    print('text', sys.stdout.isatty())"
    process = run(code, preexec_fn=lambda: os.close(1))
    assert (process.returncode, process.stderr) == (0, "")
