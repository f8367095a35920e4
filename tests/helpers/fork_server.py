"""Runs jobs and Python statements in forks of a process that has imported torch, which saves each of them five seconds.

`ForkServer` starts this file as a script, which reads one JSON request per line from stdin, and writes one line
`[exit code, seconds]` per request to stdout.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

STATEMENTS = "<statements>"
TIMED_OUT = -1000
"""The exit code of a command that did not end in time."""
MODULES = (
    "hydra",
    "torch",
    "torchvision",
    "pytorch_lightning",
    "torch.utils.tensorboard",
    "cnnzoo.training.train",
    "cnnzoo.predict.run",
    "cnnzoo.describe.show",
    "cnnzoo.benchmark.show",
)


class ForkServer:
    """Runs the scripts of a checkout; its process starts at the first request."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._process: subprocess.Popen[str] | None = None

    def run(
        self, argv: list[str], *, cwd: Path, out: Path, err: Path, timeout: float, statements: str | None = None,
        environment: dict[str, str] | None = None,
    ) -> tuple[int, float]:  # fmt: skip
        """Run the script `argv[0]` or the Python statements.

        out, err: the files for stdout and stderr. environment: all variables; None: those of this process.
        Returns the exit code, negative if a signal killed the process, and the seconds that it ran.
        """
        request = {"argv": argv, "cwd": str(cwd), "out": str(out), "err": str(err), "timeout": timeout}
        request |= {"statements": statements, "environment": environment}
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                env={**os.environ, "COLUMNS": "120", "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1"},
                cwd=self.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code, seconds = json.loads(self._process.stdout.readline())
        return code, seconds

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()


def execute(request):
    """Run the script or the statements of a request, then what the interpreter runs at exit; does not return."""
    os.setsid()
    os.chdir(request["cwd"])
    for number, path in ((1, request["out"]), (2, request["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if request["environment"] is not None:
        os.environ.clear()
        os.environ.update(request["environment"])
    code = 0
    try:
        sys.argv = request["argv"]
        if request["statements"] is None:
            runpy.run_path(sys.argv[0], run_name="__main__")
        else:
            run_statements(request["statements"])
    except SystemExit as exit_:
        if isinstance(exit_.code, str):
            print(exit_.code, file=sys.stderr)
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # the interpreter would free all modules first, which takes two seconds


def run_statements(statements):
    """Execute Python; an error that names the mistake is printed as the jobs print it, others as a traceback.

    Such errors are a `UserError`, and those of Python itself for a wrong signature or a name that does not exist.
    """
    from cnnzoo.errors import UserError

    try:
        exec(compile(statements, STATEMENTS, "exec"), {"__name__": "__main__"})
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        of_python = isinstance(error, TypeError | AttributeError) and frame.filename == STATEMENTS
        if not (isinstance(error, UserError) or of_python or (frame.name == "__getattr__" and "cnnzoo" in str(error))):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def wait(pid, seconds):
    """The exit code of the process, negative if a signal killed it; TIMED_OUT if it had to be killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return TIMED_OUT


def main():
    """Serve until stdin ends."""
    for module in MODULES:
        importlib.import_module(module)
    gc.freeze()  # a garbage collection of a fork would copy the memory of all modules
    for line in sys.stdin:
        request = json.loads(line)
        start = time.monotonic()
        pid = os.fork()
        if pid == 0:
            execute(request)
        code = wait(pid, request["timeout"])
        print(json.dumps([code, time.monotonic() - start]), flush=True)


if __name__ == "__main__":
    main()
