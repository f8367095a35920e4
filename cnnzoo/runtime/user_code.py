"""Code of the user, such as a network or a callback: importing it by name, and tracebacks of its errors."""

import os
import pkgutil
import sys
import sysconfig
import traceback
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from cnnzoo.errors import UserCodeError, UserError, list_choices, nearest

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
"""Directories of Python and of installed packages."""


def add_current_directory() -> None:
    """Let modules be imported from the current directory, after all other places.

    A script finds those beside it, and an installed command none. The directory is the last place so that a file such
    as `random.py` does not replace a module of Python.
    """
    directory = os.getcwd()
    if directory not in sys.path and "" not in sys.path:
        sys.path.append(directory)


def locate(key: str, target: str) -> Any:
    """Import the object that the dotted name `target` refers to, such as "mynet.TinyNet".

    key: what the user has set to `target`, for the error.

    Raises UserError if there is no such module or no such name in it, and UserCodeError if the module raises an error
    while it is imported.
    """
    parts = str(target).split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise UserError(f"{key}={target}: expected MODULE.NAME, such as mynet.TinyNet for TinyNet in mynet.py")
    found: Any = _import(parts[0], key, target)
    if found is None:
        raise UserError(f"{key}={target}: there is no module {parts[0]}; {_module_hint(parts[0])}")
    for number, part in enumerate(parts[1:], 1):
        path = ".".join(parts[:number])
        value = getattr(found, part, None)
        if value is None and isinstance(found, ModuleType) and hasattr(found, "__path__"):
            value = _import(f"{path}.{part}", key, target)
        if value is None:
            raise UserError(f"{key}={target}: {_describe(found, path)} has no {part}{_name_hint(found, part)}")
        found = value
    return found


def _import(name: str, key: str, target: str) -> ModuleType | None:
    """The module `name`, None if there is none."""
    try:
        return import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return None
        raise UserCodeError(f"{key}={target}: importing {name} failed: {error_text(error)}") from error


def _module_hint(name: str) -> str:
    beside = sorted(path.stem for path in Path().glob("*.py") if path.stem.isidentifier())
    if similar := nearest(name, beside):
        return f"did you mean {similar[0]}, which is {similar[0]}.py in this directory?"
    return f"expected {name}.py in this directory, or an installed package; PYTHONPATH=DIR adds a directory"


def _name_hint(found: Any, part: str) -> str:
    modules = [module.name for module in pkgutil.iter_modules(getattr(found, "__path__", ()))]
    names = [*modules, *(name for name in dir(found) if not name.startswith("_") and name not in modules)]
    if similar := nearest(part, names):
        return f"; did you mean {similar[0]}?"
    classes = [name for name in names if isinstance(getattr(found, name, None), type)]
    return f"; it has {list_choices(classes or names)}" if names else ""


def _describe(found: Any, path: str) -> str:
    file = getattr(found, "__file__", None)
    return path if file is None or _is_installed(file) else f"the module {path} ({file})"


def error_text(error: BaseException) -> str:
    """`ValueError: the first line of its message`, at most 150 characters."""
    line = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {line}"[:150]


def user_traceback(error: BaseException | None) -> str:
    """The traceback of `error` from the first file of the user on; empty if it was not raised in such a file."""
    while error is not None:
        trace = error.__traceback__
        while trace is not None and not _is_user_file(trace):
            trace = trace.tb_next
        if trace is not None:
            return "".join(traceback.format_exception(type(error), error, trace, chain=False))
        if isinstance(error, SyntaxError) and error.filename and not _is_installed(error.filename):
            return "".join(traceback.format_exception_only(type(error), error))
        error = error.__cause__
    return ""


def _is_user_file(trace: TracebackType) -> bool:
    return not _is_installed(trace.tb_frame.f_code.co_filename)


def _is_installed(file: str) -> bool:
    """Whether a file is a part of Python, of an installed package or of cnnzoo."""
    path = os.path.abspath(file)
    directories = (str(PACKAGE), *INSTALLED)
    is_below = any(path.startswith(directory + os.sep) for directory in directories)
    return file.startswith("<") or is_below or "site-packages" in path or "dist-packages" in path
