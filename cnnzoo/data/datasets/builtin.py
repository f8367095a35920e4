"""Data sets that need no download: `Digits`, real images that ship with cnnzoo, and `Synthetic`, computed images."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cnnzoo.checks import check_choice, check_int
from cnnzoo.data.counter_rng import IMAGE_STREAM, uniform
from cnnzoo.data.split import Split, reject_root, train_val_test_split

DIGITS_FILE = Path(__file__).with_name("digits.npz")


class Digits:
    """1,797 handwritten digits of 8x8 grey pixels, from 13 writers (Alpaydin and Kaynak, UCI, 1998; CC BY 4.0).

    The images are the same as those of scikit-learn's `load_digits`. Their grey values, 0 to 16, are scaled to 0 to
    255. A fifth of the images is the test split. Raises UserError if `root` is set.
    """

    name = "digits"
    classes = tuple("0123456789")
    channels = 1
    image_size = 16  # twice the images' own size: at 8 pixels, a network with pooling has nothing left to pool
    mean = (0.3059,)  # of the training split with split_seed 0
    std = (0.3761,)

    def __init__(self, root: str | None = None, split_seed: int = 0) -> None:
        reject_root(self.name, root)
        self.split_seed = split_seed

    def split(self, name: str) -> Split | None:
        """The split "train" (1,293 images), "val" (144) or "test" (360)."""
        pixels, labels, indices = self._arrays
        rows = indices.get(name)
        return None if rows is None else Split(labels[rows], pixels=pixels[rows])

    @cached_property
    def _arrays(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], dict[str, npt.NDArray[np.int64]]]:
        """(pixels, labels, the rows of each split)."""
        with np.load(DIGITS_FILE) as digits:
            images, labels = digits["images"], digits["target"].astype(np.int64)
        pixels = np.rint(images * (255 / 16)).astype(np.uint8)[..., None]  # (1797, 8, 8, 1)
        return pixels, labels, train_val_test_split(labels, self.split_seed)


class DigitsMultilabel(Digits):
    """The images and the splits of `Digits` as a multi-label set: even, prime, and greater than four.

    A digit may belong to several of the classes (2 is even and prime) or to none (1).
    """

    name = "digits_multilabel"
    classes = ("even", "prime", "greater_than_4")

    def split(self, name: str) -> Split | None:
        """The split "train" (1,293 images), "val" (144) or "test" (360)."""
        split = super().split(name)
        if split is None:
            return None
        digits = split.labels
        columns = (digits % 2 == 0, np.isin(digits, (2, 3, 5, 7)), digits > 4)
        return replace(split, labels=np.stack(columns, axis=1).astype(np.uint8))


class Synthetic:
    """Computed images that a network can learn: one smooth random pattern per class, plus noise in each image.

    Use it to try things out and to measure speed without files. `images` is the number of images in all splits: a
    fifth is test, a tenth of the rest is val. `split_seed` determines patterns, noise and splits. Raises UserError if
    `root` is set, and for values out of range.
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
        check_int("data.source.classes", classes, minimum=2)
        note = f"(train, val and test need one image of each of the {classes} classes)"
        check_int("data.source.images", images, minimum=3 * classes, note=note)
        check_int("data.source.image_size", image_size, minimum=1)
        check_choice("data.source.channels", channels, (1, 3), note="(1 is grey, 3 is RGB)")
        self.split_seed = split_seed
        self.classes = tuple(f"class{number:0{len(str(classes - 1))}d}" for number in range(classes))
        self.channels, self.image_size = channels, image_size
        self.mean, self.std = (0.5,) * channels, (0.16,) * channels
        self._labels = np.arange(images, dtype=np.int64) % classes
        self._splits: dict[str, Split] = {}

    def split(self, name: str) -> Split | None:
        """The split "train", "val" or "test". Its images are computed at the first call."""
        indices = train_val_test_split(self._labels, self.split_seed).get(name)
        if indices is not None and name not in self._splits:
            self._splits[name] = Split(self._labels[indices], pixels=self._compute_images(indices))
        return self._splits.get(name)

    def _compute_images(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        patterns = self._compute_patterns()
        pixels = np.empty((len(indices), self.image_size, self.image_size, self.channels), np.uint8)
        for row, index in enumerate(indices):
            noise = uniform(IMAGE_STREAM, self.split_seed, 1, [index], pixels[0].size).reshape(pixels[0].shape)
            pixels[row] = (patterns[self._labels[index]] + 64 * noise).astype(np.uint8)
        return pixels

    def _compute_patterns(self) -> npt.NDArray[np.float64]:
        """(classes, H, W, C), values 0 to 191: per class and channel, a random 4x4 grid, bilinearly enlarged."""
        grids = uniform(IMAGE_STREAM, self.split_seed, 0, np.arange(len(self.classes)), 16 * self.channels)
        grids = 191 * grids.reshape(len(self.classes), 4, 4, self.channels)
        positions = np.linspace(0, 3, self.image_size)
        low = np.minimum(positions.astype(int), 2)
        weights = np.zeros((self.image_size, 4))
        weights[np.arange(self.image_size), low] = 1 - (positions - low)
        weights[np.arange(self.image_size), low + 1] = positions - low
        return np.einsum("yi,xj,nijc->nyxc", weights, weights, grids)
