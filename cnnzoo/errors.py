"""`UserError`, the error for what a user can correct, two kinds of it, and the error for unknown names."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

MAX_LIST_CHARACTERS = 200  # of the choices in an error, which should be one or two lines of a terminal


class UserError(Exception):
    """An error that the user can correct: in the command line, in a call, in the data or on the machine.

    The jobs print only its message, on one line, and exit with code 1. The message names the key or file, the value
    found, what was expected, and what to type instead.
    """


class MissingPackageError(UserError, ModuleNotFoundError):
    """A package that a part of cnnzoo needs is not installed, as after `pip install --no-deps cnnzoo`."""


class UserCodeError(UserError):
    """An error that code of the user has raised, such as a network or a callback of their own; it is the `__cause__`.

    Where the cause was raised in a file of the user, the jobs print its traceback from there on above the message.
    """


def nearest(name: str, choices: Iterable[str], limit: int = 3) -> list[str]:
    """The choices most similar to `name`, at most `limit`, best first; empty if none is similar. Ignores case."""
    by_lower = {choice.lower(): choice for choice in choices}
    matches = get_close_matches(name.lower(), by_lower, n=limit, cutoff=0.5)
    ratios = [SequenceMatcher(None, match, name.lower()).ratio() for match in matches]
    return [by_lower[match] for match, ratio in zip(matches, ratios, strict=True) if ratio >= ratios[0] - 0.15]


def list_choices(choices: Iterable[str], limit: int = 12) -> str:
    """The first `limit` choices, or fewer long ones, separated by commas, with "..." if there are more."""
    choices = list(choices)
    while len(", ".join(choices[:limit])) > MAX_LIST_CHARACTERS:
        limit = min(limit, len(choices)) - 1
    return ", ".join(choices[:limit]) + (", ..." if len(choices) > limit else "")


def unknown(kind: str, name: str, choices: Iterable[str], *, limit: int = 12) -> UserError:
    """The error for a `name` that is not among `choices`: it lists similar choices, or else the first `limit` of them.

    `unknown("model", "resnt50", list_models())` reads "unknown model 'resnt50': did you mean resnet50, ...?"
    """
    choices = list(choices)
    similar = nearest(name, choices)
    if similar:
        return UserError(f"unknown {kind} '{name}': did you mean {', '.join(similar)}?")
    return UserError(f"unknown {kind} '{name}': expected one of: {list_choices(choices, limit)}")
