"""Checks of values that a user sets. Each raises a `UserError` with the key, the value and what was expected."""

import math
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import Any

from cnnzoo.errors import UserError


def check_int(key: str, value: Any, *, minimum: int, maximum: int | None = None, note: str = "") -> int:
    """Return `value` as an int if it is an integer (of Python or NumPy, not a boolean) from `minimum` to `maximum`.

    `note` ends the error.
    """
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if number is None or number < minimum or (maximum is not None and number > maximum):
        bounds = f">= {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise UserError(f"{key}={value}: expected a whole number {bounds}{_suffix(note)}")
    return number


def check_number(
    key: str,
    value: Any,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    note: str = "",
) -> float:
    """Return `value` if it is a finite number (not a boolean) within the bounds; `above` and `below` are exclusive."""
    bounds = [(">=", minimum), (">", above), ("<=", maximum), ("<", below)]
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not (
        (minimum is None or value >= minimum)
        and (above is None or value > above)
        and (maximum is None or value <= maximum)
        and (below is None or value < below)
    ):
        text = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
        raise UserError(f"{key}={value}: expected a number {text}{_suffix(note)}".rstrip())
    return value


def check_bool(key: str, value: Any, *, note: str = "") -> bool:
    """Return `value` if it is a boolean: the string "no" counts as true in Python."""
    if not isinstance(value, bool):
        raise UserError(f"{key}={value}: expected true or false{_suffix(note)}")
    return value


def check_choice(key: str, value: Any, choices: Iterable[Any], *, note: str = "") -> Any:
    """Return `value` if it is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        names = [str(choice) for choice in choices]
        expected = " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
        raise UserError(f"{key}={value}: expected {expected}{_suffix(note)}")
    return value


def create_directory(key: str, path: Path) -> None:
    """Create the directory `path` if it is missing; a UserError names `key` if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}={path}: the directory cannot be created: {error.strerror}") from error


def _suffix(note: str) -> str:
    return f" {note}" if note else ""
