"""Runs commands in forks of a process that has imported torch, which saves each of them five seconds.

Started by `tests.mistakes.runner` with the checkout on PYTHONPATH. Reads one JSON request per line from stdin, and
writes one line `exit code, seconds` per request to stdout; -1 stands for a command that did not end in time.
"""

import importlib
import json
import os
import runpy
import signal
import sys
import time
import traceback

STATEMENTS = "<statements>"
MODULES = (
    "hydra",
    "torch",
    "torchvision",
    "pytorch_lightning",
    "torch.utils.tensorboard",
    "cnnzoo.training.train",
    "cnnzoo.describe.show",
    "cnnzoo.benchmark.show",
)


def execute(request):
    """Run the script or the Python statements of a request; does not return."""
    os.setsid()
    os.chdir(request["cwd"])
    for number, path in ((1, request["out"]), (2, request["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 0
    try:
        sys.argv = request["argv"]
        if "script" in request:
            runpy.run_path(request["script"], run_name="__main__")
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
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


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
    """The exit code of the process, negative if a signal killed it; -1000 if it had to be killed after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -1000


def main():
    """Serve until stdin ends."""
    for module in MODULES:
        importlib.import_module(module)
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
