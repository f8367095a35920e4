"""`resolve_input`: choose the image size, the channels and the stem of a run from the data set and the network."""

from dataclasses import dataclass
from typing import Protocol

from cnnzoo.checks import check_choice
from cnnzoo.errors import UserError
from cnnzoo.sizes import Size, as_size, size_override

SMALL_STEM_BELOW_PIXELS = 64
"""`stem=auto` chooses the small stem for images smaller than this."""


class SizeLimits(Protocol):
    """The part of `cnnzoo.info(name)` that `resolve_input` reads."""

    @property
    def name(self) -> str: ...
    @property
    def small_min_size(self) -> int | None: ...
    def sizes(self, stem: str) -> tuple[int, int | None]: ...


@dataclass(frozen=True)
class InputSpec:
    """The input of a run. `image_size` is the height and the width of the images in pixels.

    `notes` has one sentence for each value that differs from the proposal of the data set.
    """

    image_size: Size
    channels: int
    stem: str
    notes: tuple[str, ...] = ()


def resolve_input(
    info: SizeLimits,
    *,
    proposed_size: int | Size,
    proposed_channels: int,
    requested_size: int | Size | None = None,
    requested_channels: int | None = None,
    start_size: int | None = None,
    stem: str = "auto",
    published: bool = False,
    key: str = "data.image_size",
) -> InputSpec:
    """Choose the input of a run.

    info: the size limits of the network.
    proposed_size, proposed_channels: the defaults of the data set. A size is an int for a square, or (height, width).
        A side outside the network's limits is raised to the smallest or lowered to the largest that it accepts.
    requested_size, requested_channels: the values that the user set; None if unset. A size outside the network's limits
        is an error.
    start_size: the shorter side in the first training epochs, if the user set one. One below the network's smallest
        size is an error.
    stem: "native", "small", or "auto": the small stem if the shorter side is below 64 pixels, the network has one and
        `published` is false.
    published: whether published weights are loaded, which exist for the native stem only.
    key: name of the setting for `requested_size` in error messages.

    Raises `UserError` for requested sizes outside the network's limits and for an unknown stem.
    """
    check_choice("model.stem", stem, ("auto", "native", "small"))
    size = as_size(proposed_size if requested_size is None else requested_size)
    if stem == "auto":
        has_small_stem = info.small_min_size is not None
        stem = "small" if min(size) < SMALL_STEM_BELOW_PIXELS and has_small_stem and not published else "native"
    smallest, largest = info.sizes(stem)
    height, width = (max(side, smallest) if largest is None else min(max(side, smallest), largest) for side in size)
    image_size = height, width
    notes = []
    network = info.name if info.small_min_size is None else f"{info.name} with the {stem} stem"
    expected = size_range_text(smallest, largest)
    if start_size is not None and start_size < smallest:
        raise UserError(f"data.start_size={start_size}: {network} takes {expected} pixels")
    if image_size != size:
        each = "" if size[0] == size[1] else " in height and width"
        if requested_size is not None:
            raise UserError(f"{key}={size_override(size)}: {network} takes {expected} pixels{each}")
        change = f"{size_override(size)} -> {size_override(image_size)}"
        notes.append(f"image size {change}: {network} takes {expected} pixels{each}")
    channels = proposed_channels if requested_channels is None else requested_channels
    return InputSpec(image_size, channels, stem, tuple(notes))


def size_range_text(smallest: int, largest: int | None) -> str:
    """`exactly 32`, `32 or more` or `32 to 64`."""
    if smallest == largest:
        return f"exactly {smallest}"
    return f"{smallest} or more" if largest is None else f"{smallest} to {largest}"
