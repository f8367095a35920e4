"""Runs cases and classifies what they print."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.helpers.fork_server import TIMED_OUT, ForkServer
from tests.mistakes.case import NO_TRACEBACK, SKIPPED, WORKS, Case
from tests.mistakes.places import STAGES, enter_places

TIMEOUT_SECONDS = 120
QUICK_TIMEOUT_SECONDS = 30
"""A quick case that takes longer was accepted, and trains."""
POLL_SECONDS = 0.02
MAX_LINE = 300
MAX_QUICK_CPU_SECONDS = 2.0
TRACEBACK = re.compile(
    r"Traceback \(most recent call last\)|Exception ignored|HYDRA_FULL_ERROR=1 for a|^Fatal Python", re.MULTILINE
)
FAULTS = ("traceback", "silent", "rejected", "unhelpful", "long line", "hung", "wrong output")
ADVICE = ("slow", "leftover")
PROLOGUE = """set -o pipefail
train() { "$PYTHON" "$ROOT/train.py" "$@"; }
predict() { "$PYTHON" "$ROOT/predict.py" "$@"; }
describe() { "$PYTHON" "$ROOT/describe.py" "$@"; }
benchmark() { "$PYTHON" "$ROOT/benchmark.py" "$@"; }
cnnzoo() { "$PYTHON" -m cnnzoo "$@"; }
"""


@dataclass
class Result:
    """What a case did. `faults` are names from FAULTS and ADVICE."""

    case: Case
    code: int
    output: str
    seconds: float
    cpu_seconds: float = 0.0
    leftovers: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """Plain types, for a JSON file."""
        return {**asdict(self), "case": str(self.case), "expected": self.case.expected}


class Runner:
    """Runs the cases of one checkout, one at a time."""

    def __init__(self, root: Path, places: Path, directory: Path) -> None:
        self.root, self.places, self.directory = root, places, directory
        self.count = 0
        self._server = ForkServer(root)
        directory.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        self._server.close()

    def run(self, case: Case) -> Result:
        """Run one case in a new directory, which is removed afterwards."""
        self.count += 1
        cwd = self.directory / f"{self.count} é"
        enter_places(self.places, cwd, str(case))
        before = set(cwd.iterdir())
        out, err = self.directory / "out", self.directory / "err"
        code, seconds, cpu = (self._run_in_fork if case.forks else self._run_process)(case, cwd, out, err)
        output = out.read_text(errors="replace") + err.read_text(errors="replace")
        output = output.replace(f"{self.root}/", "")  # so that the checkout's place does not lengthen lines
        leftovers = sorted(path.name for path in set(cwd.iterdir()) - before)
        shutil.rmtree(cwd, ignore_errors=True)
        result = Result(case, code, output, seconds, cpu, leftovers)
        result.faults = classify(result)
        return result

    def _run_process(self, case: Case, cwd: Path, out: Path, err: Path) -> tuple[int, float, float]:
        environment = {**os.environ, "COLUMNS": "120", "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1"}
        environment |= {"ROOT": str(self.root), "PYTHON": sys.executable}
        if case.signal:
            environment |= {"MISTAKES_SIGNAL": case.signal, "PYTHONPATH": f"{STAGES}{os.pathsep}{self.root}"}
        for name, value in case.environment:
            environment.pop(name, None)
            if value is not None:
                environment[name] = value
        if case.kind == "shell":
            command = ["bash", "-c", PROLOGUE + case.typed]
        elif case.job == "cnnzoo":
            command = [sys.executable, "-m", "cnnzoo", *case.argv]
        else:
            command = [sys.executable, str(self.root / f"{case.job}.py"), *case.argv]
        start = time.monotonic()
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
                start_new_session=True, preexec_fn=_default_signals,
            )  # fmt: skip
        code, cpu = _wait(process, QUICK_TIMEOUT_SECONDS if case.quick else TIMEOUT_SECONDS)
        return code, time.monotonic() - start, cpu

    def _run_in_fork(self, case: Case, cwd: Path, out: Path, err: Path) -> tuple[int, float, float]:
        files = {"cwd": cwd, "out": out, "err": err}
        if case.kind == "call":
            code, seconds = self._server.run(["-c"], statements=case.typed, timeout=TIMEOUT_SECONDS, **files)
        else:
            script = str(self.root / f"{case.job}.py")
            code, seconds = self._server.run([script, *case.argv], timeout=TIMEOUT_SECONDS, **files)
        return code, seconds, 0.0


def classify(result: Result) -> list[str]:
    """The faults of a result; empty if the tool was helpful."""
    case, output = result.case, result.output
    if result.code == SKIPPED and case.kind == "shell":
        return []
    if result.code == TIMED_OUT:
        return ["silent" if case.quick else "hung"]
    if TRACEBACK.search(output):
        lines = output.strip().splitlines()
        clear = case.kind == "call" and case.expected != WORKS and re.search(case.expected, lines[-1])
        return [] if clear else ["traceback"]  # a caller of the library sees the traceback's last line
    faults = []
    if any(len(line) > MAX_LINE for line in output.splitlines()):
        faults.append("long line")
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    if case.exits:
        if result.code not in case.exits:
            faults.append("wrong output")
    elif case.expected == WORKS or (case.accepted and result.code == 0):
        if result.code != 0:
            faults.append("rejected")
    elif case.expected != NO_TRACEBACK:
        if result.code == 0:
            faults.append("silent")
        elif not 1 <= len(lines) <= case.error_lines or not any(re.search(case.expected, line) for line in lines):
            faults.append("unhelpful")
        if case.quick and result.cpu_seconds > MAX_QUICK_CPU_SECONDS:
            faults.append("slow")
        if case.quick and result.leftovers:
            faults.append("leftover")
    if (case.output and not re.search(case.output, output)) or (case.absent and re.search(case.absent, output)):
        faults.append("wrong output")
    return faults


def _wait(process: subprocess.Popen[bytes], timeout: float) -> tuple[int, float]:
    """The exit code of the process and the CPU seconds that it used; it is killed after `timeout` seconds."""
    end, done, status, usage = time.monotonic() + timeout, 0, 0, None
    while not done and time.monotonic() < end:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        time.sleep(0 if done else POLL_SECONDS)
    if not done:
        os.killpg(process.pid, signal.SIGKILL)
        _, _, usage = os.wait4(process.pid, 0)
    assert usage is not None
    process.returncode = os.waitstatus_to_exitcode(status) if done else TIMED_OUT
    return process.returncode, usage.ru_utime + usage.ru_stime


def _default_signals() -> None:
    """Undo what a shell sets for jobs in the background, and nohup."""
    for name in ("SIGINT", "SIGPIPE", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
