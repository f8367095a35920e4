"""The user's own images: a directory with one folder per class."""

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
MAX_PROPOSED_SIZE = 224  # pixels
SAMPLED_HEADERS = 16  # files that `image_size` reads
MAX_LISTED_NAMES = 5  # class names in an error message


class ImageFolder:
    """`root/{train,val,test}/<class>/...` or `root/<class>/...`, with images at any depth below their class folder.

    Missing splits are taken from train, stratified by class. Without val/, a tenth of train becomes val. With neither
    val/ nor test/, a fifth becomes test first. With val/ but no test/, there is no test split. Hidden files and folders
    are ignored. Constructing it lists the files. Raises UserError for any other layout.
    """

    name = "folder"
    channels = 3  # grey files are converted to RGB
    mean = (0.485, 0.456, 0.406)  # ImageNet's
    std = (0.229, 0.224, 0.225)

    def __init__(self, root: str | None = None, split_seed: int = 0) -> None:
        if root is None or not str(root):
            raise UserError("data=folder: expected data.root=<directory with one folder per class>")
        self.root = _existing_dir(root)
        split_folders = self._find_split_folders()
        self.has_split_folders = split_folders["train"] != self.root
        self.classes = tuple(_class_folders(split_folders["train"]))
        self._check_classes(split_folders)
        splits = {name: self._list_images(folder) for name, folder in split_folders.items()}
        self._splits = self._add_missing_splits(splits, split_seed)

    def split(self, name: str) -> Split | None:
        """The split "train", "val" or "test", or None if there is no test split."""
        return self._splits.get(name)

    @cached_property
    def image_size(self) -> int:
        """The median of the shorter sides of 16 training images, at most 224.

        Only headers are read. A fixed 224 would enlarge a folder of 32-pixel images.
        """
        train = self._splits["train"]
        sides = []
        for index in np.linspace(0, len(train) - 1, min(SAMPLED_HEADERS, len(train))).astype(int):
            try:
                with Image.open(train.path(index)) as image:
                    sides.append(min(image.size))
            except Exception:  # bad files are reported when the images are read
                continue
        return min(MAX_PROPOSED_SIZE, int(np.median(sides))) if sides else MAX_PROPOSED_SIZE

    def _find_split_folders(self) -> dict[str, Path]:
        """The folders that contain class folders, by split. A root without split folders counts as train."""
        folders = _subfolders(self.root)
        split_folders: dict[str, Path] = {}
        for folder in folders:
            split = SPLIT_FOLDERS.get(folder.name.lower())
            if split in split_folders:
                raise UserError(
                    f"data.root={self.root}: {split_folders[split].name}/ and {folder.name}/ are both {split} folders; "
                    "remove or rename one"
                )
            if split:
                split_folders[split] = folder
        if "train" in split_folders:
            return split_folders
        if split_folders and len(split_folders) == len(folders):
            names = ", ".join(f"{folder.name}/" for folder in folders)
            raise UserError(f"data.root={self.root}: contains {names} but no train/; expected {EXPECTED_LAYOUT}")
        return {"train": self.root}

    def _check_classes(self, split_folders: dict[str, Path]) -> None:
        train = split_folders["train"]
        if len(self.classes) < 2:
            raise UserError(f"{train}: found one class folder, '{self.classes[0]}'; expected two or more")
        for split, folder in split_folders.items():
            unknown = [name for name in _class_folders(folder) if name not in self.classes]
            if unknown:
                classes_are = "class {} is" if len(unknown) == 1 else "classes {} are"
                raise UserError(
                    f"{folder}: {classes_are.format(_quoted_names(unknown))} in {split} but not in {train}; "
                    f"add training images or remove the folder from {split}"
                )

    def _list_images(self, split_folder: Path) -> Split:
        """All images of the class folders in `split_folder`, by class, then in the byte order of their paths."""
        files = {
            name: sorted(image_files(split_folder / name)) for name in self.classes if (split_folder / name).is_dir()
        }
        empty = [name for name, paths in files.items() if not paths]
        if empty:
            raise UserError(
                f"{split_folder}: no images in class folder {_quoted_names(empty)} (looked for "
                f"{', '.join(EXTENSIONS)}); add images or remove the folder"
            )
        labels = [self.classes.index(name) for name in files]
        return Split(
            np.repeat(np.array(labels, np.int64), [len(paths) for paths in files.values()]),
            paths=np.array([path for paths in files.values() for path in paths], np.bytes_),
        )

    def _add_missing_splits(self, splits: dict[str, Split], seed: int) -> dict[str, Split]:
        """`splits` with val, or val and test, taken from train if there is no val."""
        train = splits["train"]
        if "val" in splits:
            return splits
        min_images, taken = (2, "val is") if "test" in splits else (3, "val and test are")
        counts = np.bincount(train.labels, minlength=len(self.classes))
        if counts.min() < min_images:
            images = "1 training image" if counts.min() == 1 else f"{counts.min()} training images"
            raise UserError(
                f"{self.root}: class '{self.classes[int(counts.argmin())]}' has {images}, expected at least "
                f"{min_images} because {taken} taken from train; add images or a val/ folder"
            )
        if "test" in splits:
            rest, val = stratified_split(train.labels, 1 / 10, seed)
            return {"train": _subset(train, rest), "val": _subset(train, val), "test": splits["test"]}
        return {name: _subset(train, at) for name, at in train_val_test_split(train.labels, seed).items()}


def _existing_dir(root: str) -> Path:
    path = Path(str(root)).expanduser().absolute()  # data.root=2024 is a number
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"data.root={root}: is a file; expected a directory with {EXPECTED_LAYOUT}")
    nearest = next(parent for parent in path.parents if parent.exists())
    raise UserError(f"data.root={root}: no such directory (the nearest existing one is {nearest})")


def _subfolders(folder: Path) -> list[Path]:
    """The folders in `folder` that are not hidden, sorted by name."""
    try:
        subfolders = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and not _is_hidden(entry.name)]
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed: {error.strerror}") from error
    return sorted(subfolders, key=lambda subfolder: subfolder.name)


def _class_folders(split_folder: Path) -> list[str]:
    names = [folder.name for folder in _subfolders(split_folder)]
    if not names:
        contents = (
            "images but no class folders" if any(image_files(split_folder)) else "neither class folders nor images"
        )
        raise UserError(f"data.root: {split_folder} contains {contents}; expected {EXPECTED_LAYOUT}")
    return names


def image_files(folder: Path) -> Iterator[bytes]:
    """The image files in `folder` and below. Links to folders are not followed, because they may form a loop."""

    def unreadable(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in files:
            if name.lower().endswith(EXTENSIONS) and not _is_hidden(name):
                yield os.fsencode(os.path.join(parent, name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _subset(split: Split, indices: npt.NDArray[np.int64]) -> Split:
    assert split.paths is not None
    return Split(split.labels[indices], paths=split.paths[indices])


def _quoted_names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_LISTED_NAMES} more" if len(names) > MAX_LISTED_NAMES else ""
    return ", ".join(f"'{name}'" for name in names[:MAX_LISTED_NAMES]) + more
