"""The index of tar files equals that of Python's tarfile."""

import os
import tarfile

import pytest

from cnnzoo.data.datasets.tar_index import read_tar
from cnnzoo.errors import UserError

NAMES = ("a.jpg", "deep/er/b.png", "é/ü.jpg", "x" * 90 + "/" + "y" * 60 + ".jpg", "z" * 300 + ".cls", "empty.cls")


def write(path, format):
    with tarfile.open(path, "w", format=format) as tar:
        tar.add(path.parent, "folder", recursive=False)
        for number, name in enumerate(NAMES):
            if format == tarfile.USTAR_FORMAT and len(name) > 200:
                continue
            file = path.with_suffix(".content")
            file.write_bytes(b"" if name == "empty.cls" else bytes([number]) * 300 * number)
            tar.add(file, name)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_read_tar_equals_tarfile(tmp_path, format):
    write(tmp_path / "x.tar", format)
    data = (tmp_path / "x.tar").read_bytes()
    with tarfile.open(tmp_path / "x.tar") as tar:
        expected = [(m.name, m.offset_data, tar.extractfile(m).read()) for m in tar if m.isfile()]
    found = [(os.fsdecode(name), offset, bytes(content)) for name, offset, content in read_tar(tmp_path / "x.tar")]
    assert len(found) >= 5
    assert found == expected
    assert all(data[offset : offset + len(content)] == content for _, offset, content in found)


def test_read_tar_of_a_sparse_size_field(tmp_path):
    """A size in binary, which is how sizes of 8 GB and more are stored."""
    write(tmp_path / "x.tar", tarfile.USTAR_FORMAT)
    data = bytearray((tmp_path / "x.tar").read_bytes())
    start = 2 * 512 + 512  # after the folder, a.jpg (empty) and within the header of b.png
    assert data[start - 512 : start - 512 + 13] == b"deep/er/b.png"
    data[start - 512 + 124 : start - 512 + 136] = b"\x80" + (300).to_bytes(11, "big")
    (tmp_path / "x.tar").write_bytes(data)
    assert len(list(read_tar(tmp_path / "x.tar"))) == 5


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (0, "is not an uncompressed tar file"),
        (700, "is cut off after"),
        (1600, "is cut off within deep/er/b.png;"),
    ],
)
def test_read_tar_of_a_truncated_file_is_an_error(tmp_path, end, message):
    write(tmp_path / "x.tar", tarfile.USTAR_FORMAT)
    os.truncate(tmp_path / "x.tar", end)
    with pytest.raises(UserError, match=message):
        list(read_tar(tmp_path / "x.tar"))
    with pytest.raises(UserError, match=r"y\.tar: cannot be read: No such file"):
        list(read_tar(tmp_path / "y.tar"))
