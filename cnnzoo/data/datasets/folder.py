"""A folder of images, one folder per class: the data set that people bring themselves."""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from cnnzoo.data.split import Split, stratified_split, train_val_test_split
from cnnzoo.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
EXPECTED_LAYOUT = "one folder per class, or train/ (and val/, test/) with one folder per class in each"
MAX_PROPOSED_SIZE, SAMPLED_HEADERS = 224, 16


class ImageFolder:
    """`root/{train,val,test}/<class>/...` or `root/<class>/...`; images may lie deeper below their class.

    Without val/, a tenth of train is val. Without test/, nothing is tested where there is val/; where train/ stands
    alone, or there are class folders only, a fifth is test. Hidden files and folders are passed over. Building one
    lists the files. Raises UserError for everything that does not look like such a folder.
    """

    name = "folder"
    channels = 3  # grey files become grey RGB
    mean = (0.485, 0.456, 0.406)  # ImageNet's
    std = (0.229, 0.224, 0.225)

    def __init__(self, root: str | None = None, split_seed: int = 0) -> None:
        if root is None or not str(root):
            raise UserError("data=folder needs data.root=<directory with one folder per class>")
        self.root = _existing_dir(root)
        given = self._given_splits()
        self.classes = tuple(_class_folders(given["train"]))
        self._check_classes(given)
        listed = {name: self._listed(folder) for name, folder in given.items()}
        self._splits = self._completed(listed, split_seed)

    def split(self, name: str) -> Split | None:
        """The split "train", "val" or "test"; None where there is no test split."""
        return self._splits.get(name)

    @cached_property
    def image_size(self) -> int:
        """The middle one of a few files' shorter sides, at most 224: read from 16 headers spread over train.

        A folder of 32-pixel images would otherwise be trained at 224.
        """
        train = self._splits["train"]
        sides = []
        for at in np.linspace(0, len(train) - 1, min(SAMPLED_HEADERS, len(train))).astype(int):
            try:
                with Image.open(train.path(at)) as image:
                    sides.append(min(image.size))
            except Exception:  # a bad file is named when it is read, and only if it is
                continue
        return min(MAX_PROPOSED_SIZE, int(np.median(sides))) if sides else MAX_PROPOSED_SIZE

    def _given_splits(self) -> dict[str, Path]:
        """The folders that hold class folders, by split; a flat tree is one called train."""
        folders = _subfolders(self.root)
        given: dict[str, Path] = {}
        for folder in folders:
            split = SPLIT_FOLDERS.get(folder.name.lower())
            if split in given:
                raise UserError(f"data.root={self.root}: {given[split].name}/ and {folder.name}/ both mean {split}")
            if split:
                given[split] = folder
        if "train" in given:
            return given
        if given and len(given) == len(folders):
            found = ", ".join(f"{folder.name}/" for folder in folders)
            raise UserError(f"data.root={self.root}: there is {found} but no train/; wanted is {EXPECTED_LAYOUT}")
        return {"train": self.root}

    def _check_classes(self, given: dict[str, Path]) -> None:
        if len(self.classes) < 2:
            raise UserError(
                f"{given['train']}: there is one class folder, '{self.classes[0]}'; two classes or more are needed"
            )
        for split, folder in given.items():
            strangers = [name for name in _class_folders(folder) if name not in self.classes]
            if strangers:
                raise UserError(
                    f"{folder}: {_quoted_names(strangers)} {'is' if len(strangers) == 1 else 'are'} in {split} but not in "
                    f"{given['train']}; add training images of it or take it out of {split}"
                )

    def _listed(self, folder: Path) -> Split:
        """All images of the class folders below `folder`, class by class, each in the order of its paths' bytes."""
        files = {name: sorted(_image_files(folder / name)) for name in self.classes if (folder / name).is_dir()}
        empty = [name for name, found in files.items() if not found]
        if empty:
            raise UserError(
                f"{folder}: no image in class folder {_quoted_names(empty)} (looked for {', '.join(EXTENSIONS)}); "
                "add images or remove the folder"
            )
        labels = [self.classes.index(name) for name in files]
        return Split(
            np.repeat(np.array(labels, np.int64), [len(found) for found in files.values()]),
            paths=np.array([path for found in files.values() for path in found], np.bytes_),
        )

    def _completed(self, listed: dict[str, Split], seed: int) -> dict[str, Split]:
        """`listed` with the splits that are taken out of train."""
        train = listed["train"]
        if "val" in listed:
            return listed
        needed = 2 if "test" in listed else 3
        counts = np.bincount(train.labels, minlength=len(self.classes))
        if counts.min() < needed:
            few, taken = self.classes[int(counts.argmin())], "val is" if needed == 2 else "val and test are"
            images = "1 training image" if counts.min() == 1 else f"{counts.min()} training images"
            raise UserError(
                f"{self.root}: class '{few}' has {images}, of which {taken} taken; at least {needed} are needed; "
                "add images or a val/ folder"
            )
        if "test" in listed:
            rest, val = stratified_split(train.labels, 1 / 10, seed)
            return {"train": _subset(train, rest), "val": _subset(train, val), "test": listed["test"]}
        return {name: _subset(train, at) for name, at in train_val_test_split(train.labels, seed).items()}


def _existing_dir(root: str) -> Path:
    path = Path(root).expanduser().absolute()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"data.root={root}: a file; wanted is a directory with {EXPECTED_LAYOUT}")
    near = next(parent for parent in path.parents if parent.exists())
    raise UserError(f"data.root={root}: no such directory (the nearest that exists is {near})")


def _subfolders(place: Path) -> list[Path]:
    """The folders in `place` that are not hidden, by name."""
    try:
        found = [Path(entry.path) for entry in os.scandir(place) if entry.is_dir() and not _is_hidden(entry.name)]
    except OSError as error:
        raise UserError(f"{place}: cannot be listed: {error.strerror}") from error
    return sorted(found, key=lambda folder: folder.name)


def _class_folders(place: Path) -> list[str]:
    names = [folder.name for folder in _subfolders(place)]
    if not names:
        loose = any(_image_files(place))
        found = "images but no class folders" if loose else "nothing in it"
        raise UserError(f"data.root: {place} has {found}; wanted is {EXPECTED_LAYOUT}")
    return names


def _image_files(folder: Path) -> Iterator[bytes]:
    """The image files in `folder` and below, links to other folders not followed (they may form a circle)."""

    def unreadable(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    for place, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in files:
            if name.lower().endswith(EXTENSIONS) and not _is_hidden(name):
                yield os.fsencode(os.path.join(place, name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _subset(split: Split, at: npt.NDArray[np.int64]) -> Split:
    assert split.paths is not None
    return Split(split.labels[at], paths=split.paths[at])


def _quoted_names(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + more
