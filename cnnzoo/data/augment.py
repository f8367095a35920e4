"""What is done to an image on its way to the net: what is wanted (`Augment`), and drawn for each image (`Draw`).

Drawing and doing are apart, so that every loader does the same to the same image; `execute.py` does it on the CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from cnnzoo.data.chance import AUGMENT, uniform
from cnnzoo.errors import UserError

CROPS = ("center", "padded", "random_resized")
TRIES = 10  # torchvision's RandomResizedCrop gives up after as many

# Which column of an image's random numbers is for what: fixed, so that a new operation changes no old one.
FLIP, TOP, LEFT = 0, 1, 2
AREA = range(3, 3 + TRIES)
ASPECT = range(3 + TRIES, 3 + 2 * TRIES)

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Draw:
    """What to do to N images: resize each, cut a window out, bring that to `image_size` square, flip some."""

    resized: Ints  # (N, 2) height and width to resize the whole image to
    windows: Ints  # (N, 4) top, left, height, width in the resized image; it is black where a window reaches outside
    flips: npt.NDArray[np.bool_]  # (N,) mirrored left to right
    image_size: int

    def of(self, which: npt.NDArray[np.int64]) -> "Draw":
        """The parameters of some of the images."""
        return Draw(self.resized[which], self.windows[which], self.flips[which], self.image_size)


@dataclass(frozen=True)
class Augment:
    """What is wanted of training images, and of all images: the crop, and `mean` and `std` (None: the data set's).

    `crop` for training:
    - "center": as in evaluation;
    - "padded": the shorter side to the image size, black margins of `padding` times the image size, a window anywhere;
    - "random_resized": a window of `scale` of the image's area and an aspect of `ratio`, brought to the image size.
    `flip` is the probability of mirroring left to right. Evaluation resizes the shorter side to `eval_resize` times the
    image size and takes the centre. All resizing is bilinear and antialiased. Raises UserError for what cannot be.
    """

    crop: Literal["center", "padded", "random_resized"] = "center"
    padding: float = 0.125
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    eval_resize: float = 1.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise UserError(f"augment.crop={self.crop}: it can be {', '.join(CROPS)}")
        for field in ("scale", "ratio", "mean", "std"):
            object.__setattr__(self, field, _numbers(field, getattr(self, field)))
        for field in ("scale", "ratio"):
            value = getattr(self, field)
            if len(value) != 2 or not 0 < value[0] <= value[1]:
                raise UserError(f"augment.{field}={list(value)}: wanted are two numbers above 0, the smaller first")
        if self.scale[1] > 1:
            raise UserError(f"augment.scale={list(self.scale)}: shares of the image's area, so at most 1")
        _within("flip", self.flip, 0, 1)
        _within("padding", self.padding, 0, 1)
        _within("eval_resize", self.eval_resize, 1, 8)
        if self.std is not None and min(self.std, default=0) <= 0:
            raise UserError(f"augment.std={list(self.std)}: every number must be above 0, as pixels are divided by it")

    def draw(self, seed: int, epoch: int, indices: Ints, sizes: Ints, image_size: int) -> Draw:
        """Parameters for training images: `indices` (N,) of `sizes` (N, 2), height and width after EXIF rotation.

        An image's parameters depend on (seed, epoch, its index) and its size, on nothing else.
        """

        def chance(columns: Sequence[int]) -> npt.NDArray[np.float64]:
            return uniform(AUGMENT, seed, epoch, indices, columns)

        flips = chance([FLIP])[:, 0] < self.flip
        if self.crop == "center":
            return Draw(*self._center(sizes, image_size), flips, image_size)
        if self.crop == "padded":
            resized = shorter_side_to(sizes, image_size)
            margin = round(self.padding * image_size)
            corners = np.floor(chance([TOP, LEFT]) * (resized + 2 * margin - image_size + 1)).astype(np.int64) - margin
            return Draw(resized, np.hstack([corners, np.full_like(corners, image_size)]), flips, image_size)
        shapes, drawn = self._shapes(sizes, chance(AREA), chance(ASPECT))
        corners = np.floor(chance([TOP, LEFT]) * (sizes - shapes + 1)).astype(np.int64)
        corners = np.where(drawn[:, None], corners, (sizes - shapes) // 2)
        return Draw(sizes, np.hstack([corners, shapes]), flips, image_size)

    def for_evaluation(self, sizes: Ints, image_size: int) -> Draw:
        """Parameters for images of `sizes` (N, 2) that are evaluated: nothing is left to chance."""
        return Draw(*self._center(sizes, image_size), np.zeros(len(sizes), bool), image_size)

    def _center(self, sizes: Ints, image_size: int) -> tuple[Ints, Ints]:
        """(resized, windows): the shorter side to `eval_resize` times the image size, and the centre of that."""
        resized = shorter_side_to(sizes, round(self.eval_resize * image_size))
        corners = np.rint((resized - image_size) / 2).astype(np.int64)
        return resized, np.hstack([corners, np.full_like(corners, image_size)])

    def _shapes(
        self, sizes: Ints, area: npt.NDArray[np.float64], aspect: npt.NDArray[np.float64]
    ) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """(shapes (N, 2), drawn (N,)): the first of ten windows that fits, else the largest of an allowed aspect.

        The law of torchvision's RandomResizedCrop: the area uniform, the aspect (width over height) uniform in its log.
        """
        height, width = sizes[:, :1], sizes[:, 1:]
        target = height * width * (self.scale[0] + area * (self.scale[1] - self.scale[0]))  # (N, tries)
        low, high = np.log(self.ratio)
        aspects = np.exp(low + aspect * (high - low))
        widths = np.rint(np.sqrt(target * aspects)).astype(np.int64)
        heights = np.rint(np.sqrt(target / aspects)).astype(np.int64)
        fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
        first = fits.argmax(axis=1)[:, None]
        tried = np.take_along_axis(np.stack([heights, widths], 2), first[:, :, None], axis=1)[:, 0]
        shape = np.clip(width[:, 0] / height[:, 0], *self.ratio)
        fallback = np.stack([np.rint(width[:, 0] / shape), np.rint(height[:, 0] * shape)], 1).astype(np.int64)
        drawn = fits.any(axis=1)
        return np.where(drawn[:, None], tried, np.clip(fallback, 1, sizes)), drawn


def shorter_side_to(sizes: Ints, side: int) -> Ints:
    """`sizes` (N, 2) with the shorter side at `side`, the longer one in proportion, rounded down (torchvision)."""
    short = sizes.min(axis=1, keepdims=True)
    return np.where(sizes == short, side, (side * sizes / short).astype(np.int64))


def _numbers(field: str, value: object) -> tuple[float, ...] | None:
    """A list from YAML as a tuple of floats."""
    if value is None:
        return None
    try:
        return tuple(float(number) for number in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise UserError(f"augment.{field}={value}: wanted is a list of numbers, such as [0.5,0.5]") from None


def _within(field: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"augment.{field}={value}: it must be a number from {low} to {high}")
