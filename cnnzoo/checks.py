"""Checks of values that a user sets. Each raises a `UserError` with the key, the value and what was expected."""

from collections.abc import Iterable
from typing import Any

from cnnzoo.errors import UserError


def check_int(key: str, value: Any, *, minimum: int, maximum: int | None = None, note: str = "") -> int:
    """Return `value` if it is an integer (not a boolean) from `minimum` to `maximum`; `note` ends the error."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or value < minimum
        or (maximum is not None and value > maximum)
    ):
        bounds = f">= {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise UserError(f"{key}={value}: expected a whole number {bounds}{_suffix(note)}")
    return value


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
    """Return `value` if it is a number (not a boolean or nan) within the bounds; `above` and `below` are exclusive."""
    bounds = [(">=", minimum), (">", above), ("<=", maximum), ("<", below)]
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    if not is_number or not (
        (minimum is None or value >= minimum)
        and (above is None or value > above)
        and (maximum is None or value <= maximum)
        and (below is None or value < below)
    ):
        text = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
        raise UserError(f"{key}={value}: expected a number {text}{_suffix(note)}".rstrip())
    return value


def check_choice(key: str, value: Any, choices: Iterable[Any], *, note: str = "") -> Any:
    """Return `value` if it is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        names = [str(choice) for choice in choices]
        expected = " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
        raise UserError(f"{key}={value}: expected {expected}{_suffix(note)}")
    return value


def _suffix(note: str) -> str:
    return f" {note}" if note else ""
