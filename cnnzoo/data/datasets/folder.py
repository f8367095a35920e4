"""The user's own images: a directory with one folder per class."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cnnzoo.data.datasets.file_source import EXTENSIONS, SPLIT_NAMES, ImageFiles, add_missing_splits, quoted_names
from cnnzoo.data.split import Split
from cnnzoo.errors import UserError

EXPECTED_LAYOUT = "one folder per class, or train/ (and val/, test/) with one folder per class in each"


class ImageFolder(ImageFiles):
    """`root/{train,val,test}/<class>/...` or `root/<class>/...`, with images at any depth below their class folder.

    Missing splits are taken from train, stratified by class. Without val/, a tenth of train becomes val. With neither
    val/ nor test/, a fifth becomes test first. With val/ but no test/, there is no test split. Hidden files and folders
    are ignored. Constructing it lists the files. Raises UserError for any other layout.
    """

    name = "folder"

    def __init__(self, root: str | None = None, split_seed: int = 0) -> None:
        if root is None or not str(root):
            raise UserError("data=folder: expected data.root=<directory with one folder per class>")
        self.root = _existing_dir(root)
        split_folders = self._find_split_folders()
        self.has_splits = split_folders["train"] != self.root
        self.classes = tuple(_class_folders(split_folders["train"]))
        self._check_classes(split_folders)
        splits = {name: self._list_images(folder) for name, folder in split_folders.items()}
        self._splits = add_missing_splits(
            splits, split_seed, self.classes, where=self.root, remedy="images or a val/ folder"
        )

    def _find_split_folders(self) -> dict[str, Path]:
        """The folders that contain class folders, by split. A root without split folders counts as train."""
        folders = _subfolders(self.root)
        split_folders: dict[str, Path] = {}
        for folder in folders:
            split = SPLIT_NAMES.get(folder.name.lower())
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
                    f"{folder}: {classes_are.format(quoted_names(unknown))} in {split} but not in {train}; "
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
                f"{split_folder}: no images in class folder {quoted_names(empty)} (looked for "
                f"{', '.join(EXTENSIONS)}); add images or remove the folder"
            )
        labels = [self.classes.index(name) for name in files]
        return Split(
            np.repeat(np.array(labels, np.int64), [len(paths) for paths in files.values()]),
            paths=np.array([path for paths in files.values() for path in paths], np.bytes_),
        )


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
