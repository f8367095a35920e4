"""A data set split (labels, with pixels or file paths), the protocol of a data set, and stratified splitting."""

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from cnnzoo.checks import check_int
from cnnzoo.data.counter_rng import SPLIT_STREAM, permutation
from cnnzoo.errors import UserError

if TYPE_CHECKING:
    from cnnzoo.data.cache.shared_memory import ImageStore

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """N labels and the images they belong to: either `pixels` or `paths`.

    Each array is one block of memory without Python objects, so forked workers share it without copying pages.
    """

    labels: npt.NDArray[np.int64]  # (N,)
    pixels: npt.NDArray[np.uint8] | None = None  # (N, H, W, C)
    paths: npt.NDArray[np.bytes_] | None = None  # (N,), encoded by os.fsencode
    store: "ImageStore | None" = None  # the cached images of `paths`
    cache_decodes: bool = False  # `store` has pixels instead of files, or will have them once it is filled

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        """The path of image `index`."""
        assert self.paths is not None
        return os.fsdecode(self.paths[index])


class Source(Protocol):
    """A data set: its properties and its splits. Reading a property may list files but does not read all images.

    It is constructed as `source(root=..., split_seed=...)`. `channels` and `image_size` are proposals: those of the
    images, or values that suit them. `mean` and `std` are per channel, for pixel values from 0 to 1.
    """

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def channels(self) -> int: ...

    @property
    def image_size(self) -> int: ...

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...

    def split(self, name: str) -> Split | None:
        """The split "train", "val" or "test", or None if the data set has no such split."""
        ...


def reject_root(name: str, root: str | None) -> None:
    """Raise UserError if `root` is set, for a data set that reads no files."""
    if root is not None:
        raise UserError(
            f"data.root={root}: data={name} reads no files; leave data.root out, or for your images type data=folder"
        )


def stratified_split(
    labels: npt.NDArray[np.int64], fraction: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Split the indices of `labels` into (rest, part), both ascending; `part` gets `fraction` of each class.

    The result depends on the arguments only. The size of `part` is rounded up, and each class's share is rounded down.
    The classes that lost most by rounding down get the remaining images. Every class has at least one image in both
    results. Raises ValueError if a class has fewer than two images, and UserError if `seed` is not a whole number >= 0.
    """
    check_int("data.split_seed", seed, minimum=0)
    classes, counts = np.unique(labels, return_counts=True)
    if len(counts) and counts.min() < 2:
        raise ValueError(f"class {classes[counts.argmin()]} has one image, expected at least two to split it")
    exact_sizes = counts * fraction
    sizes = np.maximum(1, np.floor(exact_sizes)).astype(np.int64)
    remaining = math.ceil(round(len(labels) * fraction, 6)) - sizes.sum()
    for row in np.argsort(sizes - exact_sizes, kind="stable")[: max(0, remaining)]:
        sizes[row] += sizes[row] + 1 < counts[row]
    order = permutation(SPLIT_STREAM, seed, 0, len(labels))
    selected = [order[labels[order] == label][:size] for label, size in zip(classes, sizes, strict=True)]
    in_part = np.zeros(len(labels), bool)
    in_part[np.concatenate([np.empty(0, np.int64), *selected])] = True
    return np.flatnonzero(~in_part), np.flatnonzero(in_part)


def train_val_test_split(labels: npt.NDArray[np.int64], seed: int) -> dict[str, npt.NDArray[np.int64]]:
    """Indices of train, val and test, stratified. Test is a fifth of all images, val a tenth of the rest."""
    rest, test = stratified_split(labels, 1 / 5, seed)
    train, val = stratified_split(labels[rest], 1 / 10, seed)
    return {"train": rest[train], "val": rest[val], "test": test}
