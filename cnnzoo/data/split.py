"""A data set split (labels, with pixels or files), the protocol of a data set, and stratified splitting."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from cnnzoo.checks import check_int
from cnnzoo.data.counter_rng import SPLIT_STREAM, permutation
from cnnzoo.data.transforms.decode import read_file
from cnnzoo.errors import UserError

if TYPE_CHECKING:
    from cnnzoo.data.cache.shared_memory import ImageStore

SPLITS = ("train", "val", "test")


class ImageReader(Protocol):
    """Reads image files that are parts of larger files: members of archives or rows of tables.

    Worker processes get a copy of it, so it holds arrays instead of an object for each image.
    """

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of the larger files."""
        ...

    def read(self, row: int) -> bytes:
        """The content of an image file. Raises OSError or ValueError if it cannot be read."""
        ...

    def name(self, row: int) -> str:
        """The larger file and the place in it, for messages: "train-000.tar: 0007.jpg"."""
        ...

    def positions(self) -> bytes:
        """Which part of which file each image is. With the sizes and times of `files`, it identifies all images."""
        ...


@dataclass(frozen=True)
class Split:
    """N labels and the images they belong to: `pixels`, or files, which are `paths` or the `rows` of a `reader`.

    Each array is one block of memory without Python objects, so forked workers share it without copying pages.
    """

    labels: npt.NDArray[Any]  # int64 (N,); of a multi-label set uint8 (N, num_classes): 1 for the classes of an image
    pixels: npt.NDArray[np.uint8] | None = None  # (N, H, W, C)
    paths: npt.NDArray[np.bytes_] | None = None  # (N,), encoded by os.fsencode
    store: "ImageStore | None" = None  # the cached images, if they are files
    cache_decodes: bool = False  # `store` has pixels instead of files, or will have them once it is filled
    reader: ImageReader | None = None
    rows: npt.NDArray[np.int64] | None = None  # (N,), of `reader`

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def has_files(self) -> bool:
        """Whether the images are files, or parts of files, that must be read and decoded."""
        return self.pixels is None

    @property
    def num_classes(self) -> int | None:
        """The number of classes of a multi-label set; None of a set with one label per image."""
        return self.labels.shape[1] if self.labels.ndim == 2 else None

    def path(self, index: int) -> str:
        """The path of image `index`."""
        assert self.paths is not None
        return os.fsdecode(self.paths[index])

    def read(self, index: int) -> bytes:
        """The content of the file of image `index`. Raises OSError or ValueError if it cannot be read."""
        if self.paths is not None:
            return read_file(self.path(index))
        assert self.reader is not None
        assert self.rows is not None
        return self.reader.read(int(self.rows[index]))

    def name(self, index: int) -> str:
        """What messages call the file of image `index`: its path, or the file that contains it and its place there."""
        if self.paths is not None:
            return self.path(index)
        assert self.reader is not None
        assert self.rows is not None
        return self.reader.name(int(self.rows[index]))

    def file_size(self, index: int) -> int:
        """The number of bytes of the file of image `index`."""
        return len(self.read(index)) if self.paths is None else os.stat(self.path(index)).st_size

    def files(self) -> Sequence[str]:
        """The paths of all files that are read: one for each image, or those that contain several images."""
        if self.paths is not None:
            return [self.path(index) for index in range(len(self))]
        return () if self.reader is None else self.reader.files

    def positions(self) -> bytes:
        """Where each image is: with the sizes and times of `files`, it identifies all images; b"" for `pixels`."""
        if self.paths is not None:
            return self.paths.tobytes()
        return b"" if self.reader is None or self.rows is None else self.reader.positions() + self.rows.tobytes()

    def select(self, indices: npt.NDArray[Any]) -> "Split":
        """A split of the images `indices`, without their cache."""
        arrays = {"labels": self.labels, "pixels": self.pixels, "paths": self.paths, "rows": self.rows}
        selected: dict[str, Any] = {name: None if array is None else array[indices] for name, array in arrays.items()}
        return replace(self, **selected, store=None)


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
    labels: npt.NDArray[Any], fraction: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Split the indices of `labels` into (rest, part), both ascending; `part` gets `fraction` of each class.

    The result depends on the arguments only. The size of `part` is rounded up, and each class's share is rounded down.
    The classes that lost most by rounding down get the remaining images. Every class has at least one image in both
    results. Multi-hot labels (N, num_classes) are split by `rarest_classes`.

    Raises ValueError if a class has fewer than two images, and UserError if `seed` is not a whole number >= 0.
    """
    check_int("data.split_seed", seed, minimum=0)
    if labels.ndim == 2:
        labels = rarest_classes(labels)
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


def rarest_classes(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """A group for each image of a multi-label set, int64 (N,): its class with the fewest images; -1 without a class.

    A split by these groups has the right fraction of each rare class, and nearly so of the others. Groups of fewer than
    three images cannot be in train, val and test, and join the largest group.
    """
    groups = np.full(len(labels), -1, np.int64)
    for label in np.argsort(-labels.sum(axis=0, dtype=np.int64), kind="stable"):  # the last one is the rarest
        groups[labels[:, label] > 0] = label
    names, rows, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if len(counts):
        groups[counts[rows] < 3] = names[counts.argmax()]
    return groups


def train_val_test_split(labels: npt.NDArray[Any], seed: int) -> dict[str, npt.NDArray[np.int64]]:
    """Indices of train, val and test, stratified. Test is a fifth of all images, val a tenth of the rest."""
    rest, test = stratified_split(labels, 1 / 5, seed)
    train, val = stratified_split(labels[rest], 1 / 10, seed)
    return {"train": rest[train], "val": rest[val], "test": test}
