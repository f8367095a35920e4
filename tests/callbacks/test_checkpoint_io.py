"""Tests of writing checkpoints: whole files only, in a thread, in order, with errors in the caller's thread."""

import os
import threading
from collections import OrderedDict

import pytest
import torch

from cnnzoo.callbacks.checkpoint_io import AtomicCheckpointIO, BackgroundCheckpointIO, copy_to_cpu

TIMEOUT_SECONDS = 30


class BlockedDisk:
    """Holds each file back before its rename until `release` is called."""

    def __init__(self, monkeypatch):
        self.replaced, self.waiting, self._released = [], threading.Semaphore(0), threading.Semaphore(0)
        self._replace = os.replace
        monkeypatch.setattr("cnnzoo.runtime.files.os.replace", self._wait_and_replace)

    def _wait_and_replace(self, source, target):
        self.waiting.release()
        assert self._released.acquire(timeout=TIMEOUT_SECONDS)
        self._replace(source, target)
        self.replaced.append(target.name)

    def wait_until_blocked(self):
        """Return when a file is complete except for its rename."""
        assert self.waiting.acquire(timeout=TIMEOUT_SECONDS)

    def release(self, files=10):
        self._released.release(files)


@pytest.fixture
def disk(monkeypatch):
    return BlockedDisk(monkeypatch)


@pytest.fixture
def checkpoint_io(disk):
    io = BackgroundCheckpointIO()
    yield io
    disk.release()
    io._changed.acquire()
    io._changed.wait_for(lambda: io._thread is None, TIMEOUT_SECONDS)
    io._changed.release()


def steps(directory):
    """The step of each checkpoint in the directory."""
    return {path.stem: torch.load(path)["step"] for path in directory.glob("*.ckpt")}


def test_atomic_io_disk_fills_while_writing_keeps_old_file(tmp_path):
    resource = pytest.importorskip("resource")  # not on Windows
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weight": torch.zeros(9)}, path)
    old_content, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            AtomicCheckpointIO().save_checkpoint({"weight": torch.zeros(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.filename == str(path)
    assert path.read_bytes() == old_content
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_atomic_io_removes_its_leftover_files(tmp_path):
    for name in (".last.ckpt.host.7.tmp", ".best.ckpt.host.7.tmp"):  # of a killed process
        (tmp_path / name).write_bytes(b"a part")
    AtomicCheckpointIO().save_checkpoint({"weight": torch.zeros(9)}, tmp_path / "last.ckpt")
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", ".best.ckpt.host.7.tmp"}


def test_background_io_keeps_the_old_file_until_the_rename(tmp_path, disk, checkpoint_io):
    disk.release(1)
    checkpoint_io.save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    checkpoint_io.wait()
    disk.wait_until_blocked()
    checkpoint_io.save_checkpoint({"step": 2}, tmp_path / "last.ckpt")
    disk.wait_until_blocked()
    assert steps(tmp_path) == {"last": 1}  # what a kill at this moment would leave
    disk.release(1)
    checkpoint_io.wait()
    assert steps(tmp_path) == {"last": 2}


def test_background_io_later_changes_do_not_change_the_file(tmp_path, disk, checkpoint_io):
    weight, progress = torch.zeros(9), {"batches": [3]}
    checkpoint_io.save_checkpoint({"weight": weight, "progress": progress}, tmp_path / "last.ckpt")
    weight.add_(1)
    progress["batches"].append(4)
    disk.release()
    checkpoint_io.wait()
    checkpoint = torch.load(tmp_path / "last.ckpt")
    assert not checkpoint["weight"].any()
    assert checkpoint["progress"] == {"batches": [3]}


def test_background_io_replaces_what_is_not_being_written(tmp_path, disk, checkpoint_io):
    for step in (1, 2, 3):
        checkpoint_io.save_checkpoint({"step": step}, tmp_path / "last.ckpt")
        if step == 1:
            disk.wait_until_blocked()
    disk.release()
    checkpoint_io.wait()
    assert disk.replaced == ["last.ckpt", "last.ckpt"]
    assert steps(tmp_path) == {"last": 3}


def test_background_io_writes_best_before_last(tmp_path, disk, checkpoint_io):
    """A `last.ckpt` whose best epoch is not in `best.ckpt` would lose that epoch for ever."""
    checkpoint_io.save_checkpoint({"step": 0}, tmp_path / "other.ckpt")
    disk.wait_until_blocked()
    checkpoint_io.save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    checkpoint_io.save_checkpoint({"step": 2}, tmp_path / "best.ckpt")
    checkpoint_io.save_checkpoint({"step": 2}, tmp_path / "last.ckpt")
    disk.release()
    checkpoint_io.wait()
    assert disk.replaced == ["other.ckpt", "best.ckpt", "last.ckpt"]
    assert steps(tmp_path) == {"other": 0, "best": 2, "last": 2}


def test_background_io_copies_share_one_snapshot(tmp_path, disk, checkpoint_io):
    checkpoint_io.copies = [tmp_path / "last.ckpt"]
    checkpoint_io.save_checkpoint({"step": 0}, tmp_path / "other.ckpt")
    disk.wait_until_blocked()
    checkpoint_io.save_checkpoint({"step": 1}, tmp_path / "best.ckpt")
    best, last = (checkpoint_io._pending[tmp_path / f"{name}.ckpt"] for name in ("best", "last"))
    assert best is last
    disk.release()
    checkpoint_io.wait()
    assert steps(tmp_path) == {"other": 0, "best": 1, "last": 1}


def test_background_io_too_many_files_wait_for_the_disk(tmp_path, disk, checkpoint_io):
    returned = threading.Event()

    def save_four():
        for step in range(4):
            checkpoint_io.save_checkpoint({"step": step}, tmp_path / f"{step}.ckpt")
        returned.set()

    thread = threading.Thread(target=save_four)
    thread.start()
    for file in range(4):
        disk.wait_until_blocked()
        assert len(checkpoint_io._pending) <= 2
        assert len(disk.replaced) == file
        disk.release(1)
    thread.join(TIMEOUT_SECONDS)
    checkpoint_io.wait()
    assert returned.is_set()
    assert disk.replaced == ["0.ckpt", "1.ckpt", "2.ckpt", "3.ckpt"]


@pytest.mark.parametrize("method", ["raise_error", "wait", "save_checkpoint"])
def test_background_io_error_surfaces_once_and_drops_the_rest(tmp_path, disk, checkpoint_io, monkeypatch, method):
    error = OSError(28, "No space left on device")

    def replace(*_):
        disk.waiting.release()
        assert disk._released.acquire(timeout=TIMEOUT_SECONDS)
        raise error

    monkeypatch.setattr("cnnzoo.runtime.files.os.replace", replace)
    checkpoint_io.save_checkpoint({"step": 1}, tmp_path / "best.ckpt")
    disk.wait_until_blocked()
    checkpoint_io.save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    thread = checkpoint_io._thread
    disk.release()
    thread.join(TIMEOUT_SECONDS)
    arguments = ({"step": 2}, tmp_path / "last.ckpt") if method == "save_checkpoint" else ()
    with pytest.raises(OSError, match="No space left on device") as raised:
        getattr(checkpoint_io, method)(*arguments)
    assert raised.value.filename == str(tmp_path / "best.ckpt")
    checkpoint_io.wait()
    assert list(tmp_path.iterdir()) == []


def test_background_io_reads_and_removes_after_writing(tmp_path, disk, checkpoint_io):
    path = tmp_path / "last.ckpt"
    disk.release()
    checkpoint_io.save_checkpoint({"step": 1}, path)
    assert checkpoint_io.load_checkpoint(path, weights_only=True) == {"step": 1}
    checkpoint_io.save_checkpoint({"step": 2}, path)
    checkpoint_io.remove_checkpoint(path)
    assert list(tmp_path.iterdir()) == []


def test_copy_to_cpu_copies_all_and_keeps_types():
    state = torch.nn.BatchNorm2d(3).state_dict()
    weight = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    value = {"state": state, "list": [weight, (weight[0], 3)], "none": None}
    copied = copy_to_cpu(value)
    assert isinstance(copied["state"], OrderedDict)
    assert copied["state"]._metadata == state._metadata
    assert copied["list"][0].stride() == weight.stride()
    assert torch.equal(copied["list"][0], weight)
    assert copied["list"][1][1] == 3
    pointers = {tensor.data_ptr() for tensor in (copied["list"][0], copied["list"][1][0], *copied["state"].values())}
    assert pointers.isdisjoint({weight.data_ptr(), *(tensor.data_ptr() for tensor in state.values())})
