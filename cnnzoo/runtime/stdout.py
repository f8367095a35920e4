"""Output to a pipe whose reader has ended, as in `| head -1`, and to streams that were closed before the start."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def discard_stdout() -> None:
    """Drop all further output on stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def exit_at_broken_pipe() -> Iterator[None]:
    """Exit with the code of SIGPIPE, without a traceback, if the reader of stdout ends within the `with` block."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        discard_stdout()
        sys.exit(141)


def replace_closed_streams() -> None:
    """Discard what is written to stdout and stderr where the process was started without them (`>&-`)."""
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
