"""What reaches the terminal, read from a pseudo-terminal, and what reaches a pipe."""

import io
import logging
import os
import re
import signal
import struct
import subprocess
import sys

import pytest

from cnnzoo.runtime import console
from cnnzoo.runtime.console import ConsoleHandler, TimeLeftEstimator, is_live_terminal, is_rank_zero
from cnnzoo.runtime.formatting import format_duration
from tests.helpers import ROOT

fcntl = pytest.importorskip("fcntl")  # pseudo-terminals: not on Windows
import pty  # noqa: E402
import termios  # noqa: E402

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """What a terminal shows of what is written to it: the few codes that a bar uses, lines that wrap, ^C echoed."""

    def __init__(self, width):
        self.width, self.lines, self.row, self.column, self.wraps = width, [""], 0, 0, 0

    def write(self, text):
        for piece in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|[\r\n])", text):
            if piece == "\r":
                self.column = 0
            elif piece == "\n":
                self.down()
            elif code := re.fullmatch(r"\x1b\[(\d*)([AK])", piece):
                if code[2] == "A":
                    self.row -= int(code[1] or 1)
                else:
                    assert code[1] == "2"
                    self.lines[self.row] = ""
            elif not piece.startswith("\x1b"):
                for letter in piece:
                    self.put(letter)

    def put(self, letter):
        if self.column == self.width:
            self.wraps += 1
            self.down()
            self.column = 0
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + letter + line[self.column + 1 :]
        self.column += 1

    def down(self):
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")

    @property
    def text(self):
        return "\n".join(line.rstrip() for line in self.lines)


def on_a_terminal(*words, width=80, interrupt=None, **environment):
    """`python train.py` on a terminal: (exit code, the screen at the end, all that was ever written).

    `interrupt`: press Ctrl-C as soon as this has been written.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words],
        cwd=ROOT,
        env={**kept, "TERM": "xterm", **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            some = os.read(ours, 65536)
        except OSError:  # how a terminal says on Linux that nobody is left
            break
        if not some:
            break
        written += some
        if interrupt and interrupt in written.decode(errors="ignore"):
            os.write(ours, b"\x03")
            interrupt = None
    os.close(ours)
    screen = Screen(width)
    screen.write(written.decode())
    return process.wait(60), screen, written.decode()


TINY = ("model=lenet", "trainer=cpu", "trainer.limit_train_batches=4", "data.batch_size=8")


@pytest.mark.parametrize(
    ("width", "callbacks"),
    [
        (80, "default"),
        pytest.param(200, "default", marks=pytest.mark.long),
        pytest.param(80, "minimal", marks=pytest.mark.long),
    ],
)
def test_on_a_terminal_a_bar_shows_each_stage_and_leaves_nothing_behind(tmp_path, flowers, width, callbacks):
    words = ("data=folder", f"data.root={flowers}", "trainer.max_epochs=2", f"callbacks={callbacks}")
    code, screen, written = on_a_terminal(*TINY, *words, f"run_dir={tmp_path / 'run'}", width=width)
    assert code == 0, screen.text
    shown = ESCAPE.sub("", written)
    for row in ("filling cache ", "training ", "validation ", "testing ", "epoch 1/2 ", "epoch 2/2 "):
        assert re.search(rf"[\r\n]{row} *[━╸╺]+ +[\d,]+[%/]", shown), row
    assert re.search(r"training +━+ +4/4 +\ds left loss \d\.\d{3}  acc1 \d\.\d{3}", shown)
    assert re.search(r"epoch 2/2 +━+ +100% +0s left [\d,]+ images/s", shown)
    assert "━" not in screen.text
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h")  # the cursor is back
    rows = re.findall(r"^ *(\d)/2 .*\ds( best)?$", screen.text, re.MULTILINE)
    assert [row[0] for row in rows] == (["1", "2"] if callbacks == "default" else [])
    assert screen.text.count("loader  torch") == 1


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ("training", r"stopped by SIGINT after \d epochs and \d+ steps, and saved; python"),
        # the look at its first batches, ahead of training
        pytest.param("validation", r"stopped at once by SIGINT; nothing was saved yet", marks=pytest.mark.long),
    ],
)
def test_a_run_that_is_broken_off_leaves_no_bar(tmp_path, stage, says):
    words = ("trainer.max_epochs=1000", "data.batch_size=1", "trainer.limit_train_batches=20")
    code, screen, written = on_a_terminal(*TINY, *words, f"run_dir={tmp_path / 'run'}", interrupt=f"{stage}    ")
    assert code == 130
    assert "━" in written
    assert "━" not in screen.text
    assert "Traceback" not in screen.text
    assert re.search(says, screen.text.replace("\n", " "))
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h")


@pytest.mark.long
def test_a_run_that_fails_leaves_no_bar(tmp_path, flowers):
    (flowers / "red" / "0.png").write_bytes(b"torn")
    words = ("data=folder", f"data.root={flowers}", "data.cache.mode=none", "trainer.max_epochs=2")
    code, screen, written = on_a_terminal(
        *TINY, *words, "trainer.limit_train_batches=null", f"run_dir={tmp_path / 'run'}"
    )
    assert code == 1
    assert "━" not in screen.text
    assert "error: 1 file cannot be read" in screen.text or "0.png" in screen.text
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h")


@pytest.mark.long
def test_a_dumb_terminal_gets_lines_and_no_color_gets_no_colour(tmp_path):
    code, _, written = on_a_terminal(*TINY, "trainer.max_epochs=1", f"run_dir={tmp_path / 'dumb'}", TERM="dumb")
    assert code == 0
    assert "\x1b" not in written
    assert "━" not in written
    code, _, written = on_a_terminal(*TINY, "trainer.max_epochs=1", f"run_dir={tmp_path / 'plain'}", NO_COLOR="1")
    assert code == 0
    assert "━" in written
    assert not re.search(r"\x1b\[[0-9;]*3[0-8][0-9;]*m", written)


@pytest.mark.parametrize(
    "environment",
    [{}, *(pytest.param({name: "1"}, marks=pytest.mark.long) for name in ("FORCE_COLOR", "TTY_COMPATIBLE"))],
)
def test_a_pipe_gets_whole_lines_and_no_code(shell, tmp_path, flowers, environment):
    words = ("data=folder", f"data.root={flowers}", "trainer.max_epochs=3", f"run_dir={tmp_path / 'run'}")
    done = shell(*TINY, *words, **environment)
    assert done.returncode == 0, done.stderr
    assert not set("\r\x1b\x07━") & set(done.stdout + done.stderr)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    table = [line for line in lines if re.match(r"epoch | +\d/3 ", line)]
    assert [line.split()[0] for line in table] == ["epoch", "1/3", "2/3", "3/3"]
    assert table[0].split("  ")[-1].strip() == "left"
    ends = [{match.end() for match in re.finditer(r"\S+", line.removesuffix(" best"))} for line in table]
    assert ends[1] == ends[2] == ends[3]  # aligned
    assert ends[0] >= ends[1]
    assert max(map(len, table)) <= 80
    assert sum("filling the cache" in line for line in lines) == 1
    assert sum(line.startswith("cache: ") for line in lines) == 1


@pytest.mark.long
def test_a_long_epoch_has_a_line_now_and_then(shell, tmp_path):
    words = ("trainer.max_epochs=1", "callbacks.progress.log_every_seconds=1e-6", f"run_dir={tmp_path / 'run'}")
    done = shell(*TINY, *words, "trainer.limit_val_batches=2")
    assert re.search(
        r"^epoch 1/1  training  step 4/4  loss \d\.\d{3}  acc1 \d\.\d{3}  [\d,]+ images/s  0s left, \d+s in all$",
        done.stdout,
        re.MULTILINE,
    )
    assert re.search(r"^epoch 1/1  validation  step 2/2  0s left, 0s in all$", done.stdout, re.MULTILINE)
    assert re.search(r"^testing  step \d+/\d+  0s left$", done.stdout, re.MULTILINE)


def test_a_pipe_is_written_to_line_by_line(tmp_path):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *TINY, "trainer.max_epochs=100000", f"run_dir={tmp_path / 'run'}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if re.match(r" +2/100000 ", line):  # it arrives while the run goes on
            break
    else:
        pytest.fail("no line of the second epoch")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert "stopped by SIGINT after " in process.communicate(timeout=60)[0]


def test_all_processes_but_the_first_say_only_what_warns(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    logger = logging.Logger("said", logging.INFO)
    logger.addHandler(ConsoleHandler())
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        logger.info("info of %s", rank)
        logger.warning("warning of %s", rank)
    assert out.getvalue() == "info of 0\nwarning of 0\nwarning of 1\n"


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "1"}, False),
    ],
)
def test_which_process_is_the_first(monkeypatch, environment, first):
    for name in console.RANKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_rank_zero() == first


def test_a_pace_leaves_out_what_came_before_its_first_mark(monkeypatch):
    clock = iter([100.0, 102.0, 110.0])
    monkeypatch.setattr(console.time, "perf_counter", lambda: next(clock))
    pace = TimeLeftEstimator()
    assert not pace.began
    assert pace.left(1, 11) is None
    assert pace.left(2, 11) == 2.0 * 9
    assert pace.left(11, 11) == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.9, "59s"), (72, "1m12s"), (3599, "59m59s"), (7500, "2h05m"), (3 * 86400 + 4 * 3600, "3d04h")],
)
def test_durations_are_short(seconds, text):
    assert format_duration(seconds) == text
    assert len(text) <= 6


def test_a_file_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not is_live_terminal()
