"""`find_images` lists the files that `images=` names."""

import io
import os
from types import SimpleNamespace

import pytest

from cnnzoo.errors import UserError
from cnnzoo.predict.images import find_images
from tests.predict.test_predictor import BAD, GOOD


@pytest.fixture
def stdin(monkeypatch):
    """A function that sets the bytes on standard input."""
    return lambda content: monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def test_directory_lists_images_below_it(photos):
    names = [os.path.relpath(path, photos) for path in find_images(str(photos))]
    assert names == sorted([*GOOD, *(set(BAD) - {"missing.jpg", "folder.jpg"}), "link.png"], key=os.fsencode)


def test_pattern_lists_files_that_match(photos):
    assert find_images(f"{photos}/*.jpg") == [
        str(photos / f"{name}.jpg") for name in ("broken", "cmyk", "color", "large")
    ]
    assert find_images(f"{photos}/**/p*") == [str(photos / "more é" / name) for name in ("palette.gif", "pixel.bmp")]


def test_file_may_have_any_name(photos, tmp_path):
    assert find_images(str(photos / "notes.txt")) == [str(photos / "notes.txt")]
    (tmp_path / "a [1].jpg").touch()  # it also looks like a pattern
    assert find_images(str(tmp_path / "a [1].jpg")) == [str(tmp_path / "a [1].jpg")]


def test_stdin_gives_paths_in_their_order(stdin):
    stdin("b é.jpg\n\na.jpg\r\nnowhere\n".encode())
    assert find_images("-") == ["b é.jpg", "a.jpg", "nowhere"]
    stdin(b"\xff.jpg")
    assert os.fsencode(find_images("-")[0]) == b"\xff.jpg"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("nowhere.jpg", "images=.*nowhere.jpg: no such file or directory; type a file, a directory, a pattern"),
        ("*.xyz", r"images=.*\*.xyz: no file matches this pattern"),
        ("empty", "images=.*empty: no images in this directory .looked for .jpg"),
    ],
)
def test_no_image_is_an_error(images, message, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(UserError, match=message):
        find_images(str(tmp_path / images))


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_empty_stdin_is_an_error(content, stdin, monkeypatch):
    stdin(content)
    with pytest.raises(UserError, match="images=-: no paths on standard input"):
        find_images("-")
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UserError, match="images=-: no paths on standard input"):
        find_images("-")
