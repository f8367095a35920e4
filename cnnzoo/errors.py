"""What goes wrong through no fault of the program: said in one line that names the thing, the place and the way out."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches


class UserError(Exception):
    """Something the person who typed the command, or wrote the call, can put right.

    The jobs print the message alone, on one line, and end with exit code 1. The message says what is wrong, where, the
    value found, what was expected and what to type instead.
    """


def nearest(name: str, choices: Iterable[str], most: int = 3) -> list[str]:
    """The `most` choices that look most like `name`, capitals aside, best first; empty where none comes near."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = get_close_matches(name.lower(), by_lower, n=most, cutoff=0.5)
    likeness = [SequenceMatcher(None, found, name.lower()).ratio() for found in near]
    return [by_lower[found] for found, ratio in zip(near, likeness, strict=True) if ratio >= likeness[0] - 0.15]


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
