"""Progressive image size: training begins with small images, which are faster, and ends with large ones."""

from functools import partial
from typing import Any

from cnnzoo.data.loaders.base import Loader
from cnnzoo.errors import UserError
from cnnzoo.sizes import Size

STEP_FRACTION = 1 / 14  # of the final size, between two sizes: 16 pixels for 224, 2 for 32


def progressive_size(epoch: int, epochs: int, start: int, final: Size) -> Size:
    """The image size in an epoch, counted from 0: `final` in the last quarter of `epochs`.

    The shorter side is `start` in the first epoch. It grows linearly, rounded down to a whole number of steps below
    that of `final`. The aspect ratio is that of `final`, up to rounding.
    """
    growing = 3 * epochs // 4  # the epochs before the final size
    if epoch >= growing:
        return final
    shorter = min(final)
    step = max(1, round(shorter * STEP_FRACTION))
    steps_left = -(-(shorter - start) * (growing - epoch) // (growing * step))  # rounded up
    side = max(start, shorter - steps_left * step)
    return round(final[0] * side / shorter), round(final[1] * side / shorter)


def grow_images(loader: Any, *, start: int, epochs: int | None) -> None:
    """Let the shorter side of a training loader's images grow from `start` to the present one by `progressive_size`.

    Raises UserError if there is no number of epochs, or if the loader cannot change its image size.
    """
    if epochs is None or epochs < 1:
        raise UserError(
            f"trainer.max_epochs={epochs}: data.start_size={start} needs a number of epochs; set trainer.max_epochs to "
            "1 or more, or leave data.start_size out"
        )
    if not isinstance(loader, Loader):
        raise UserError(
            f"data.start_size={start}: the loader {type(loader).__name__} cannot change its image size; leave it out"
        )
    loader.size_of_epoch = partial(progressive_size, epochs=epochs, start=start, final=loader.image_size)
    loader.set_image_size(loader.size_of_epoch(0))
