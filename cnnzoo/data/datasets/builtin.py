"""The data sets: digits (real, ships with scikit-learn), synthetic, any folder (`folder.py`), and `standard.py`'s."""

from functools import cached_property

import numpy as np
import numpy.typing as npt

from cnnzoo.data.counter_rng import IMAGE_STREAM, uniform
from cnnzoo.data.split import Split, reject_root, train_val_test_split
from cnnzoo.errors import UserError


class Digits:
    """1,797 handwritten digits of 8x8 grey pixels, scanned from 43 writers (UCI, 1998), as scikit-learn ships them.

    Their grey values, 0 to 16, are stretched to 0 to 255. There is no test split of their own: a fifth of them is test.
    Raises UserError for a typed root.
    """

    name = "digits"
    classes = tuple("0123456789")
    channels = 1
    image_size = 16  # twice their own: at 8 a pooling net has nothing left to pool
    mean = (0.3059,)  # measured on train with split_seed 0
    std = (0.3761,)

    def __init__(self, root: str | None = None, split_seed: int = 0) -> None:
        reject_root(self.name, root)
        self.split_seed = split_seed

    def split(self, name: str) -> Split | None:
        """The split "train" (1,293 images), "val" (144) or "test" (360)."""
        pixels, labels, indices = self._everything
        at = indices.get(name)
        return None if at is None else Split(labels[at], pixels=pixels[at])

    @cached_property
    def _everything(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], dict[str, npt.NDArray[np.int64]]]:
        from sklearn.datasets import load_digits  # here, not above: importing it takes a second where nobody needs it

        digits = load_digits()
        pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # (1797, 8, 8, 1)
        labels = digits.target.astype(np.int64)
        return pixels, labels, train_val_test_split(labels, self.split_seed)


class Synthetic:
    """Made-up images that a net can learn: each class is a smooth random pattern, each image that pattern under noise.

    For trying things out and for measuring without a file. `images` is how many there are in all; a fifth of them is
    test, a tenth of the rest val. `split_seed` decides patterns, noise and splits. Raises UserError for a typed root,
    and for sizes of which nothing can be made.
    """

    name = "synthetic"

    def __init__(
        self,
        root: str | None = None,
        split_seed: int = 0,
        *,
        images: int = 2000,
        classes: int = 10,
        image_size: int = 32,
        channels: int = 3,
    ) -> None:
        reject_root(self.name, root)
        _check_minimum("classes", classes, 2)
        _check_minimum("images", images, 3 * classes, f" (train, val and test need one each of {classes} classes)")
        _check_minimum("image_size", image_size, 1)
        if channels not in (1, 3):
            raise UserError(f"data=synthetic: channels is {channels}; it can be 1 (grey) or 3 (colour)")
        self.split_seed = split_seed
        self.classes = tuple(f"class{number:0{len(str(classes - 1))}d}" for number in range(classes))
        self.channels, self.image_size = channels, image_size
        self.mean, self.std = (0.5,) * channels, (0.16,) * channels
        self._labels = np.arange(images, dtype=np.int64) % classes
        self._made: dict[str, Split] = {}

    def split(self, name: str) -> Split | None:
        """The split "train", "val" or "test", made when first asked for."""
        at = train_val_test_split(self._labels, self.split_seed).get(name)
        if at is not None and name not in self._made:
            self._made[name] = Split(self._labels[at], pixels=self._pixels(at))
        return self._made.get(name)

    def _pixels(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        patterns = self._patterns()
        pixels = np.empty((len(indices), self.image_size, self.image_size, self.channels), np.uint8)
        for row, index in enumerate(indices):
            noise = uniform(IMAGE_STREAM, self.split_seed, 1, [index], pixels[0].size).reshape(pixels[0].shape)
            pixels[row] = (patterns[self._labels[index]] + 64 * noise).astype(np.uint8)
        return pixels

    def _patterns(self) -> npt.NDArray[np.float64]:
        """(classes, H, W, C) from 0 to 191: a 4x4 grid of random values per class and channel, smoothly enlarged."""
        grids = uniform(IMAGE_STREAM, self.split_seed, 0, np.arange(len(self.classes)), 16 * self.channels)
        grids = 191 * grids.reshape(len(self.classes), 4, 4, self.channels)
        at = np.linspace(0, 3, self.image_size)
        low = np.minimum(at.astype(int), 2)
        weights = np.zeros((self.image_size, 4))
        weights[np.arange(self.image_size), low] = 1 - (at - low)
        weights[np.arange(self.image_size), low + 1] = at - low
        return np.einsum("yi,xj,nijc->nyxc", weights, weights, grids)


def _check_minimum(key: str, value: int, least: int, why: str = "") -> None:
    if value < least:
        raise UserError(f"data=synthetic: {key} is {value}; it must be at least {least}{why}")
