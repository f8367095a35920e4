"""Folders of images: what is found in them, and what is said of those that will not do."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnzoo.data.datasets.folder import ImageFolder
from cnnzoo.errors import UserError
from tests.helpers.images import save


def sizes(folder):
    return {name: None if (split := folder.split(name)) is None else len(split) for name in ("train", "val", "test")}


def every_path(folder):
    splits = [folder.split(name) for name in ("train", "val", "test")]
    return [split.path(n) for split in splits if split is not None for n in range(len(split))]


def test_a_flat_tree(tree):
    root = tree({"cat": 25, "dog": 25})
    folder = ImageFolder(str(root))
    assert folder.classes == ("cat", "dog")
    assert sizes(folder) == {"train": 36, "val": 4, "test": 10}
    assert sorted(every_path(folder)) == sorted(str(path) for path in root.rglob("*.png"))
    for name in ("train", "val", "test"):
        split = folder.split(name)
        assert [Path(split.path(n)).parent.name for n in range(len(split))] == [folder.classes[y] for y in split.labels]
    assert (folder.split("val").labels == 0).sum() == 2


def test_train_val_and_test(tree):
    counts = {"train/a": 3, "train/b": 2, "val/a": 1, "val/b": 1, "test/b": 2}
    folder = ImageFolder(str(tree(counts)))
    assert sizes(folder) == {"train": 5, "val": 2, "test": 2}
    assert folder.split("test").labels.tolist() == [1, 1]


def test_train_and_test(tree):
    folder = ImageFolder(str(tree({"train/a": 20, "train/b": 20, "test/a": 3, "test/b": 3})))
    assert sizes(folder) == {"train": 36, "val": 4, "test": 6}
    assert all("/test/" in folder.split("test").path(n) for n in range(6))
    assert all("/train/" in folder.split(name).path(n) for name in ("train", "val") for n in range(4))


def test_train_and_val_is_not_tested(tree):
    assert sizes(ImageFolder(str(tree({"train/a": 3, "train/b": 3, "val/a": 1})))) == {
        "train": 6,
        "val": 1,
        "test": None,
    }


def test_train_alone_is_split_three_ways(tree):
    assert sizes(ImageFolder(str(tree({"train/a": 25, "train/b": 25})))) == {"train": 36, "val": 4, "test": 10}


@pytest.mark.parametrize("names", [("Training", "Validation", "Testing"), ("train", "valid", "test")])
def test_other_names_of_the_splits(tree, names):
    folder = ImageFolder(str(tree({f"{split}/{label}": n for n, split in enumerate(names, 1) for label in "ab"})))
    assert sizes(folder) == {"train": 2, "val": 4, "test": 6}


def test_nested_files_and_every_ending(tmp_path):
    for ending in ("jpg", "JPEG", "png", "bmp", "webp", "gif", "tif", "TIFF", "ppm"):
        save(tmp_path / "train" / "a" / "deep" / "er" / f"x.{ending}")
    save(tmp_path / "train" / "b" / "x.png")
    save(tmp_path / "val" / "b" / "x.png")
    assert np.bincount(ImageFolder(str(tmp_path)).split("train").labels).tolist() == [9, 1]


def test_hidden_and_other_files_are_passed_over(tree):
    root = tree(
        {"train/a": 3, "train/b": 3, "val/a": 1, "train/.ipynb_checkpoints": 2, "train/__MACOSX": 2, "train/a/.git": 1}
    )
    (root / "train" / "a" / "._000.png").write_bytes(b"")
    (root / "train" / "a" / "notes.txt").write_text("")
    (root / "train" / "labels.csv").write_text("")
    folder = ImageFolder(str(root))
    assert folder.classes == ("a", "b")
    assert sizes(folder)["train"] == 6


def test_the_order_is_not_the_file_systems(tree, monkeypatch):
    root = tree({"b": 6, "a": 6})
    expected = every_path(ImageFolder(str(root)))
    scandir = os.scandir

    class Backwards:
        """What os.scandir gives, last entry first."""

        def __init__(self, place):
            self.entries = iter(list(scandir(place))[::-1])

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

    assert [entry.name for entry in Backwards(root / "a")] != [entry.name for entry in scandir(root / "a")]
    monkeypatch.setattr(os, "scandir", Backwards)
    assert every_path(ImageFolder(str(root))) == expected


def test_names_with_odd_characters(tmp_path, monkeypatch):
    root = tmp_path / "my data, 1=é (x)"
    for label in ("çat", "d=og, big"):
        for number in range(4):
            save(root / label / f"an image, n°{number}.png")
    folder = ImageFolder(str(root))
    assert folder.classes == ("d=og, big", "çat")
    assert all(Path(path).is_file() for path in every_path(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert every_path(ImageFolder("~/my data, 1=é (x)")) == every_path(folder)


def test_names_that_are_not_utf8(tmp_path):
    for label in ("a", "b"):
        for number in range(3):
            path = save(tmp_path / label / f"{number}.png")
            try:
                os.rename(os.fsencode(path), os.fsencode(path.parent) + b"/\xff%d.png" % number)
            except OSError:
                pytest.skip("this file system takes UTF-8 only")
    assert all(os.path.isfile(path) for path in every_path(ImageFolder(str(tmp_path))))


def test_what_it_proposes(tree, tmp_path):
    assert ImageFolder(str(tree({"a": 3, "b": 3}, height=40, width=31))).image_size == 31
    for label in ("a", "b"):
        for number in range(3):
            Image.new("RGB", (900, 700)).save(tmp_path / label / f"{number:03d}.png")
    folder = ImageFolder(str(tmp_path))
    assert folder.image_size == 224
    assert folder.channels == 3


def test_a_bad_header_does_not_matter_to_the_proposal(tree):
    root = tree({"a": 6, "b": 6})
    (root / "a" / "000.png").write_bytes(b"nothing")
    assert ImageFolder(str(root)).image_size == 20


def test_a_split_has_no_objects_to_count_references_of(tree):
    split = ImageFolder(str(tree({"a": 3, "b": 3}))).split("train")
    assert split.paths.dtype.kind == "S"
    assert split.paths.flags.c_contiguous
    assert pickle.loads(pickle.dumps(split)).path(1) == split.path(1)


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ({}, "has nothing in it; wanted is one folder per class"),
        ({".": 2}, "has images but no class folders"),
        ({"train": 2, "val/a": 1}, "train has images but no class folders"),
        ({"a": 3, "b": 3, "c": 0, "d": 0}, "no image in class folder 'c', 'd' .*add images or remove"),
        ({"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 0}, "val: no image in class folder 'b'"),
        ({"a": 9}, "there is one class folder, 'a'; two classes or more"),
        ({"a": 9, "b": 2}, "class 'b' has 2 training images, of which val and test are taken; at least 3 are needed"),
        (
            {"train/a": 9, "train/b": 1, "test/a": 2},
            "class 'b' has 1 training image, of which val is taken; at least 2",
        ),
        ({"train/a": 3, "train/b": 3, "test/c": 1, "val/a": 1}, "test: 'c' is in test but not in .*train; add"),
        ({"val/a": 3, "test/a": 3}, "there is test/, val/ but no train/"),
        ({"train/a": 3, "train/b": 3, "val/a": 1, "valid/a": 1}, "val/ and valid/ both mean val"),
    ],
)
def test_folders_that_will_not_do(tree, folders, words):
    with pytest.raises(UserError, match=words) as caught:
        ImageFolder(str(tree(folders)))
    assert "\n" not in str(caught.value)


def test_a_root_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"data=folder needs data.root=<directory with one folder per class>"):
        ImageFolder()
    with pytest.raises(
        UserError, match=f"data.root={tmp_path}/x/y: no such directory .the nearest that exists is {tmp_path}.$"
    ):
        ImageFolder(f"{tmp_path}/x/y")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: a file; wanted is a directory"):
        ImageFolder(f"{tmp_path}/file")
