"""What changes an image's look beside its crop and flip, drawn: operations with their amounts, and erased windows.

The laws are those of torchvision v2's `ColorJitter`, `RandAugment`, `TrivialAugmentWide` and `RandomErasing`. Numbers
in [0, 1), one row per image, come in: `augment.py` says which column of an image's numbers is for what.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# The code of an operation is its place here. Its amount is:
# of a shear its tangent, of a translation whole pixels to the right or down, of a rotation degrees counter-clockwise;
# of brightness, contrast, saturation and sharpness a factor, 1 for no change; of hue a share of the colour circle;
# of posterize the bits that are kept, of solarize the value from which pixels are inverted; of the others nothing.
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
AUTO_OPS = OPS[:-1]  # what RandAugment and TrivialAugment choose from, all alike
JITTER_OPS = ("brightness", "contrast", "saturation", "hue")
MAGNITUDES = 31  # steps from no change to the strongest
ERASE_ATTEMPTS = 10  # of finding a window to erase


def sample_auto_augment(
    policy: str, magnitude: int, image_size: int, kind: Floats, sign: Floats, step: Floats
) -> tuple[Ints, Floats]:
    """(operations, amounts), both (N, K), of "randaugment" at `magnitude` (0 to 30), or of "trivialaugment" at any.

    `kind`, `sign`, `step` (N, K): which operation, its direction where it has one, TrivialAugment's magnitude.
    """
    wide = policy == "trivialaugment"
    operations = (kind * len(AUTO_OPS)).astype(np.int64)
    steps = (step * MAGNITUDES).astype(np.int64) if wide else np.full_like(operations, magnitude)
    strengths = _magnitude_table(image_size, wide)[operations, steps]
    signed = np.isin(operations, _op_codes(AUTO_OPS[AUTO_OPS.index("shear_x") : AUTO_OPS.index("posterize")]))
    strengths = np.where(signed & (sign < 0.5), -strengths, strengths)
    factors = np.isin(operations, _op_codes(("brightness", "saturation", "contrast", "sharpness")))
    return operations, np.where(factors, 1 + strengths, strengths)


def sample_color_jitter(strengths: Sequence[float], order: Floats, factor: Floats) -> tuple[Ints, Floats]:
    """(operations, amounts), both (N, 4): brightness, contrast, saturation and hue, in an order of each image's own.

    `strengths` are the four's greatest changes, 0 for none of it. `order` and `factor` are (N, 4).
    """
    strength = np.array(strengths)
    middle = np.array([1.0, 1.0, 1.0, 0.0])
    low = np.where(middle == 1, np.maximum(middle - strength, 0), -strength)
    amounts = low + factor * (middle + strength - low)
    codes = np.where(strength > 0, _op_codes(JITTER_OPS), 0)
    turns = np.argsort(order, axis=1, kind="stable")
    return codes[turns], np.take_along_axis(amounts, turns, axis=1)


def sample_erase_boxes(
    share: float,
    scale: Sequence[float],
    ratio: Sequence[float],
    image_size: int,
    whether: Floats,
    place: Floats,
    area: Floats,
    aspect: Floats,
) -> Ints:
    """(N, 4) top, left, height and width of what is erased; all 0 for the images where nothing is.

    `whether` (N, 1) and `place` (N, 2); `area` and `aspect` (N, tries), of which the first that is smaller than the
    image both ways is taken: the area uniform, the aspect (height over width) uniform in its log.
    """
    target = image_size**2 * (scale[0] + area * (scale[1] - scale[0]))
    low, high = np.log(ratio)
    aspects = np.exp(low + aspect * (high - low))
    shapes = np.rint(np.sqrt(np.stack([target * aspects, target / aspects], axis=2))).astype(np.int64)  # (N, tries, 2)
    fits = (shapes < image_size).all(axis=2)
    shape = np.take_along_axis(shapes, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    corners = (place * (image_size - shape + 1)).astype(np.int64)
    erased = fits.any(axis=1) & (whether[:, 0] < share)
    return np.where(erased[:, None], np.hstack([corners, shape]), 0)


def _magnitude_table(image_size: int, wide: bool) -> Floats:
    """(operations, MAGNITUDES): how strong each operation of `AUTO` is at each magnitude, for images of that size."""
    grade = np.linspace(0, 1, MAGNITUDES)
    shear, turn, factor = (0.99, 135.0, 0.99) if wide else (0.3, 30.0, 0.9)
    shift = np.trunc(np.linspace(0, 32 if wide else 150 / 331 * image_size, MAGNITUDES))
    table = {
        "shear_x": shear * grade,
        "shear_y": shear * grade,
        "translate_x": shift,
        "translate_y": shift,
        "rotate": turn * grade,
        "brightness": factor * grade,
        "saturation": factor * grade,
        "contrast": factor * grade,
        "sharpness": factor * grade,
        "posterize": np.rint(8 - (6 if wide else 4) * grade),
        "solarize": 255 * (1 - grade),
    }
    return np.stack([table.get(name, np.zeros(MAGNITUDES)) for name in AUTO_OPS])


def _op_codes(names: Sequence[str]) -> list[int]:
    return [OPS.index(name) for name in names]
