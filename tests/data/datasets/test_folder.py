"""Folders of images: splits, classes and files, and the errors for unusable folders."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnzoo.data.datasets.folder import ImageFolder
from cnnzoo.errors import UserError
from tests.helpers.images import save_image


def split_sizes(folder):
    return {name: None if (split := folder.split(name)) is None else len(split) for name in ("train", "val", "test")}


def all_paths(folder):
    splits = [folder.split(name) for name in ("train", "val", "test")]
    return [split.path(n) for split in splits if split is not None for n in range(len(split))]


def test_class_folders_without_split_folders(tree):
    root = tree({"cat": 25, "dog": 25})
    folder = ImageFolder(str(root))
    assert folder.classes == ("cat", "dog")
    assert split_sizes(folder) == {"train": 36, "val": 4, "test": 10}
    assert sorted(all_paths(folder)) == sorted(str(path) for path in root.rglob("*.png"))
    for name in ("train", "val", "test"):
        split = folder.split(name)
        assert [Path(split.path(n)).parent.name for n in range(len(split))] == [folder.classes[y] for y in split.labels]
    assert (folder.split("val").labels == 0).sum() == 2


def test_train_val_and_test_folders(tree):
    counts = {"train/a": 3, "train/b": 2, "val/a": 1, "val/b": 1, "test/b": 2}
    folder = ImageFolder(str(tree(counts)))
    assert split_sizes(folder) == {"train": 5, "val": 2, "test": 2}
    assert folder.split("test").labels.tolist() == [1, 1]


def test_train_and_test_folders(tree):
    folder = ImageFolder(str(tree({"train/a": 20, "train/b": 20, "test/a": 3, "test/b": 3})))
    assert split_sizes(folder) == {"train": 36, "val": 4, "test": 6}
    assert all("/test/" in folder.split("test").path(n) for n in range(6))
    assert all("/train/" in folder.split(name).path(n) for name in ("train", "val") for n in range(4))


def test_train_and_val_folders_have_no_test_split(tree):
    assert split_sizes(ImageFolder(str(tree({"train/a": 3, "train/b": 3, "val/a": 1})))) == {
        "train": 6,
        "val": 1,
        "test": None,
    }


def test_train_folder_alone_is_split_in_three(tree):
    assert split_sizes(ImageFolder(str(tree({"train/a": 25, "train/b": 25})))) == {"train": 36, "val": 4, "test": 10}


@pytest.mark.parametrize("names", [("Training", "Validation", "Testing"), ("train", "valid", "test")])
def test_alternative_split_folder_names(tree, names):
    folder = ImageFolder(str(tree({f"{split}/{label}": n for n, split in enumerate(names, 1) for label in "ab"})))
    assert split_sizes(folder) == {"train": 2, "val": 4, "test": 6}


def test_nested_files_and_all_extensions(tmp_path):
    for extension in ("jpg", "JPEG", "png", "bmp", "webp", "gif", "tif", "TIFF", "ppm"):
        save_image(tmp_path / "train" / "a" / "deep" / "er" / f"x.{extension}")
    save_image(tmp_path / "train" / "b" / "x.png")
    save_image(tmp_path / "val" / "b" / "x.png")
    assert np.bincount(ImageFolder(str(tmp_path)).split("train").labels).tolist() == [9, 1]


def test_hidden_and_other_files_are_ignored(tree):
    root = tree(
        {"train/a": 3, "train/b": 3, "val/a": 1, "train/.ipynb_checkpoints": 2, "train/__MACOSX": 2, "train/a/.git": 1}
    )
    (root / "train" / "a" / "._000.png").write_bytes(b"")
    (root / "train" / "a" / "notes.txt").write_text("")
    (root / "train" / "labels.csv").write_text("")
    folder = ImageFolder(str(root))
    assert folder.classes == ("a", "b")
    assert split_sizes(folder)["train"] == 6


def test_order_does_not_depend_on_the_file_system(tree, monkeypatch):
    root = tree({"b": 6, "a": 6})
    expected = all_paths(ImageFolder(str(root)))
    scandir = os.scandir

    class ReversedScandir:
        """os.scandir with the entries in reverse order."""

        def __init__(self, folder):
            self.entries = iter(list(scandir(folder))[::-1])

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.entries)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def close(self):
            return None

    assert [entry.name for entry in ReversedScandir(root / "a")] != [entry.name for entry in scandir(root / "a")]
    monkeypatch.setattr(os, "scandir", ReversedScandir)
    assert all_paths(ImageFolder(str(root))) == expected


def test_names_with_special_characters(tmp_path, monkeypatch):
    root = tmp_path / "my data, 1=é (x)"
    for label in ("çat", "d=og, big"):
        for number in range(4):
            save_image(root / label / f"an image, n°{number}.png")
    folder = ImageFolder(str(root))
    assert folder.classes == ("d=og, big", "çat")
    assert all(Path(path).is_file() for path in all_paths(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert all_paths(ImageFolder("~/my data, 1=é (x)")) == all_paths(folder)


def test_names_that_are_not_utf8(tmp_path):
    for label in ("a", "b"):
        for number in range(3):
            path = save_image(tmp_path / label / f"{number}.png")
            try:
                os.rename(os.fsencode(path), os.fsencode(path.parent) + b"/\xff%d.png" % number)
            except OSError:
                pytest.skip("this file system accepts only UTF-8")
    assert all(os.path.isfile(path) for path in all_paths(ImageFolder(str(tmp_path))))


def test_image_size_and_channels(tree, tmp_path):
    assert ImageFolder(str(tree({"a": 3, "b": 3}, height=40, width=31))).image_size == 31
    for label in ("a", "b"):
        for number in range(3):
            Image.new("RGB", (900, 700)).save(tmp_path / label / f"{number:03d}.png")
    folder = ImageFolder(str(tmp_path))
    assert folder.image_size == 224
    assert folder.channels == 3


def test_image_size_ignores_bad_headers(tree):
    root = tree({"a": 6, "b": 6})
    (root / "a" / "000.png").write_bytes(b"nothing")
    assert ImageFolder(str(root)).image_size == 20


def test_paths_are_one_array_of_bytes(tree):
    split = ImageFolder(str(tree({"a": 3, "b": 3}))).split("train")
    assert split.paths.dtype.kind == "S"
    assert split.paths.flags.c_contiguous
    assert pickle.loads(pickle.dumps(split)).path(1) == split.path(1)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({}, "contains neither class folders nor images; expected one folder per class"),
        ({".": 2}, "contains images but no class folders"),
        ({"train": 2, "val/a": 1}, "train contains images but no class folders"),
        ({"a": 3, "b": 3, "c": 0, "d": 0}, "no images in class folder 'c', 'd' .*add images or remove"),
        ({"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 0}, "val: no images in class folder 'b'"),
        ({"a": 9}, "found one class folder, 'a'; expected two or more"),
        (
            {"a": 9, "b": 2},
            "class 'b' has 2 training images, expected at least 3 because val and test are taken from train",
        ),
        (
            {"train/a": 9, "train/b": 1, "test/a": 2},
            "class 'b' has 1 training image, expected at least 2 because val is taken from train",
        ),
        ({"train/a": 3, "train/b": 3, "test/c": 1, "val/a": 1}, "test: class 'c' is in test but not in .*train; add"),
        ({"val/a": 3, "test/a": 3}, "contains test/, val/ but no train/"),
        ({"train/a": 3, "train/b": 3, "val/a": 1, "valid/a": 1}, "val/ and valid/ are both val folders"),
    ],
)
def test_unusable_folder_is_an_error(tree, folders, message):
    with pytest.raises(UserError, match=message) as caught:
        ImageFolder(str(tree(folders)))
    assert "\n" not in str(caught.value)


def test_missing_root_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"data=folder: expected data.root=<directory with one folder per class>"):
        ImageFolder()
    with pytest.raises(
        UserError, match=f"data.root={tmp_path}/x/y: no such directory .the nearest existing one is {tmp_path}.$"
    ):
        ImageFolder(f"{tmp_path}/x/y")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: is a file; expected a directory"):
        ImageFolder(f"{tmp_path}/file")


def test_root_that_is_a_number_is_a_name(tree, monkeypatch):
    """Hydra reads data.root=2024 as a number."""
    root = tree({"a": 3, "b": 3})
    root.rename(root.with_name("2024"))
    monkeypatch.chdir(root.parent)
    assert ImageFolder(2024).classes == ("a", "b")
