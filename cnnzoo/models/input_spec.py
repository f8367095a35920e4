"""The one place where the data's proposal and the network's needs become image size, channels and stem."""

from dataclasses import dataclass
from typing import Protocol

from cnnzoo.errors import UserError

SMALL_IMAGE_SIZE = 64
"""Below this many pixels `stem=auto` takes a family's small-image form."""


class SizeLimits(Protocol):
    """What is read of `cnnzoo.info(name)`."""

    @property
    def name(self) -> str: ...
    @property
    def small_min_size(self) -> int | None: ...
    def sizes(self, stem: str) -> tuple[int, int | None]: ...


@dataclass(frozen=True)
class InputSpec:
    """What a run is built on, and in `notes` what was changed on the way, a sentence each."""

    image_size: int
    channels: int
    stem: str
    notes: tuple[str, ...] = ()


def resolve_input(
    info: SizeLimits,
    *,
    proposed_size: int,
    proposed_channels: int,
    requested_size: int | None = None,
    requested_channels: int | None = None,
    stem: str = "auto",
    published: bool = False,
    key: str = "data.image_size",
) -> InputSpec:
    """Settle the input of a run.

    `proposed_*` is what the data set would like, `typed_*` what the person asked for (None: nothing). A proposed size
    is raised to the smallest, or lowered to the largest, that the network takes; a typed one that it can't take is an
    error. `stem="auto"` takes the small-image form below 64 pixels where the family has one, but the native one for
    `published` weights, which exist for no other. `key` is where the size was typed.

    Raises `UserError` for a typed size out of the network's range and for an unknown stem.
    """
    if stem not in ("auto", "native", "small"):
        raise UserError(f"model.stem={stem}: there are auto, native, small")
    wanted = proposed_size if requested_size is None else requested_size
    notes = []
    if stem == "auto":
        small = wanted < SMALL_IMAGE_SIZE and info.small_min_size is not None and not published
        stem = "small" if small else "native"
    low, high = info.sizes(stem)
    size = max(wanted, low) if high is None else min(max(wanted, low), high)
    if size != wanted:
        form = "" if info.small_min_size is None else f" with the {stem} stem"
        takes = f"exactly {low}" if low == high else f"{low} or more" if high is None else f"{low} to {high}"
        if requested_size is not None:
            raise UserError(f"{key}={requested_size}: {info.name}{form} takes {takes} pixels")
        notes.append(f"image size {wanted} -> {size}: {info.name}{form} takes {takes} pixels")
    channels = proposed_channels if requested_channels is None else requested_channels
    return InputSpec(size, channels, stem, tuple(notes))
