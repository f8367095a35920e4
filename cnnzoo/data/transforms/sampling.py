"""Sampling of the operations and erased boxes that follow crop and flip.

The distributions are those of torchvision v2's `ColorJitter`, `RandAugment`, `TrivialAugmentWide` and `RandomErasing`.
Arguments named `u_*` are uniform random numbers in [0, 1), one row per image. `augment.py` assigns their columns.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from cnnzoo.sizes import Size

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Rows = IntArray | slice

# An operation's code is its index in this tuple. The unit of its magnitude:
# - shear: the tangent of the angle
# - translate: whole pixels to the right or down
# - rotate: degrees counter-clockwise
# - brightness, contrast, saturation, sharpness: a factor, 1 for no change
# - hue: a fraction of the color circle
# - posterize: the number of bits to keep
# - solarize: the lowest value that is inverted
# - the others ignore it
OPS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "saturation",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
    "hue",
)
AUTO_OPS = OPS[:-1]  # RandAugment and TrivialAugment choose from these with equal probability
SIGNED_OPS = AUTO_OPS[AUTO_OPS.index("shear_x") : AUTO_OPS.index("posterize")]
FACTOR_OPS = ("brightness", "saturation", "contrast", "sharpness")
JITTER_OPS = ("brightness", "contrast", "saturation", "hue")
NUM_MAGNITUDE_BINS = 31  # from no change to the strongest


def turns_as_flips(
    quarters: IntArray, flips: BoolArray, vertical_flips: BoolArray
) -> tuple[BoolArray, BoolArray, BoolArray]:
    """Flips (N,), vertical flips (N,) and transposes (N,) that equal the flips and then `quarters` turns.

    A turn by 90 degrees is counter-clockwise. The order is: flip horizontally, flip vertically, transpose.
    """
    return flips ^ np.isin(quarters, (1, 2)), vertical_flips ^ np.isin(quarters, (2, 3)), quarters % 2 == 1


def sample_auto_augment(
    policy: str, magnitude: int, image_size: Size, u_op: FloatArray, u_sign: FloatArray, u_magnitude: FloatArray
) -> tuple[IntArray, FloatArray]:
    """Operations and magnitudes, both (N, K), of a policy: "randaugment" or "trivialaugment".

    RandAugment uses `magnitude` (0 to 30) for all images, TrivialAugment a random one. `u_op` and `u_sign` (N, K) give
    the operations and their directions, `u_magnitude` (N, 1) gives TrivialAugment's magnitudes.
    """
    wide = policy == "trivialaugment"
    ops = (u_op * len(AUTO_OPS)).astype(np.int64)
    bins = (u_magnitude * NUM_MAGNITUDE_BINS).astype(np.int64) if wide else np.full_like(ops, magnitude)
    magnitudes = _magnitude_table(image_size, wide)[ops, bins]
    is_negative = np.isin(ops, _op_codes(SIGNED_OPS)) & (u_sign < 0.5)
    magnitudes = np.where(is_negative, -magnitudes, magnitudes)
    return ops, np.where(np.isin(ops, _op_codes(FACTOR_OPS)), 1 + magnitudes, magnitudes)


def sample_color_jitter(
    max_changes: Sequence[float], u_order: FloatArray, u_factor: FloatArray
) -> tuple[IntArray, FloatArray]:
    """Operations and magnitudes, both (N, 4): brightness, contrast, saturation and hue in a random order per image.

    `max_changes` are the largest changes of these four; 0 turns one off. `u_order` and `u_factor` are (N, 4).
    """
    change = np.array(max_changes)
    center = np.array([1.0, 1.0, 1.0, 0.0])
    low = np.where(center == 1, np.maximum(center - change, 0), -change)
    magnitudes = low + u_factor * (center + change - low)
    codes = np.where(change > 0, _op_codes(JITTER_OPS), 0)
    order = np.argsort(u_order, axis=1, kind="stable")
    return codes[order], np.take_along_axis(magnitudes, order, axis=1)


def sample_erase_shapes(
    scale: Sequence[float], ratio: Sequence[float], image_size: Size, u_area: FloatArray, u_aspect: FloatArray
) -> tuple[IntArray, BoolArray]:
    """Height and width of boxes to erase (N, attempts, 2), and whether they are below the image's (N, attempts).

    The area is uniform and the aspect (height / width) is log-uniform. `u_area` and `u_aspect` are (N, attempts).
    """
    areas = image_size[0] * image_size[1] * (scale[0] + u_area * (scale[1] - scale[0]))
    low, high = np.log(ratio)
    aspects = np.exp(low + u_aspect * (high - low))
    shapes = np.rint(np.sqrt(np.stack([areas * aspects, areas / aspects], axis=2))).astype(np.int64)
    return shapes, (shapes < image_size).all(axis=2)


def first_fit(
    sample_shapes: Callable[[Rows, int], tuple[IntArray, BoolArray]], attempts: int
) -> tuple[IntArray, BoolArray]:
    """Shapes (N, 2) of the first attempt that fits, and whether one of the attempts fits (N,).

    `sample_shapes(rows, attempts)` returns the shapes (rows, attempts, 2) of the first attempts, and whether they fit
    (rows, attempts). Most images fit at once, so the later attempts are sampled only for the others.
    """
    all_shapes, all_fits = sample_shapes(slice(None), 1)
    shapes, fits = all_shapes[:, 0], all_fits[:, 0]
    retry = np.flatnonzero(~fits)
    if len(retry):
        more_shapes, more_fits = sample_shapes(retry, attempts)
        shapes[retry] = more_shapes[np.arange(len(retry)), more_fits.argmax(axis=1)]
        fits[retry] = more_fits.any(axis=1)
    return shapes, fits


def _magnitude_table(image_size: Size, wide: bool) -> FloatArray:
    """Magnitude of each operation of `AUTO_OPS` at each level, (operations, NUM_MAGNITUDE_BINS), without sign.

    `wide` selects TrivialAugment's ranges instead of RandAugment's. For `FACTOR_OPS` it is the difference to 1.
    """
    level = np.linspace(0, 1, NUM_MAGNITUDE_BINS)
    shear, degrees, factor = (0.99, 135.0, 0.99) if wide else (0.3, 30.0, 0.9)
    shift_y, shift_x = (
        np.trunc(np.linspace(0, 32 if wide else 150 / 331 * side, NUM_MAGNITUDE_BINS)) for side in image_size
    )
    table = {
        "shear_x": shear * level,
        "shear_y": shear * level,
        "translate_x": shift_x,
        "translate_y": shift_y,
        "rotate": degrees * level,
        "brightness": factor * level,
        "saturation": factor * level,
        "contrast": factor * level,
        "sharpness": factor * level,
        "posterize": np.rint(8 - (6 if wide else 4) * level),
        "solarize": 255 * (1 - level),
    }
    return np.stack([table.get(name, np.zeros(NUM_MAGNITUDE_BINS)) for name in AUTO_OPS])


def _op_codes(names: Sequence[str]) -> list[int]:
    return [OPS.index(name) for name in names]
