"""Standard output that cannot be written: its reader has ended (`| head -1`), its disk is full, or it is closed."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def discard_stdout() -> None:
    """Drop all further output on stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def exit_at_stdout_error() -> Iterator[None]:
    """Exit without a traceback if stdout cannot be written within the `with` block.

    If the reader of stdout has ended, the exit code is that of SIGPIPE; for other errors, such as a full disk, it is 1,
    and one line says why.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.filename is not None or not _stdout_fails():
            raise
        discard_stdout()
        is_pipe = isinstance(error, BrokenPipeError)
        sys.exit(141 if is_pipe else f"error: stdout: cannot be written: {error.strerror}")


def _stdout_fails() -> bool:
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def prepare_streams() -> None:
    """Make stdout and stderr accept all text.

    Output is discarded where the process was started without the stream (`>&-`), and characters that the encoding of
    the stream lacks are written as escapes.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a stream that another program puts in its place may lack it
            stream.reconfigure(errors="backslashreplace")
