"""Tests of writing checkpoints on a full disk, of choosing one to resume from, and of what they restore."""

import io
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cnnzoo.callbacks import CheckpointSaver
from cnnzoo.callbacks.checkpoint import AtomicCheckpointIO, random_state, set_random_state
from cnnzoo.errors import UserError
from cnnzoo.loggers.local import ResumableCSVLogger
from cnnzoo.runtime.failures import failures_as_user_error
from cnnzoo.training import resume


def test_find_checkpoint_skips_damaged_file_and_warns(tmp_path, caplog):
    (tmp_path / "checkpoints").mkdir()
    assert resume.find_checkpoint(tmp_path) is None
    for name, step in (("best", 20), ("last", 40)):
        torch.save(
            {"global_step": step, "loops": {}, "cnnzoo": {}, "rows": 3, "weights": torch.rand(3000)},
            tmp_path / f"checkpoints/{name}.ckpt",
        )
    assert resume.find_checkpoint(tmp_path)[1]["global_step"] == 40
    path = tmp_path / "checkpoints/last.ckpt"
    content = path.read_bytes()
    middle = len(content) // 2
    truncated = content[:-2000]
    flipped_bit = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    for damaged in (truncated, flipped_bit, b""):
        path.write_bytes(damaged)
        best_path, checkpoint = resume.find_checkpoint(tmp_path)
        assert (best_path.name, checkpoint["global_step"]) == ("best.ckpt", 20)
        assert f"{path} is damaged" in caplog.messages[-1]


def test_checkpoint_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    directory = tmp_path / "checkpoints"
    saver = CheckpointSaver(str(directory), monitor="val/acc1")

    class Trainer:
        loggers = ()

        def save_checkpoint(self, path, weights_only):
            AtomicCheckpointIO().save_checkpoint({"weight": torch.zeros(9)}, path)

    saver._save(Trainer(), "last", "epoch")
    old_content = (directory / "last.ckpt").read_bytes()

    def raise_no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cnnzoo.runtime.files.os.fsync", raise_no_space)
    cfg = OmegaConf.create({"run_dir": str(tmp_path)})
    message = r"last\.ckpt: cannot be written: No space left on device; .* resume="
    with pytest.raises(UserError, match=message), failures_as_user_error(cfg):
        saver._save(Trainer(), "last", "epoch")
    assert [path.name for path in directory.iterdir()] == ["last.ckpt"]
    assert (directory / "last.ckpt").read_bytes() == old_content


def test_checkpoint_disk_fills_while_writing_keeps_old_file(tmp_path):
    resource = pytest.importorskip("resource")  # not on Windows
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weight": torch.zeros(9)}, path)
    old_content, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            AtomicCheckpointIO().save_checkpoint({"weight": torch.zeros(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == old_content
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_checkpoint_save_removes_its_leftover_files(tmp_path):
    for name in (".last.ckpt.host.7.tmp", ".best.ckpt.host.7.tmp"):  # of a killed process
        (tmp_path / name).write_bytes(b"a part")
    AtomicCheckpointIO().save_checkpoint({"weight": torch.zeros(9)}, tmp_path / "last.ckpt")
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", ".best.ckpt.host.7.tmp"}


def test_checkpoint_directory_is_created_before_training(tmp_path):
    trainer = SimpleNamespace(is_global_zero=True, fast_dev_run=False, strategy=SimpleNamespace())
    CheckpointSaver(str(tmp_path / "new"), monitor="val/acc1").setup(trainer, None, "fit")
    assert (tmp_path / "new").is_dir()
    (tmp_path / "file").touch()
    saver = CheckpointSaver(str(tmp_path / "file/x"), monitor="val/acc1")
    with pytest.raises(UserError, match=r"^callbacks\.checkpoint\.dirpath=.*/file/x: the directory cannot be created"):
        saver.setup(trainer, None, "fit")


def test_csv_logger_bad_directory_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    logger = ResumableCSVLogger(str(tmp_path / "file/x"))
    for write in (lambda: logger.log_hyperparams({}), lambda: logger.log_metrics({"loss": 1.0}, 0)):
        with pytest.raises(UserError, match=r"^logger\.csv\.save_dir=.*/file/x: the directory cannot be created"):
            write()


def test_csv_logger_resume_at_drops_later_rows(tmp_path):
    logger = ResumableCSVLogger(str(tmp_path))
    logger.log_metrics({"loss": 0.5, "epoch": 0.0}, 0)
    logger.log_metrics({"acc": 0.25}, 1)
    logger.log_metrics({"loss": 0.125, "later": 1.0}, 2)
    resumed = ResumableCSVLogger(str(tmp_path))
    resumed.resume_at(2)
    assert resumed.rows == 2
    resumed.log_metrics({"loss": 2.0}, 2)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "acc,epoch,loss,step",
        ",0,0.5,0",
        "0.25,,,1",
        ",,2.0,2",
    ]
    ResumableCSVLogger(str(tmp_path)).log_metrics({"loss": 3.0}, 0)  # a new run in the same directory
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["loss,step", "3.0,0"]


def test_set_random_state_repeats_all_generators():
    state = random_state()
    torch.save(state, buffer := io.BytesIO())
    first = [torch.rand(3), np.random.rand(3), random.random()]
    buffer.seek(0)
    set_random_state(torch.load(buffer, weights_only=True))
    second = [torch.rand(3), np.random.rand(3), random.random()]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
