"""Augmentation settings (`Augment`) and the random parameters that they give for each image (`AugmentParams`).

Sampling parameters is separate from applying them, so every loader transforms an image in the same way. `geometry.py`
and `color.py` apply them on the CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cnnzoo.checks import check_bool, check_choice, check_int, check_number
from cnnzoo.data.counter_rng import AUGMENT_STREAM, row_keys, uniform_columns
from cnnzoo.data.transforms.fit import FITS, center_corners, fit_sizes
from cnnzoo.data.transforms.sampling import (
    NUM_MAGNITUDE_BINS,
    BoolArray,
    FloatArray,
    IntArray,
    Rows,
    first_fit,
    sample_auto_augment,
    sample_color_jitter,
    sample_erase_shapes,
    turns_as_flips,
)
from cnnzoo.errors import UserError
from cnnzoo.sizes import Size, as_size

CROPS = ("center", "padded", "random_resized")
AUTO_AUGMENT_POLICIES = ("randaugment", "trivialaugment")
MAX_ATTEMPTS = 10  # to find a box that fits, as in torchvision's RandomResizedCrop and RandomErasing
MAX_OPS = 16  # RandAugment operations per image

# Columns of an image's random numbers. They are fixed, so a new operation leaves the numbers of the others unchanged.
FLIP_COLUMN, TOP_COLUMN, LEFT_COLUMN = 0, 1, 2
AREA_COLUMNS = range(3, 3 + MAX_ATTEMPTS)
ASPECT_COLUMNS = range(13, 13 + MAX_ATTEMPTS)
JITTER_ORDER_COLUMNS = range(23, 27)
JITTER_FACTOR_COLUMNS = range(27, 31)
ERASE_COLUMN = 31
ERASE_POSITION_COLUMNS = range(32, 34)
ERASE_AREA_COLUMNS = range(34, 34 + MAX_ATTEMPTS)
ERASE_ASPECT_COLUMNS = range(44, 44 + MAX_ATTEMPTS)
AUTO_OP_COLUMNS = range(54, 54 + MAX_OPS)
AUTO_SIGN_COLUMNS = range(70, 70 + MAX_OPS)
AUTO_MAGNITUDE_COLUMN = 86
VERTICAL_FLIP_COLUMN, QUARTER_TURNS_COLUMN, ANGLE_COLUMN = 87, 88, 89

Keys = npt.NDArray[np.uint64]  # (N, 1) of the images' random numbers: see `row_keys`


@dataclass(frozen=True)
class AugmentParams:
    """Parameters of the transforms of N images.

    The order of the transforms is: resize, crop, resize the crop to `image_size`, flip horizontally, flip vertically,
    transpose, rotate, operations, erase. A field is None if no image needs that transform.
    """

    resize_to: IntArray  # (N, 2) height and width of the whole image before it is cropped
    crops: IntArray  # (N, 4) top, left, height, width in the resized image; parts outside the image are black
    flips: BoolArray  # (N,) whether to flip horizontally
    image_size: Size  # height and width of the result, in pixels
    ops: IntArray | None = None  # (N, K) operations as indices into `sampling.OPS`, in the order of application
    magnitudes: FloatArray | None = None  # (N, K) magnitude of each operation, in the units listed at `sampling.OPS`
    erase_boxes: IntArray | None = None  # (N, 4) top, left, height, width in the result; height 0 erases nothing
    erase_fill: tuple[int, ...] = (0,)  # pixel value of erased boxes, 0 to 255: one per channel, or one for all
    vertical_flips: BoolArray | None = None  # (N,) whether to flip vertically
    transposes: BoolArray | None = None  # (N,) whether to swap rows and columns, which needs a square `image_size`
    angles: FloatArray | None = None  # (N,) degrees to rotate counter-clockwise, bilinear and black outside the image

    def select(self, indices: Rows) -> "AugmentParams":
        """The parameters of the images at `indices`; views for a slice."""
        arrays: dict[str, Any] = {n: rows[indices] for n, rows in vars(self).items() if isinstance(rows, np.ndarray)}
        return replace(self, **arrays)


@dataclass(frozen=True)
class Augment:
    """Settings of the training and evaluation transforms.

    Training images are cropped, flipped, turned, rotated, transformed by an automatic augmentation policy,
    color-jittered and erased, in this order. Evaluation images are resized and center-cropped. Resizing is bilinear and
    antialiased.

    - `fit`: how an image of another aspect ratio is made to fit the image size.
      "crop" resizes it to cover the image size, and cuts off the rest.
      "pad" resizes it to fit inside the image size, and fills the rest with black on both sides.
      "squash" resizes it to the image size, which changes its aspect ratio.
    - `crop`: the training crop.
      "center" is the evaluation crop.
      "padded" fits the image, adds a black border of `padding` times the image size, and takes a random crop.
      "random_resized" takes a random crop and resizes it to the image size. The crop's area is a fraction of the
      image's area from the range `scale`, and its aspect (width / height) is from the range `ratio`. `fit` then affects
      only evaluation.
    - `flip`, `vertical_flip`: the probabilities of a horizontal and of a vertical flip.
    - `rotate90`: turn by 0, 90, 180 or 270 degrees with equal probability, which needs a square image size.
    - `rotation`: rotate by a random angle of up to so many degrees in both directions, bilinear. The corners become
      black, as by torchvision's `rotate`.
    - `auto_augment`: "randaugment" applies `num_ops` operations at `magnitude` (0 to 30), "trivialaugment" applies one
      operation at a random magnitude, None applies none.
    - `color_jitter`: the largest changes of brightness, contrast, saturation and hue (at most 0.5), which are applied
      in random order.
    - `random_erase`: the probability that a box is filled with `mean`, or with black if `mean` is None. The box's area
      is a fraction of the image's area from `erase_scale`, and its aspect (height / width) is from `erase_ratio`.
    - `eval_resize`: the size that the image covers before the center crop, as a multiple of the image size. None is
      256/224 with "random_resized", because objects look larger in such crops, and 1 with the other crops. It has no
      effect with `fit` "pad" and "squash".
    - `mean`, `std`: per channel, 0 to 1. The data module replaces None by the data set's values.

    Raises UserError for an invalid value.
    """

    crop: Literal["center", "padded", "random_resized"] = "center"
    padding: float = 0.125
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    vertical_flip: float = 0.0
    rotate90: bool = False
    rotation: float = 0.0
    auto_augment: Literal["randaugment", "trivialaugment"] | None = None
    num_ops: int = 2
    magnitude: int = 9
    color_jitter: tuple[float, float, float, float] | None = None
    random_erase: float = 0.0
    erase_scale: tuple[float, float] = (0.02, 0.33)
    erase_ratio: tuple[float, float] = (0.3, 3.3)
    eval_resize: float | None = None
    fit: Literal["crop", "pad", "squash"] = "crop"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_choice("augment.crop", self.crop, CROPS)
        check_choice("data.fit", self.fit, FITS, note="(cut off, add black borders, or change the aspect ratio)")
        if self.auto_augment is not None:
            note = "(null turns it off)"
            check_choice("augment.auto_augment", self.auto_augment, AUTO_AUGMENT_POLICIES, note=note)
        for field in ("scale", "ratio", "color_jitter", "erase_scale", "erase_ratio", "mean", "std"):
            object.__setattr__(self, field, _float_tuple(field, getattr(self, field)))
        _check_range("scale", self.scale, is_area=True)
        _check_range("ratio", self.ratio)
        _check_range("erase_scale", self.erase_scale, is_area=True)
        _check_range("erase_ratio", self.erase_ratio)
        jitter = self.color_jitter
        if jitter is not None and not (len(jitter) == 4 and min(jitter) >= 0 and jitter[3] <= 0.5):
            raise UserError(
                f"augment.color_jitter={list(jitter)}: expected four numbers >= 0, the largest changes of brightness, "
                "contrast, saturation and hue (hue at most 0.5), such as [0.4,0.4,0.4,0.1]"
            )
        check_int("augment.num_ops", self.num_ops, minimum=1, maximum=MAX_OPS)
        check_int("augment.magnitude", self.magnitude, minimum=0, maximum=NUM_MAGNITUDE_BINS - 1)
        for field in ("flip", "vertical_flip", "random_erase", "padding"):
            check_number(f"augment.{field}", getattr(self, field), minimum=0, maximum=1)
        check_bool("augment.rotate90", self.rotate90, note="(turn by multiples of 90 degrees)")
        check_number("augment.rotation", self.rotation, minimum=0, maximum=180, note="(the largest angle in degrees)")
        if self.eval_resize is not None:
            check_number("augment.eval_resize", self.eval_resize, minimum=1, maximum=8)
        if self.std is not None and min(self.std, default=0) <= 0:
            raise UserError(f"augment.std={list(self.std)}: expected numbers > 0, because pixels are divided by them")

    def sample(
        self, seed: int, epoch: int, indices: IntArray, sizes: IntArray, image_size: int | Size
    ) -> AugmentParams:
        """Sample parameters for the training images `indices` (N,).

        `sizes` (N, 2) are their heights and widths after the EXIF rotation. An image's parameters depend only on
        `seed`, `epoch`, its index, its size and `image_size`.
        """
        keys, image_size = row_keys(AUGMENT_STREAM, seed, epoch, indices), as_size(image_size)
        resize_to, crops = self._sample_crops(keys, sizes, image_size)
        flips = uniform_columns(keys, [FLIP_COLUMN])[:, 0] < self.flip
        ops, magnitudes = self._sample_ops(keys, image_size)
        params = AugmentParams(resize_to, crops, flips, image_size, ops, magnitudes)
        params = replace(params, **self._sample_turns(keys, flips))
        if not self.random_erase:
            return params
        boxes = self._sample_erase_boxes(keys, image_size)
        return replace(params, erase_boxes=boxes, erase_fill=tuple(round(255 * v) for v in self.mean or (0.0,)))

    @property
    def effective_eval_resize(self) -> float:
        """`eval_resize`, or its default if it is None; 1 unless `fit` is "crop"."""
        if self.fit != "crop":
            return 1.0
        if self.eval_resize is not None:
            return self.eval_resize
        return 256 / 224 if self.crop == "random_resized" else 1.0

    def eval_params(self, sizes: IntArray, image_size: int | Size) -> AugmentParams:
        """Parameters for evaluation images of `sizes` (N, 2), height and width; nothing is random."""
        image_size = as_size(image_size)
        return AugmentParams(*self._center_crops(sizes, image_size), np.zeros(len(sizes), bool), image_size)

    def _sample_crops(self, keys: Keys, sizes: IntArray, image_size: Size) -> tuple[IntArray, IntArray]:
        """`resize_to` (N, 2) and `crops` (N, 4) for training."""
        if self.crop == "center":
            return self._center_crops(sizes, image_size)
        if self.crop == "padded":
            resize_to = fit_sizes(sizes, image_size, self.fit)
            margins = np.array([round(self.padding * side) for side in image_size])
            first, space = -margins, resize_to - np.array(image_size) + 2 * margins
            if self.fit == "pad":  # the crop moves over the padded image
                first, space = first + center_corners(resize_to, image_size, self.fit), 2 * margins
            positions = uniform_columns(keys, [TOP_COLUMN, LEFT_COLUMN]) * (space + 1)
            corners = np.floor(positions).astype(np.int64) + first
            return resize_to, np.hstack([corners, np.full_like(corners, image_size)])
        shapes, fits = self._sample_crop_shapes(keys, sizes)
        positions = uniform_columns(keys, [TOP_COLUMN, LEFT_COLUMN]) * (sizes - shapes + 1)
        corners = np.floor(positions).astype(np.int64)
        corners = np.where(fits[:, None], corners, (sizes - shapes) // 2)
        return sizes, np.hstack([corners, shapes])

    def _sample_turns(self, keys: Keys, flips: BoolArray) -> dict[str, Any]:
        """`flips` (N,) with the vertical flips, transposes and angles that are on, as fields of `AugmentParams`."""
        turns: dict[str, Any] = {}
        if self.vertical_flip or self.rotate90:
            turns["vertical_flips"] = uniform_columns(keys, [VERTICAL_FLIP_COLUMN])[:, 0] < self.vertical_flip
        if self.rotate90:
            quarters = (uniform_columns(keys, [QUARTER_TURNS_COLUMN])[:, 0] * 4).astype(np.int64)
            names = "flips", "vertical_flips", "transposes"
            turns |= zip(names, turns_as_flips(quarters, flips, turns["vertical_flips"]), strict=True)
        if self.rotation:
            turns["angles"] = (2 * uniform_columns(keys, [ANGLE_COLUMN])[:, 0] - 1) * self.rotation
        return turns

    def _sample_ops(self, keys: Keys, image_size: Size) -> tuple[IntArray | None, FloatArray | None]:
        """`ops` and `magnitudes` (N, K): the automatic augmentation, then the color jitter; None if both are off."""
        samples = []
        if self.auto_augment is not None:
            count = self.num_ops if self.auto_augment == "randaugment" else 1
            columns = AUTO_OP_COLUMNS[:count], AUTO_SIGN_COLUMNS[:count], [AUTO_MAGNITUDE_COLUMN]
            numbers = (uniform_columns(keys, column) for column in columns)
            samples.append(sample_auto_augment(self.auto_augment, self.magnitude, image_size, *numbers))
        if self.color_jitter is not None and any(self.color_jitter):
            numbers = (uniform_columns(keys, columns) for columns in (JITTER_ORDER_COLUMNS, JITTER_FACTOR_COLUMNS))
            samples.append(sample_color_jitter(self.color_jitter, *numbers))
        if not samples:
            return None, None
        ops, magnitudes = zip(*samples, strict=True)
        return np.hstack(ops), np.hstack(magnitudes)

    def _center_crops(self, sizes: IntArray, image_size: Size) -> tuple[IntArray, IntArray]:
        """`resize_to` (N, 2) and `crops` (N, 4) for evaluation."""
        height, width = (round(self.effective_eval_resize * side) for side in image_size)
        resize_to = fit_sizes(sizes, (height, width), self.fit)
        corners = center_corners(resize_to, image_size, self.fit)
        return resize_to, np.hstack([corners, np.full_like(corners, image_size)])

    def _sample_erase_boxes(self, keys: Keys, image_size: Size) -> IntArray:
        """`erase_boxes` (N, 4)."""
        erased = np.flatnonzero(uniform_columns(keys, [ERASE_COLUMN])[:, 0] < self.random_erase)
        keys, boxes = keys[erased], np.zeros((len(keys), 4), np.int64)

        def sample_shapes(rows: Rows, attempts: int) -> tuple[IntArray, BoolArray]:
            u_area = uniform_columns(keys[rows], ERASE_AREA_COLUMNS[:attempts])
            u_aspect = uniform_columns(keys[rows], ERASE_ASPECT_COLUMNS[:attempts])
            return sample_erase_shapes(self.erase_scale, self.erase_ratio, image_size, u_area, u_aspect)

        shapes, fits = first_fit(sample_shapes, MAX_ATTEMPTS)
        positions = uniform_columns(keys, ERASE_POSITION_COLUMNS) * (np.array(image_size) - shapes + 1)
        boxes[erased] = np.where(fits[:, None], np.hstack([positions.astype(np.int64), shapes]), 0)
        return boxes

    def _sample_crop_shapes(self, keys: Keys, sizes: IntArray) -> tuple[IntArray, BoolArray]:
        """Heights and widths of random-resized crops (N, 2), and whether one of the attempts fits the image (N,).

        The first attempt that fits is taken, else the largest crop with an aspect in `ratio`. As in torchvision's
        RandomResizedCrop, the area is uniform and the aspect (width / height) is log-uniform.
        """
        low, high = np.log(self.ratio)

        def sample_shapes(rows: Rows, attempts: int) -> tuple[IntArray, BoolArray]:
            u_area = uniform_columns(keys[rows], AREA_COLUMNS[:attempts])
            u_aspect = uniform_columns(keys[rows], ASPECT_COLUMNS[:attempts])
            height, width = sizes[rows, :1], sizes[rows, 1:]
            areas = height * width * (self.scale[0] + u_area * (self.scale[1] - self.scale[0]))  # (N, attempts)
            aspects = np.exp(low + u_aspect * (high - low))
            widths = np.rint(np.sqrt(areas * aspects)).astype(np.int64)
            heights = np.rint(np.sqrt(areas / aspects)).astype(np.int64)
            fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
            return np.stack([heights, widths], 2), fits

        shapes, fits = first_fit(sample_shapes, MAX_ATTEMPTS)
        failed = np.flatnonzero(~fits)
        if len(failed):
            height, width = sizes[failed].T
            aspect = np.clip(width / height, *self.ratio)
            fallback = np.stack([np.rint(width / aspect), np.rint(height * aspect)], 1).astype(np.int64)
            shapes[failed] = np.clip(fallback, 1, sizes[failed])
        return shapes, fits


def _float_tuple(field: str, value: object) -> tuple[float, ...] | None:
    """A list from YAML as a tuple of floats."""
    if value is None:
        return None
    try:
        return tuple(float(number) for number in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise UserError(f"augment.{field}={value}: expected a list of numbers, such as [0.5,0.5]") from None


def _check_range(field: str, value: Sequence[float], *, is_area: bool = False) -> None:
    """Raise unless `value` is [low, high] with 0 < low <= high, and high <= 1 for fractions of the image's area."""
    if len(value) != 2 or not 0 < value[0] <= value[1] or (is_area and value[1] > 1):
        bounds = "> 0 and <= 1" if is_area else "> 0"
        note = " (fractions of the image's area)" if is_area else ""
        raise UserError(f"augment.{field}={list(value)}: expected two numbers {bounds} in ascending order{note}")
