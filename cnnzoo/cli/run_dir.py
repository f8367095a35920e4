"""The run directory: whether it can be used, its lock, and removing it if the run did not start."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnnzoo.errors import UserError

MIN_FREE_BYTES = 64_000
"""Space for the configuration and the start of train.log; Hydra would print a traceback if it could not write them."""
UNUSED_RUN_FILES = {".hydra", "train.log", "environment.json"}
"""What a run directory contains before the first step."""


def check_run_dir(run_dir: Path, *, multirun: bool) -> None:
    """Raise UserError if a run cannot be written to `run_dir`, or would overwrite another run."""
    try:
        existing = next(path for path in (run_dir.absolute(), *run_dir.absolute().parents) if path.exists())
    except OSError as error:  # the name is too long
        raise UserError(f"run_dir={str(run_dir)[:40]}...: {error.strerror}; choose another") from error
    if not existing.is_dir():
        raise UserError(f"run_dir={run_dir}: {existing} is a file, not a directory")
    try:
        with tempfile.TemporaryFile(dir=existing) as file:  # permissions alone do not tell, for example in /proc
            file.write(bytes(MIN_FREE_BYTES))
    except OSError as error:
        raise UserError(f"run_dir={run_dir}: {existing} is not writable ({error.strerror}); choose another") from error
    finished = (run_dir / "metrics.json").exists()
    if not finished and not any(run_dir.glob("checkpoints/*.ckpt")):
        return
    if multirun:
        raise UserError(f"run_dir={run_dir} holds a run, not a sweep; choose another run_dir")
    if finished:
        raise UserError(f"run_dir={run_dir} already holds a finished run; choose another run_dir, or delete this one")
    raise UserError(
        f"run_dir={run_dir} already holds an unfinished run; type resume={run_dir} to continue it, choose another "
        "run_dir, or delete this one"
    )


@contextmanager
def lock_run_dir(run_dir: Path, *, is_resumed: bool) -> Iterator[None]:
    """Let no other process train in `run_dir` while the `with` block runs.

    The operating system releases the lock when this process ends, also when it is killed, and processes forked from
    this one do not hold it. Windows, and file systems without such locks, let two processes write to one directory.

    Raises UserError if another process holds the lock, or, unless `is_resumed`, if one has trained in `run_dir` since
    the command was checked.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = run_dir / ".lock"
    with path.open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:  # POSIX allows either
            raise UserError(f"run_dir={run_dir}: another process trains there; choose another run_dir") from error
        except OSError:  # a file system without locks
            pass
        try:
            if not is_resumed:
                check_run_dir(run_dir, multirun=False)
            yield
        finally:
            path.unlink(missing_ok=True)


def remove_unused_run_dir(run_dir: Path) -> None:
    """Remove the directory of a run that failed before it wrote anything but `UNUSED_RUN_FILES`.

    Parent directories that are empty then are removed as well, up to `runs`.
    """
    if {path.name for path in run_dir.glob("*")} - UNUSED_RUN_FILES:
        return
    shutil.rmtree(run_dir, ignore_errors=True)
    for parent in run_dir.parents:
        if "runs" not in parent.parts:
            return
        try:
            parent.rmdir()
        except OSError:  # not empty, or the current directory
            return
