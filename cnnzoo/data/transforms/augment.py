"""Augmentation settings (`Augment`) and the random parameters that they give for each image (`AugmentParams`).

Sampling parameters is separate from applying them, so every loader transforms an image in the same way. `geometry.py`
and `color.py` apply them on the CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cnnzoo.checks import check_choice, check_int, check_number
from cnnzoo.data.counter_rng import AUGMENT_STREAM, row_keys, uniform_columns
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
)
from cnnzoo.errors import UserError

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

Keys = npt.NDArray[np.uint64]  # (N, 1) of the images' random numbers: see `row_keys`


@dataclass(frozen=True)
class AugmentParams:
    """Parameters of the transforms of N images.

    The order of the transforms is: resize, crop, resize the crop to `image_size`, flip, operations, erase. A field is
    None if no image needs that transform.
    """

    resize_to: IntArray  # (N, 2) height and width of the whole image before it is cropped
    crops: IntArray  # (N, 4) top, left, height, width in the resized image; parts outside the image are black
    flips: BoolArray  # (N,) whether to flip horizontally
    image_size: int  # height and width of the result, in pixels
    ops: IntArray | None = None  # (N, K) operations as indices into `sampling.OPS`, in the order of application
    magnitudes: FloatArray | None = None  # (N, K) magnitude of each operation, in the units listed at `sampling.OPS`
    erase_boxes: IntArray | None = None  # (N, 4) top, left, height, width in the result; height 0 erases nothing
    erase_fill: tuple[int, ...] = (0,)  # pixel value of erased boxes, 0 to 255: one per channel, or one for all

    def select(self, indices: Rows) -> "AugmentParams":
        """The parameters of the images at `indices`; views for a slice."""
        arrays: dict[str, Any] = {n: rows[indices] for n, rows in vars(self).items() if isinstance(rows, np.ndarray)}
        return replace(self, **arrays)


@dataclass(frozen=True)
class Augment:
    """Settings of the training and evaluation transforms.

    Training images are cropped, flipped, transformed by an automatic augmentation policy, color-jittered and erased,
    in this order. Evaluation images are resized and center-cropped. Resizing is bilinear and antialiased.

    - `crop`: the training crop.
      "center" is the evaluation crop.
      "padded" resizes the shorter side to the image size, adds a black border of `padding` times the image size, and
      takes a random crop.
      "random_resized" takes a random crop and resizes it to the image size. The crop's area is a fraction of the
      image's area from the range `scale`, and its aspect (width / height) is from the range `ratio`.
    - `flip`: the probability of a horizontal flip.
    - `auto_augment`: "randaugment" applies `num_ops` operations at `magnitude` (0 to 30), "trivialaugment" applies one
      operation at a random magnitude, None applies none.
    - `color_jitter`: the largest changes of brightness, contrast, saturation and hue (at most 0.5), which are applied
      in random order.
    - `random_erase`: the probability that a box is filled with `mean`, or with black if `mean` is None. The box's area
      is a fraction of the image's area from `erase_scale`, and its aspect (height / width) is from `erase_ratio`.
    - `eval_resize`: the shorter side before the center crop, as a multiple of the image size. None is 256/224 with
      "random_resized", because objects look larger in such crops, and 1 with the other crops.
    - `mean`, `std`: per channel, 0 to 1. The data module replaces None by the data set's values.

    Raises UserError for an invalid value.
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
        check_choice("augment.crop", self.crop, CROPS)
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
        for field in ("flip", "random_erase", "padding"):
            check_number(f"augment.{field}", getattr(self, field), minimum=0, maximum=1)
        if self.eval_resize is not None:
            check_number("augment.eval_resize", self.eval_resize, minimum=1, maximum=8)
        if self.std is not None and min(self.std, default=0) <= 0:
            raise UserError(f"augment.std={list(self.std)}: expected numbers > 0, because pixels are divided by them")

    def sample(self, seed: int, epoch: int, indices: IntArray, sizes: IntArray, image_size: int) -> AugmentParams:
        """Sample parameters for the training images `indices` (N,).

        `sizes` (N, 2) are their heights and widths after the EXIF rotation. An image's parameters depend only on
        `seed`, `epoch`, its index, its size and `image_size`.
        """
        keys = row_keys(AUGMENT_STREAM, seed, epoch, indices)
        resize_to, crops = self._sample_crops(keys, sizes, image_size)
        flips = uniform_columns(keys, [FLIP_COLUMN])[:, 0] < self.flip
        ops, magnitudes = self._sample_ops(keys, image_size)
        params = AugmentParams(resize_to, crops, flips, image_size, ops, magnitudes)
        if not self.random_erase:
            return params
        boxes = self._sample_erase_boxes(keys, image_size)
        return replace(params, erase_boxes=boxes, erase_fill=tuple(round(255 * v) for v in self.mean or (0.0,)))

    def margin(self, image_size: int) -> int:
        """Width of the black border of a padded crop, in pixels."""
        return round(self.padding * image_size)

    @property
    def effective_eval_resize(self) -> float:
        """`eval_resize`, or its default if it is None."""
        if self.eval_resize is not None:
            return self.eval_resize
        return 256 / 224 if self.crop == "random_resized" else 1.0

    def eval_params(self, sizes: IntArray, image_size: int) -> AugmentParams:
        """Parameters for evaluation images of `sizes` (N, 2), height and width; nothing is random."""
        return AugmentParams(*self._center_crops(sizes, image_size), np.zeros(len(sizes), bool), image_size)

    def _sample_crops(self, keys: Keys, sizes: IntArray, image_size: int) -> tuple[IntArray, IntArray]:
        """`resize_to` (N, 2) and `crops` (N, 4) for training."""
        if self.crop == "center":
            return self._center_crops(sizes, image_size)
        if self.crop == "padded":
            resize_to = shorter_side_to(sizes, image_size)
            margin = self.margin(image_size)
            positions = uniform_columns(keys, [TOP_COLUMN, LEFT_COLUMN]) * (resize_to + 2 * margin - image_size + 1)
            corners = np.floor(positions).astype(np.int64) - margin
            return resize_to, np.hstack([corners, np.full_like(corners, image_size)])
        shapes, fits = self._sample_crop_shapes(keys, sizes)
        positions = uniform_columns(keys, [TOP_COLUMN, LEFT_COLUMN]) * (sizes - shapes + 1)
        corners = np.floor(positions).astype(np.int64)
        corners = np.where(fits[:, None], corners, (sizes - shapes) // 2)
        return sizes, np.hstack([corners, shapes])

    def _sample_ops(self, keys: Keys, image_size: int) -> tuple[IntArray | None, FloatArray | None]:
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

    def _center_crops(self, sizes: IntArray, image_size: int) -> tuple[IntArray, IntArray]:
        """`resize_to` (N, 2) and `crops` (N, 4) for evaluation."""
        resize_to = shorter_side_to(sizes, round(self.effective_eval_resize * image_size))
        corners = np.rint((resize_to - image_size) / 2).astype(np.int64)
        return resize_to, np.hstack([corners, np.full_like(corners, image_size)])

    def _sample_erase_boxes(self, keys: Keys, image_size: int) -> IntArray:
        """`erase_boxes` (N, 4)."""
        erased = np.flatnonzero(uniform_columns(keys, [ERASE_COLUMN])[:, 0] < self.random_erase)
        keys, boxes = keys[erased], np.zeros((len(keys), 4), np.int64)

        def sample_shapes(rows: Rows, attempts: int) -> tuple[IntArray, BoolArray]:
            u_area = uniform_columns(keys[rows], ERASE_AREA_COLUMNS[:attempts])
            u_aspect = uniform_columns(keys[rows], ERASE_ASPECT_COLUMNS[:attempts])
            return sample_erase_shapes(self.erase_scale, self.erase_ratio, image_size, u_area, u_aspect)

        shapes, fits = first_fit(sample_shapes, MAX_ATTEMPTS)
        positions = uniform_columns(keys, ERASE_POSITION_COLUMNS) * (image_size - shapes + 1)
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


def shorter_side_to(sizes: IntArray, side: int) -> IntArray:
    """Scale `sizes` (N, 2) so that the shorter side is `side`; the longer side is rounded down, as in torchvision."""
    short = sizes.min(axis=1, keepdims=True)
    return np.where(sizes == short, side, (side * sizes / short).astype(np.int64))


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
