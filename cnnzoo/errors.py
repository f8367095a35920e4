"""What goes wrong through no fault of the program: said in one line that names the thing, the place and the way out."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Something the person who typed the command, or wrote the call, can put right.

    The jobs print the message alone, on one line, and end with exit code 1. The message says what is wrong, where, the
    value found, what was expected and what to type instead.
    """


def nearest(name: str, choices: Iterable[str], most: int = 3) -> list[str]:
    """The `most` choices that look most like `name`, best first; empty where none comes near."""
    return get_close_matches(name.lower(), list(choices), n=most, cutoff=0.5)


def unknown(kind: str, name: str, choices: Iterable[str], *, most: int = 12) -> UserError:
    """The error for a name that is not among `choices`: the nearest ones, or a few of them where none is near.

    `unknown("model", "resnt50", list_models())` says "unknown model 'resnt50': did you mean resnet50, ...?"
    """
    choices = list(choices)
    near = nearest(name, choices)
    if near:
        return UserError(f"unknown {kind} '{name}': did you mean {', '.join(near)}?")
    shown = ", ".join(choices[:most]) + (", ..." if len(choices) > most else "")
    return UserError(f"unknown {kind} '{name}': there are {shown}")
