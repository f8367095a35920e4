"""`resolve_input`: choose the image size, the channels and the stem of a run from the data set and the network."""

from dataclasses import dataclass
from typing import Protocol

from cnnzoo.checks import check_choice
from cnnzoo.errors import UserError

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
    """The input of a run. `image_size` is the side of a square image in pixels.

    `notes` has one sentence for each value that differs from the proposal of the data set.
    """

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
    start_size: int | None = None,
    stem: str = "auto",
    published: bool = False,
    key: str = "data.image_size",
) -> InputSpec:
    """Choose the input of a run.

    info: the size limits of the network.
    proposed_size, proposed_channels: the defaults of the data set. A size outside the network's limits is raised to the
        smallest or lowered to the largest size that the network accepts.
    requested_size, requested_channels: the values that the user set; None if unset. A size outside the network's limits
        is an error.
    start_size: the image size of the first training epochs, if the user set one. One below the network's smallest size
        is an error.
    stem: "native", "small", or "auto": the small stem below 64 pixels if the network has one and `published` is false.
    published: whether published weights are loaded, which exist for the native stem only.
    key: name of the setting for `requested_size` in error messages.

    Raises `UserError` for requested sizes outside the network's limits and for an unknown stem.
    """
    check_choice("model.stem", stem, ("auto", "native", "small"))
    size = proposed_size if requested_size is None else requested_size
    if stem == "auto":
        has_small_stem = info.small_min_size is not None
        stem = "small" if size < SMALL_STEM_BELOW_PIXELS and has_small_stem and not published else "native"
    smallest, largest = info.sizes(stem)
    image_size = max(size, smallest) if largest is None else min(max(size, smallest), largest)
    notes = []
    network = info.name if info.small_min_size is None else f"{info.name} with the {stem} stem"
    expected = size_range_text(smallest, largest)
    if start_size is not None and start_size < smallest:
        raise UserError(f"data.start_size={start_size}: {network} takes {expected} pixels")
    if image_size != size:
        if requested_size is not None:
            raise UserError(f"{key}={requested_size}: {network} takes {expected} pixels")
        notes.append(f"image size {size} -> {image_size}: {network} takes {expected} pixels")
    channels = proposed_channels if requested_channels is None else requested_channels
    return InputSpec(image_size, channels, stem, tuple(notes))


def size_range_text(smallest: int, largest: int | None) -> str:
    """`exactly 32`, `32 or more` or `32 to 64`."""
    if smallest == largest:
        return f"exactly {smallest}"
    return f"{smallest} or more" if largest is None else f"{smallest} to {largest}"
