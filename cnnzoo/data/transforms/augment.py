"""What is done to an image on its way to the net: what is wanted (`Augment`), and drawn for each image (`Draw`).

Drawing and doing are apart, so that every loader does the same to the same image; `execute.py` does it on the CPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cnnzoo.data.counter_rng import AUGMENT_STREAM, uniform
from cnnzoo.data.transforms.sampling import MAGNITUDES, sample_auto_augment, sample_color_jitter, sample_erase_boxes
from cnnzoo.errors import UserError

CROPS = ("center", "padded", "random_resized")
AUTO_AUGMENT_POLICIES = ("randaugment", "trivialaugment")
CROP_ATTEMPTS = 10  # torchvision's RandomResizedCrop and RandomErasing give up after as many
MAX_OPS = 16  # of RandAugment's operations on one image

# Which column of an image's random numbers is for what: fixed, so that a new operation changes no old one.
FLIP, TOP, LEFT = 0, 1, 2
AREA = range(3, 3 + CROP_ATTEMPTS)
ASPECT = range(3 + CROP_ATTEMPTS, 3 + 2 * CROP_ATTEMPTS)
JITTER_ORDER = range(23, 27)
JITTER_FACTOR = range(27, 31)
ERASE = 31
ERASE_POSITION = range(32, 34)
ERASE_AREA = range(34, 34 + CROP_ATTEMPTS)
ERASE_ASPECT = range(44, 44 + CROP_ATTEMPTS)
AUTO_OP = range(54, 54 + MAX_OPS)
AUTO_SIGN = range(70, 70 + MAX_OPS)
AUTO_MAGNITUDE = 86

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
RandomColumns = Callable[[Sequence[int]], Floats]  # columns of the images' random numbers


@dataclass(frozen=True)
class AugmentParams:
    """What to do to N images: resize each, cut a window out, bring that to `image_size` square, flip some.

    Then the operations, in turn, and last what is erased; None where nothing of the kind is wanted of any image.
    """

    resize_to: Ints  # (N, 2) height and width to resize the whole image to
    crops: Ints  # (N, 4) top, left, height, width in the resized image; it is black where a window reaches outside
    flips: npt.NDArray[np.bool_]  # (N,) mirrored left to right
    image_size: int
    ops: Ints | None = None  # (N, K) places in `operations.OPERATIONS`
    magnitudes: Floats | None = None  # (N, K) how much of each
    erase_boxes: Ints | None = (
        None  # (N, 4) top, left, height, width in the finished image; height 0: nothing is erased
    )
    erase_fill: tuple[int, ...] = (
        0,
    )  # the pixel, 0 to 255, that an erased window is filled with; per channel, or for all

    def select(self, which: npt.NDArray[np.int64]) -> "AugmentParams":
        """The parameters of some of the images."""
        arrays: dict[str, Any] = {n: rows[which] for n, rows in vars(self).items() if isinstance(rows, np.ndarray)}
        return replace(self, **arrays)


@dataclass(frozen=True)
class Augment:
    """What is wanted of training images, and of all images: the crop, and `mean` and `std` (None: the data set's).

    `crop` for training:
    - "center": as in evaluation;
    - "padded": the shorter side to the image size, black margins of `padding` times the image size, a window anywhere;
    - "random_resized": a window of `scale` of the image's area and an aspect of `ratio`, brought to the image size.
    `flip` is the probability of mirroring left to right. Evaluation resizes the shorter side to `eval_resize` times the
    image size and takes the centre; None is 256/224 after training on random-resized windows, which show things larger,
    else 1. All resizing is bilinear and antialiased.

    Then, for training: `auto` "randaugment" (`operations` of them at `magnitude`, 0 to 30) or "trivialaugment" (one, at
    any magnitude); `color_jitter`, the greatest change of brightness, contrast, saturation and hue (at most 0.5), in an
    order drawn for each image; and with probability `erase` a window of `erase_scale` of the image's area and an aspect
    (height over width) of `erase_ratio` is filled with `mean` (the data module puts the data set's there; else black).
    Raises UserError for what cannot be.
    """

    crop: Literal["center", "padded", "random_resized"] = "center"
    padding: float = 0.125
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    auto_augment: Literal["randaugment", "trivialaugment"] | None = None
    num_ops: int = 2
    magnitude: int = 9
    color_jitter: tuple[float, float, float, float] | None = None
    random_erase: float = 0.0
    erase_scale: tuple[float, float] = (0.02, 0.33)
    erase_ratio: tuple[float, float] = (0.3, 3.3)
    eval_resize: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise UserError(f"augment.crop={self.crop}: it can be {', '.join(CROPS)}")
        if self.auto_augment is not None and self.auto_augment not in AUTO_AUGMENT_POLICIES:
            raise UserError(
                f"augment.auto_augment={self.auto_augment}: it can be {', '.join(AUTO_AUGMENT_POLICIES)}, or null for none"
            )
        for field in ("scale", "ratio", "color_jitter", "erase_scale", "erase_ratio", "mean", "std"):
            object.__setattr__(self, field, _float_tuple(field, getattr(self, field)))
        for field in ("scale", "ratio", "erase_scale", "erase_ratio"):
            value = getattr(self, field)
            if len(value) != 2 or not 0 < value[0] <= value[1]:
                raise UserError(f"augment.{field}={list(value)}: wanted are two numbers above 0, the smaller first")
        for field in ("scale", "erase_scale"):
            if getattr(self, field)[1] > 1:
                raise UserError(f"augment.{field}={list(getattr(self, field))}: shares of the image's area, at most 1")
        strengths = self.color_jitter
        if strengths is not None and not (len(strengths) == 4 and min(strengths) >= 0 and strengths[3] <= 0.5):
            raise UserError(
                f"augment.color_jitter={list(strengths)}: wanted are four numbers from 0, the greatest changes of "
                "brightness, contrast, saturation and hue (that at most 0.5), such as [0.4,0.4,0.4,0.1]"
            )
        _whole("num_ops", self.num_ops, 1, MAX_OPS)
        _whole("magnitude", self.magnitude, 0, MAGNITUDES - 1)
        _within("flip", self.flip, 0, 1)
        _within("random_erase", self.random_erase, 0, 1)
        _within("padding", self.padding, 0, 1)
        if self.eval_resize is not None:
            _within("eval_resize", self.eval_resize, 1, 8)
        if self.std is not None and min(self.std, default=0) <= 0:
            raise UserError(f"augment.std={list(self.std)}: every number must be above 0, as pixels are divided by it")

    def sample(self, seed: int, epoch: int, indices: Ints, sizes: Ints, image_size: int) -> AugmentParams:
        """Parameters for training images: `indices` (N,) of `sizes` (N, 2), height and width after EXIF rotation.

        An image's parameters depend on (seed, epoch, its index) and its size, on nothing else.
        """

        def chance(columns: Sequence[int]) -> Floats:
            return uniform(AUGMENT_STREAM, seed, epoch, indices, columns)

        resized, windows = self._crop(chance, sizes, image_size)
        flips = chance([FLIP])[:, 0] < self.flip
        return AugmentParams(resized, windows, flips, image_size, **self._rest(chance, image_size))

    def margin(self, image_size: int) -> int:
        """Pixels of black that a padded crop may reach into."""
        return round(self.padding * image_size)

    @property
    def effective_eval_resize(self) -> float:
        """`eval_resize`, or what stands for None."""
        if self.eval_resize is not None:
            return self.eval_resize
        return 256 / 224 if self.crop == "random_resized" else 1.0

    def eval_params(self, sizes: Ints, image_size: int) -> AugmentParams:
        """Parameters for images of `sizes` (N, 2) that are evaluated: nothing is left to chance."""
        return AugmentParams(*self._center(sizes, image_size), np.zeros(len(sizes), bool), image_size)

    def _crop(self, chance: RandomColumns, sizes: Ints, image_size: int) -> tuple[Ints, Ints]:
        """(resized, windows) for training."""
        if self.crop == "center":
            return self._center(sizes, image_size)
        if self.crop == "padded":
            resized = shorter_side_to(sizes, image_size)
            margin = self.margin(image_size)
            corners = np.floor(chance([TOP, LEFT]) * (resized + 2 * margin - image_size + 1)).astype(np.int64) - margin
            return resized, np.hstack([corners, np.full_like(corners, image_size)])
        shapes, drawn = self._shapes(sizes, chance(AREA), chance(ASPECT))
        corners = np.floor(chance([TOP, LEFT]) * (sizes - shapes + 1)).astype(np.int64)
        corners = np.where(drawn[:, None], corners, (sizes - shapes) // 2)
        return sizes, np.hstack([corners, shapes])

    def _rest(self, chance: RandomColumns, image_size: int) -> dict[str, Any]:
        """What comes after crop and flip, as `Draw`'s fields; empty where nothing of it is wanted."""
        rest: dict[str, Any] = {}
        drawn = []
        if self.auto_augment is not None:
            count = self.num_ops if self.auto_augment == "randaugment" else 1
            kind, sign = chance(AUTO_OP[:count]), chance(AUTO_SIGN[:count])
            drawn.append(
                sample_auto_augment(self.auto_augment, self.magnitude, image_size, kind, sign, chance([AUTO_MAGNITUDE]))
            )
        if self.color_jitter is not None and any(self.color_jitter):
            drawn.append(sample_color_jitter(self.color_jitter, chance(JITTER_ORDER), chance(JITTER_FACTOR)))
        if drawn:
            rest["ops"], rest["magnitudes"] = (np.hstack(parts) for parts in zip(*drawn, strict=True))
        if self.random_erase:
            numbers = (chance(columns) for columns in ([ERASE], ERASE_POSITION, ERASE_AREA, ERASE_ASPECT))
            rest["erase_boxes"] = sample_erase_boxes(
                self.random_erase, self.erase_scale, self.erase_ratio, image_size, *numbers
            )
            rest["erase_fill"] = tuple(round(255 * value) for value in self.mean or (0.0,))
        return rest

    def _center(self, sizes: Ints, image_size: int) -> tuple[Ints, Ints]:
        """(resized, windows): the shorter side to `eval_resize` times the image size, and the centre of that."""
        resized = shorter_side_to(sizes, round(self.effective_eval_resize * image_size))
        corners = np.rint((resized - image_size) / 2).astype(np.int64)
        return resized, np.hstack([corners, np.full_like(corners, image_size)])

    def _shapes(self, sizes: Ints, area: Floats, aspect: Floats) -> tuple[Ints, npt.NDArray[np.bool_]]:
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


def _float_tuple(field: str, value: object) -> tuple[float, ...] | None:
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


def _whole(field: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"augment.{field}={value}: it must be a whole number from {low} to {high}")
