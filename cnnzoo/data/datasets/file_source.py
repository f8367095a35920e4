"""What sources of image files share: the proposed size, splits of listed images, and splits that are missing."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from cnnzoo.data.datasets.labels import Place
from cnnzoo.data.split import SPLITS, Split, stratified_split, train_val_test_split
from cnnzoo.data.transforms.decode import header_size
from cnnzoo.errors import UserError, nearest
from cnnzoo.runtime.formatting import plural

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".npy")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""The split for each name, in lower case, that a folder, a file or a row may have for it."""
MAX_PROPOSED_SIZE = 224  # pixels
SAMPLED_HEADERS = 16  # files that `image_size` reads
MAX_LISTED_NAMES = 5  # names in an error message
MAX_NAME_LENGTH = 40  # characters of a name in an error message


class ImageFiles:
    """Base of the sources whose images are files, or parts of files. Subclasses set `name`, `classes` and `_splits`."""

    name: str
    classes: tuple[str, ...]
    channels = 3  # grey files are converted to RGB
    mean = (0.485, 0.456, 0.406)  # ImageNet's
    std = (0.229, 0.224, 0.225)
    has_splits: bool  # whether the set itself says which images are train
    missing_files: str | None = None  # an error message about listed files that do not exist
    _splits: dict[str, Split]

    def split(self, name: str) -> Split | None:
        """The split "train", "val" or "test", or None if there is no such split."""
        return self._splits.get(name)

    @cached_property
    def image_size(self) -> int:
        """The median of the shorter sides of 16 training images, at most 224.

        Only headers are decoded. A fixed 224 would enlarge images of 32 pixels.
        """
        train = self._splits["train"]
        sides = []
        for index in np.linspace(0, len(train) - 1, min(SAMPLED_HEADERS, len(train))).astype(int):
            try:
                sides.append(min(header_size(train.read(index))))
            except Exception:  # bad files are reported when the images are read
                continue
        return min(MAX_PROPOSED_SIZE, int(np.median(sides))) if sides else MAX_PROPOSED_SIZE


class ListedImages(ImageFiles):
    """Base of the sources that list images with their labels in any order, instead of in one folder per class.

    Subclasses call `_set_splits`.
    """

    def _set_splits(
        self,
        images: Split,
        classes: Sequence[str],
        split_of_image: npt.NDArray[np.int8],
        *,
        where: str,
        place: Place,
        split_seed: int,
        fixed_classes: bool = False,
    ) -> None:
        """Set `classes` and the splits, with those that are missing taken from train.

        images: all images, with labels that are numbers of `classes` or multi-hot.
        split_of_image: (N,), for each image the number of its split in `SPLITS`.
        where, place: the file that lists the images, and where it lists each of them, for messages.
        fixed_classes: train may lack images of some classes.

        Raises UserError if there are no training images, fewer than two classes, or classes without training images.
        """
        self.has_splits = bool(split_of_image.any())
        parts = {name: np.flatnonzero(split_of_image == number) for number, name in enumerate(SPLITS)}
        if not len(parts["train"]):
            found = [name for name, rows in parts.items() if len(rows)]
            raise UserError(
                f"{where}: no training images (found {' and '.join(found)}); expected images of "
                "train, and optionally of val and test"
            )
        labels = images.labels
        if labels.ndim == 1 and not fixed_classes:
            if len(classes) < 2:
                raise UserError(f"{where}: all images are of class '{classes[0]}'; expected two classes or more")
            in_train = np.isin(labels, labels[parts["train"]])
            if not in_train.all():
                row = int(np.flatnonzero(~in_train)[0])
                raise UserError(
                    f"{place(row)}: class {quoted_names([classes[labels[row]]])} is in {SPLITS[split_of_image[row]]} "
                    "but not in train; add training images, or leave these images out"
                )
        self.classes = tuple(classes)
        splits = {name: images.select(rows) for name, rows in parts.items() if len(rows)}
        self._splits = add_missing_splits(splits, split_seed, classes, where=where, remedy="images, or a val split")


def add_missing_splits(
    splits: Mapping[str, Split], seed: int, classes: Sequence[str], *, where: Any, remedy: str
) -> dict[str, Split]:
    """`splits` with val, or val and test, taken from train if there is no val.

    Raises UserError if train has too few images of a class for that. `where` begins the error, `remedy` says what to
    add.
    """
    train = splits["train"]
    if "val" in splits:
        return dict(splits)
    min_images, taken = (2, "val is") if "test" in splits else (3, "val and test are")
    if len(train) < min_images:
        raise UserError(
            f"{where}: {plural(len(train), 'training image')}, expected at least {min_images} because {taken} taken "
            f"from train; add {remedy}"
        )
    if train.labels.ndim == 1:
        present, counts = np.unique(train.labels, return_counts=True)
        if counts.min() < min_images:
            images = "1 training image" if counts.min() == 1 else f"{counts.min()} training images"
            raise UserError(
                f"{where}: class {quoted_names([classes[present[counts.argmin()]]])} has {images}, expected at least "
                f"{min_images} because {taken} taken from train; add {remedy}"
            )
    if "test" in splits:
        rest, val = stratified_split(train.labels, 1 / 10, seed)
        return {"train": train.select(rest), "val": train.select(val), "test": splits["test"]}
    return {name: train.select(rows) for name, rows in train_val_test_split(train.labels, seed).items()}


def check_column(key: str, column: str, columns: Sequence[str], where: str, *, likely: str | None = None) -> str:
    """Return `column` if it is one of `columns`; the UserError names the nearest ones.

    key: the setting that names the column.
    where: the file.
    likely: the column to suggest if no name is similar.
    """
    if column in columns:
        return column
    similar = nearest(column, columns, limit=1) or ([likely] if likely is not None else [])
    way_out = f"type {key}={similar[0]}" if similar else f"type one of them as {key}"
    raise UserError(f"{key}={column}: {where} has no such column, only {quoted_names(columns)}; {way_out}")


def quoted_names(names: Sequence[str]) -> str:
    """The names in quotes, the first ones if there are many."""
    more = f" and {len(names) - MAX_LISTED_NAMES} more" if len(names) > MAX_LISTED_NAMES else ""
    return ", ".join(f"'{name[:MAX_NAME_LENGTH]}'" for name in names[:MAX_LISTED_NAMES]) + more
