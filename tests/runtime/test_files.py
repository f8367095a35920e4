"""Atomic writes: a reader sees the old file or the new one, whatever happens to the writer."""

import errno
import json
import os

import pytest

from cnnzoo.errors import UserError
from cnnzoo.runtime import files
from cnnzoo.runtime.files import atomic_write, check_current_directory, check_utf8, write_json


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_atomic_write_replaces_the_file_at_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_atomic_write_open_options_reach_open(tmp_path):
    with atomic_write(tmp_path / "utf8") as file:
        file.write("é\n")
    with atomic_write(tmp_path / "latin1", newline="\r\n", encoding="latin-1") as file:
        file.write("é\n")
    with atomic_write(tmp_path / "binary", "wb") as file:
        file.write(b"\xff")
    assert (tmp_path / "utf8").read_bytes() == "é".encode() + os.linesep.encode()
    assert (tmp_path / "latin1").read_bytes() == b"\xe9\r\n"
    assert (tmp_path / "binary").read_bytes() == b"\xff"


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_atomic_write_error_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with atomic_write(path) as file:
            file.write("new")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_atomic_write_full_disk_names_the_file(tmp_path, monkeypatch, function):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, function, fail)
    with pytest.raises(OSError, match="No space left") as caught, atomic_write(tmp_path / "a.txt", fsync=True) as file:
        file.write("new")
    assert caught.value.filename == str(tmp_path / "a.txt")
    assert names(tmp_path) == []


def test_atomic_write_missing_directory_names_the_file(tmp_path):
    path = tmp_path / "missing" / "a.txt"
    with pytest.raises(FileNotFoundError) as caught, atomic_write(path):
        pass
    assert caught.value.filename == str(path)


def test_atomic_write_fsync_comes_before_the_rename(tmp_path, monkeypatch):
    path, sizes = tmp_path / "a.txt", []

    def fsync(descriptor):
        assert not path.exists()
        sizes.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(files.os, "fsync", fsync)
    with atomic_write(path, fsync=True) as file:
        file.write("12345")
    assert sizes == [5]  # the buffer was flushed
    with atomic_write(path) as file:
        file.write("1")
    assert sizes == [5]


def test_atomic_write_temporary_name_is_unique(tmp_path, monkeypatch):
    """Two hosts and two processes write the same file at once; no pattern for checkpoints matches a temporary name."""
    path, seen = tmp_path / "last.ckpt", set()
    for host, pid in (("a", 1), ("a", 2), ("b", 1)):
        monkeypatch.setattr(files.socket, "gethostname", lambda host=host: host)
        monkeypatch.setattr(files.os, "getpid", lambda pid=pid: pid)
        with atomic_write(path) as file:
            path.unlink(missing_ok=True)
            (temporary,) = names(tmp_path)
            seen.add(temporary)
            assert not list(tmp_path.glob("*.ckpt"))
            file.write(host)
    assert len(seen) == 3
    assert all(name.endswith(".tmp") for name in seen)
    assert path.read_text() == "b"


def test_write_json_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"val/acc1": 0.5})
    assert path.read_text() == '{\n  "val/acc1": 0.5\n}\n'
    with pytest.raises(TypeError):
        write_json(path, {"val/acc1": object()})
    assert json.loads(path.read_text()) == {"val/acc1": 0.5}
    assert names(tmp_path) == ["metrics.json"]


def test_removed_current_directory_is_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_current_directory()
    removed = tmp_path / "removed"
    removed.mkdir()
    monkeypatch.chdir(removed)
    removed.rmdir()
    with pytest.raises(UserError, match=r"^the current directory no longer exists"):
        check_current_directory()


def test_text_that_utf8_lacks_is_reported():
    check_utf8("run_dir=é")
    undecoded = "run_dir=é".encode().decode("ascii", "surrogateescape")  # as in sys.argv where the locale is C
    with pytest.raises(UserError, match=r"^'run_dir=\\udcc3\\udca9': is not UTF-8 text; .*PYTHONUTF8=1"):
        check_utf8(undecoded)
