"""Atomic writes, paths as a user would type them, and the directory of the configuration."""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cnnzoo.errors import UserError

_PACKAGE = Path(__file__).resolve().parent.parent
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""The configuration: in the package where it was installed from a wheel, beside the package in a checkout."""


@contextmanager
def atomic_write(path: Path, mode: str = "w", *, fsync: bool = False, **open_options: Any) -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`, and rename it to `path` when the `with` block ends.

    A reader sees the old file or the new one, never a part of either. If the block raises, the temporary file is
    removed and the old file stays. A killed process leaves its temporary file, `.<name>.<host>.<process id>.tmp`.
    An OSError of the temporary file names `path`.

    mode: "w" or "wb".
    fsync: flush the file to the disk before the rename, so that it survives a power failure.
    open_options: further arguments of `open`; text is UTF-8 unless `encoding` is given.
    """
    if "b" not in mode:
        open_options.setdefault("encoding", "utf-8")
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with temporary.open(mode, **open_options) as file:
            yield file
            if fsync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and str(error.filename) in ("None", str(temporary)):
            error.filename = str(path)
        raise


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` as indented JSON, atomically."""
    with atomic_write(path) as file:
        file.write(json.dumps(values, indent=2) + "\n")


def check_current_directory() -> None:
    """Raise UserError if the current directory was removed: relative paths and Hydra need it."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UserError("the current directory no longer exists; change to another one, for example: cd") from error


def check_utf8(text: str) -> None:
    """Raise UserError if a path or argument cannot be written to the UTF-8 files of a run."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{text!a}: is not UTF-8 text; use other characters, or set PYTHONUTF8=1 if the locale is the reason"
        ) from error


def display_path(path: Path) -> str:
    """The path relative to the current directory if it is inside it, else the absolute path."""
    path = path.resolve()
    current = Path.cwd().resolve()
    return str(path.relative_to(current)) if path.is_relative_to(current) else str(path)
