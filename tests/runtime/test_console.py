"""What the jobs write to a terminal, which here is a pseudo-terminal, and to a pipe."""

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
from cnnzoo.runtime.console import ConsoleHandler, LogFileHandler, TimeLeftEstimator, is_live_terminal
from cnnzoo.runtime.distributed import is_rank_zero
from cnnzoo.runtime.formatting import format_duration
from tests.helpers import ROOT

fcntl = pytest.importorskip("fcntl")  # pseudo-terminals do not exist on Windows
import pty  # noqa: E402
import termios  # noqa: E402

ESCAPE_CODE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
RANK_VARIABLES = ("RANK", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_JOB_NAME", "LOCAL_RANK", "NODE_RANK")


class Screen:
    """What a terminal displays after `write`. Supports wrapped lines, the echo of ^C, and the codes that a bar uses."""

    def __init__(self, width):
        self.width, self.lines, self.row, self.column, self.wraps = width, [""], 0, 0, 0

    def write(self, text):
        for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|[\r\n])", text):
            if part == "\r":
                self.column = 0
            elif part == "\n":
                self.line_feed()
            elif code := re.fullmatch(r"\x1b\[(\d*)([AK])", part):
                if code[2] == "A":
                    self.row -= int(code[1] or 1)
                else:
                    assert code[1] == "2"
                    self.lines[self.row] = ""
            elif not part.startswith("\x1b"):
                for character in part:
                    self.put(character)

    def put(self, character):
        if self.column == self.width:
            self.wraps += 1
            self.line_feed()
            self.column = 0
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1

    def line_feed(self):
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")

    @property
    def text(self):
        return "\n".join(line.rstrip() for line in self.lines)


def train_on_terminal(*overrides, width=80, interrupt_at=None, **environment):
    """Run `train.py` on a pseudo-terminal. Returns the exit code, the screen at the end, and all output.

    interrupt_at: press Ctrl-C as soon as this text has been written.
    """
    terminal, child_terminal = pty.openpty()
    fcntl.ioctl(child_terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *overrides],
        cwd=ROOT,
        env={**inherited, "TERM": "xterm", **environment},
        stdin=child_terminal,
        stdout=child_terminal,
        stderr=child_terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(child_terminal)
    output = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # on Linux, a terminal raises it when no process has it open any more
            break
        if not chunk:
            break
        output += chunk
        if interrupt_at and interrupt_at in output.decode(errors="ignore"):
            os.write(terminal, b"\x03")
            interrupt_at = None
    os.close(terminal)
    screen = Screen(width)
    screen.write(output.decode())
    return process.wait(60), screen, output.decode()


SMALL_RUN = ("model=lenet", "trainer=cpu", "trainer.limit_train_batches=4", "data.batch_size=8")


@pytest.mark.parametrize(
    ("width", "callbacks"),
    [
        (80, "default"),
        pytest.param(200, "default", marks=pytest.mark.long),
        pytest.param(80, "minimal", marks=pytest.mark.long),
    ],
)
def test_bar_shows_each_stage_and_is_erased(tmp_path, flowers, width, callbacks):
    overrides = ("data=folder", f"data.root={flowers}", "trainer.max_epochs=2", f"callbacks={callbacks}")
    code, screen, output = train_on_terminal(*SMALL_RUN, *overrides, f"run_dir={tmp_path / 'run'}", width=width)
    assert code == 0, screen.text
    plain_output = ESCAPE_CODE.sub("", output)
    for row in ("filling cache ", "training ", "validation ", "testing ", "epoch 1/2 ", "epoch 2/2 "):
        assert re.search(rf"[\r\n]{row} *[━╸╺]+ +[\d,]+[%/]", plain_output), row
    assert re.search(r"training +━+ +4/4 +\ds left loss \d\.\d{3}  acc1 \d\.\d{3}", plain_output)
    assert re.search(r"epoch 2/2 +━+ +100% +0s left [\d,]+ images/s", plain_output)
    assert "━" not in screen.text
    assert output.count(HIDE_CURSOR) == output.count(SHOW_CURSOR)
    rows = re.findall(r"^ *(\d)/2 .*\ds( best)?$", screen.text, re.MULTILINE)
    assert [row[0] for row in rows] == ["1", "2"]
    assert screen.text.count("loader  torch") == 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("training", r"stopped by SIGINT after \d epochs? and \d+ steps?, and saved; python"),
        # the sanity check of the first validation batches, before training
        ("validation", r"stopped immediately by SIGINT; no checkpoint was saved yet"),
    ],
)
def test_interrupted_run_erases_bar(tmp_path, stage, message):
    overrides = ("trainer.max_epochs=1000", "data.batch_size=1", "trainer.limit_train_batches=20")
    code, screen, output = train_on_terminal(
        *SMALL_RUN, *overrides, f"run_dir={tmp_path / 'run'}", interrupt_at=f"{stage}    "
    )
    assert code == 130
    assert "━" in output
    assert "━" not in screen.text
    assert "Traceback" not in screen.text
    assert re.search(message.replace(" ", ""), re.sub(r"\s", "", screen.text))  # the terminal breaks long lines
    assert output.count(HIDE_CURSOR) == output.count(SHOW_CURSOR)


@pytest.mark.long
def test_failed_run_erases_bar(tmp_path, flowers):
    (flowers / "red" / "0.png").write_bytes(b"torn")
    overrides = ("data=folder", f"data.root={flowers}", "data.cache.mode=none", "trainer.max_epochs=2")
    code, screen, output = train_on_terminal(
        *SMALL_RUN, *overrides, "trainer.limit_train_batches=null", f"run_dir={tmp_path / 'run'}"
    )
    assert code == 1
    assert "━" not in screen.text
    assert "error: 1 file cannot be read" in screen.text or "0.png" in screen.text
    assert output.count(HIDE_CURSOR) == output.count(SHOW_CURSOR)


@pytest.mark.long
def test_dumb_terminal_and_no_color_are_respected(tmp_path):
    one_epoch = (*SMALL_RUN, "trainer.max_epochs=1")
    code, _, output = train_on_terminal(*one_epoch, f"run_dir={tmp_path / 'dumb'}", TERM="dumb")
    assert code == 0
    assert "\x1b" not in output
    assert "━" not in output
    code, _, output = train_on_terminal(*one_epoch, f"run_dir={tmp_path / 'plain'}", NO_COLOR="1")
    assert code == 0
    assert "━" in output
    assert not re.search(r"\x1b\[[0-9;]*3[0-8][0-9;]*m", output)


@pytest.mark.parametrize(
    "environment",
    [{}, *(pytest.param({name: "1"}, marks=pytest.mark.long) for name in ("FORCE_COLOR", "TTY_COMPATIBLE"))],
)
def test_pipe_gets_lines_without_codes(fork, tmp_path, flowers, environment):
    overrides = ("data=folder", f"data.root={flowers}", "trainer.max_epochs=3", f"run_dir={tmp_path / 'run'}")
    process = fork(*SMALL_RUN, *overrides, **environment)
    assert process.returncode == 0, process.stderr
    assert not set("\r\x1b\x07━") & set(process.stdout + process.stderr)
    assert process.stderr == ""
    lines = process.stdout.splitlines()
    table = [line for line in lines if re.match(r"epoch | +\d/3 ", line)]
    assert [line.split()[0] for line in table] == ["epoch", "1/3", "2/3", "3/3"]
    assert table[0].split("  ")[-1].strip() == "left"
    column_ends = [{match.end() for match in re.finditer(r"\S+", line.removesuffix(" best"))} for line in table]
    assert column_ends[1] == column_ends[2] == column_ends[3]
    assert column_ends[0] >= column_ends[1]
    assert max(map(len, table)) <= 80
    assert sum("filling the cache" in line for line in lines) == 1
    assert sum(line.startswith("cache: ") for line in lines) == 1


@pytest.mark.long
def test_long_epoch_logs_lines_at_intervals(fork, tmp_path):
    overrides = ("trainer.max_epochs=1", "callbacks.progress.log_every_seconds=1e-6", f"run_dir={tmp_path / 'run'}")
    output = fork(*SMALL_RUN, *overrides, "trainer.limit_val_batches=2", "trainer.log_every_n_steps=1").stdout
    metrics = r"loss \d\.\d{3}  acc1 \d\.\d{3}  [\d,]+ images/s"
    time_left = r"0s left, \d+s left in the run"
    assert re.search(rf"^epoch 1/1  training  step 4/4  {metrics}  {time_left}$", output, re.MULTILINE)
    assert re.search(r"^epoch 1/1  validation  step 2/2  0s left, 0s left in the run$", output, re.MULTILINE)
    assert re.search(r"^testing  step \d+/\d+  0s left$", output, re.MULTILINE)


@pytest.mark.long
def test_pipe_is_line_buffered(tmp_path):
    overrides = (*SMALL_RUN, "trainer.max_epochs=100000", f"run_dir={tmp_path / 'run'}")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if re.match(r" +2/100000 ", line):  # it arrives during the run
            break
    else:
        pytest.fail("no line of the second epoch")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert "stopped by SIGINT after " in process.communicate(timeout=60)[0]


def test_handler_logs_only_warnings_on_other_ranks(monkeypatch):
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    logger = logging.Logger("test", logging.INFO)
    handler = ConsoleHandler()
    logger.addHandler(handler)
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        logger.info("info of %s", rank)
        logger.warning("warning of %s", rank)
    assert output.getvalue() == "info of 0\nwarning of 0\nwarning of 1\n"
    handler.setFormatter(logging.Formatter("rank %(rank)d: %(message)s"))  # as in conf/hydra/job_logging/rank.yaml
    logger.warning("again")
    assert output.getvalue().endswith("\nrank 1: again\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_log_file_on_full_disk_warns_once(capsys):
    logger = logging.Logger("test", logging.INFO)
    logger.addHandler(LogFileHandler("/dev/full"))
    for _ in range(2):
        logger.info("text")
    assert capsys.readouterr().err == "warning: /dev/full: cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, False),
    ],
)
def test_is_rank_zero(monkeypatch, environment, expected):
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_rank_zero() == expected


def test_time_left_ignores_time_before_first_call(monkeypatch):
    clock = iter([100.0, 102.0, 110.0])
    monkeypatch.setattr(console.time, "perf_counter", lambda: next(clock))
    estimator = TimeLeftEstimator()
    assert not estimator.started
    assert estimator.estimate(1, 11) is None
    assert estimator.started
    assert estimator.estimate(2, 11) == 2.0 * 9
    assert estimator.estimate(11, 11) == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.9, "59s"), (72, "1m12s"), (3599, "59m59s"), (7500, "2h05m"), (3 * 86400 + 4 * 3600, "3d04h")],
)
def test_format_duration(seconds, text):
    assert format_duration(seconds) == text
    assert len(text) <= 6


def test_file_is_no_live_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not is_live_terminal()
