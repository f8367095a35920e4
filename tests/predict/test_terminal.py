"""The job predict on a terminal: a bar below the rows, and rows that are cut at the width of the terminal."""

import os
import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT
from tests.predict.test_predictor import GOOD

fcntl = pytest.importorskip("fcntl")
pty = pytest.importorskip("pty")
termios = pytest.importorskip("termios")


def predict_on_terminal(*overrides, stdout=None):
    """Run `predict.py` on a pseudo-terminal of 60 columns; returns the exit code and what the terminal got.

    stdout: a file for standard output instead of the terminal.
    """
    terminal, child_terminal = pty.openpty()
    fcntl.ioctl(child_terminal, termios.TIOCSWINSZ, b"\x18\0\x3c\0\0\0\0\0")  # 24 rows, 60 columns
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "predict.py"), "device=cpu", *overrides],
        env={**inherited, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=child_terminal if stdout is None else stdout,
        stderr=child_terminal,
    )
    os.close(child_terminal)
    output = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # no process has the terminal open any more
            break
        if not chunk:
            break
        output += chunk
    os.close(terminal)
    return process.wait(60), output.decode()


@pytest.mark.long
def test_rows_are_printed_above_the_bar(run_dir, photos):
    code, output = predict_on_terminal(f"run={run_dir}", f"images={photos}", "batch_size=4")
    assert code == 0
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", output)
    lines = re.split(r"[\r\n]+", text)
    rows = [line for line in lines if "…" in line and "classifying" not in line]
    assert len(rows) >= len(GOOD)
    assert max(map(len, rows)) <= 60
    assert "classifying" in text
    assert lines[-2].startswith("10 images in")


@pytest.mark.long
def test_bar_leaves_a_redirected_stdout_alone(run_dir, photos, tmp_path):
    with (tmp_path / "out.csv").open("w") as file:
        code, output = predict_on_terminal(f"run={run_dir}", f"images={photos}", "format=csv", stdout=file)
    assert code == 0
    assert "classifying" in output
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0].startswith("path,class_1,")
    assert "\x1b" not in "".join(lines)
    assert not any(line in output for line in lines)
