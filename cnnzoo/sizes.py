"""Image sizes: users give an int for a square or [height, width]; the code uses pairs (height, width)."""

from collections.abc import Sequence
from typing import Any

from cnnzoo.checks import check_int
from cnnzoo.errors import UserError

Size = tuple[int, int]
"""Height and width in pixels."""


def as_size(image_size: int | Size) -> Size:
    """(height, width); an int is the side of a square."""
    return image_size if isinstance(image_size, tuple) else (image_size, image_size)


def check_size(key: str, value: Any) -> Size:
    """Return `value`, a whole number >= 1 or a sequence of two of them, as (height, width). Raises UserError."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 2:
            raise UserError(f"{key}={list(value)}: expected two numbers, [height,width]; or one for a square")
        height, width = (check_int(key, side, minimum=1, note="in [height,width]") for side in value)
        return height, width
    side = check_int(key, value, minimum=1, note="or [height,width]")
    return side, side


def plain_size(size: Size) -> int | list[int]:
    """The size as users type it and as checkpoints store it: an int for a square, else [height, width]."""
    return size[0] if size[0] == size[1] else list(size)


def size_override(size: Size) -> str:
    """The size as it is typed on the command line: `64` or `[64,128]`."""
    return str(plain_size(size)).replace(" ", "")


def size_text(size: Size) -> str:
    """`64 x 64 pixels` or `64 x 128 pixels (height x width)`."""
    return f"{size[0]} x {size[1]} pixels{'' if size[0] == size[1] else ' (height x width)'}"
