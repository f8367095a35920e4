"""What a data set hands on: a split's labels, with its pixels or the paths of its files; and how splits are made."""

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from cnnzoo.data.counter_rng import SPLIT_STREAM, permutation
from cnnzoo.errors import UserError

if TYPE_CHECKING:
    from cnnzoo.data.cache.shared_memory import ImageStore

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """N images with their labels. Each array is one block of memory, so that forked workers share it as it is."""

    labels: npt.NDArray[np.int64]  # (N,)
    pixels: npt.NDArray[np.uint8] | None = None  # (N, H, W, C)
    paths: npt.NDArray[np.bytes_] | None = None  # (N,), by os.fsencode
    store: "ImageStore | None" = None  # of the images of `paths` that are in RAM

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        """The file of image `index`."""
        assert self.paths is not None
        return os.fsdecode(self.paths[index])


class Source(Protocol):
    """A data set: its facts, which cost no more than a listing of files, and its splits.

    Built as `source(root=..., split_seed=...)`. `channels` and `image_size` are proposals: what the images have, or
    what suits them. `mean` and `std` are per channel, of pixels from 0 to 1.
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
        """The split "train", "val" or "test"; None where there is no such split."""
        ...


def reject_root(name: str, root: str | None) -> None:
    """Raise UserError for a typed root, by a data set that takes none."""
    if root is not None:
        raise UserError(f"data.root={root}: data={name} reads no files and takes no root; leave data.root out")


def stratified_split(
    labels: npt.NDArray[np.int64], fraction: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(rest, part): indices into `labels`, ascending; `part` holds `fraction` of them, of every class its share.

    A function of the arguments alone. The part's size is rounded up; what the classes' shares leave over in rounding
    goes to those that lost most by it. Every class has at least one image in each of the two. Raises ValueError where a
    class has fewer than two.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(counts) and counts.min() < 2:
        raise ValueError(f"class {classes[counts.argmin()]} has one image, which cannot be in both parts")
    exact = counts * fraction
    shares = np.maximum(1, np.floor(exact)).astype(np.int64)
    missing = math.ceil(round(len(labels) * fraction, 6)) - shares.sum()
    for at in np.argsort(shares - exact, kind="stable")[: max(0, missing)]:
        shares[at] += shares[at] + 1 < counts[at]
    order = permutation(SPLIT_STREAM, seed, 0, len(labels))
    chosen = [order[labels[order] == label][:share] for label, share in zip(classes, shares, strict=True)]
    is_part = np.zeros(len(labels), bool)
    is_part[np.concatenate([np.empty(0, np.int64), *chosen])] = True
    return np.flatnonzero(~is_part), np.flatnonzero(is_part)


def train_val_test_split(labels: npt.NDArray[np.int64], seed: int) -> dict[str, npt.NDArray[np.int64]]:
    """Indices of train, val and test for a set without splits of its own: a fifth is test, a tenth of the rest val."""
    rest, test = stratified_split(labels, 1 / 5, seed)
    train, val = stratified_split(labels[rest], 1 / 10, seed)
    return {"train": rest[train], "val": rest[val], "test": test}
