"""The mean and the standard deviation of a data set's channels, for image formats without known ones."""

import logging

import numpy as np

from cnnzoo.data.split import Split
from cnnzoo.data.transforms.decode import decode_bytes, error_reason
from cnnzoo.data.transforms.pixel_format import format_text
from cnnzoo.errors import UserError
from cnnzoo.runtime.formatting import plural

SAMPLED_IMAGES = 256
DIGITS = 6  # significant ones

log = logging.getLogger(__name__)


def measure_statistics(split: Split, channels: int, bits: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, for values from 0 to 1, of `SAMPLED_IMAGES` images of the split's files.

    They depend only on the files: the images are those at equal distances in the split. Files that cannot be read are
    left out, because filling the cache reports them. The standard deviation is at least one step of the values, because
    a channel may be constant. Raises UserError if no file can be read.
    """
    largest = 255 if bits == 8 else 65535
    count, total, squares = 0, np.zeros(channels), np.zeros(channels)
    images, reason = 0, ""
    for index in np.linspace(0, len(split) - 1, min(SAMPLED_IMAGES, len(split))).astype(int).tolist():
        try:
            pixels = decode_bytes(split.read(index), channels, bits)
        except Exception as error:  # the decoders raise various exceptions
            reason = reason or f"{split.name(index)}: {error_reason(error)}"
            continue
        values = pixels.reshape(-1, channels).astype(np.float64) / largest
        count, images = count + len(values), images + 1
        total += values.sum(axis=0)
        squares += (values**2).sum(axis=0)
    if not images:
        raise UserError(f"no training image can be read as {format_text(channels, bits)}; {reason}")
    mean = total / count
    std = np.maximum(np.sqrt(np.maximum(squares / count - mean**2, 0)), 1 / largest)
    means, stds = (tuple(float(f"{value:.{DIGITS}g}") for value in values) for values in (mean, std))
    typed = " ".join(
        f"augment.{name}={list(values)}".replace(", ", ",") for name, values in (("mean", means), ("std", stds))
    )
    log.info("%s, measured on %s of the training split", typed, plural(images, "image"))
    return means, stds
