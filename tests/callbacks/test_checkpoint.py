"""Tests of when checkpoints are written, of choosing one to resume from, and of what they restore."""

import io
import random
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from cnnzoo.callbacks import CheckpointSaver
from cnnzoo.callbacks import checkpoint as checkpoint_module
from cnnzoo.callbacks.checkpoint import Action, highest_of_ranks, random_state, set_random_state
from cnnzoo.callbacks.checkpoint_io import AtomicCheckpointIO
from cnnzoo.errors import UserError
from cnnzoo.loggers.local import ResumableCSVLogger
from cnnzoo.runtime.failures import failures_as_user_error
from cnnzoo.runtime.signals import InterruptHandler, TrainingStopped
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


class FakeTrainer:
    """What `CheckpointSaver` uses of a trainer. Its checkpoints contain one weight and the callback's state."""

    def __init__(self, saver, **attributes):
        self.saver, self.weight, self.barriers = saver, torch.zeros(9), []
        self.strategy = SimpleNamespace(
            checkpoint_io=None,
            barrier=self.barriers.append,
            reduce_boolean_decision=lambda decision: decision,
        )
        self.fast_dev_run = self.sanity_checking = False
        self.is_global_zero = self.training = True
        self.world_size = self.accumulate_grad_batches = 1
        self.current_epoch, self.global_step, self.log_every_n_steps = 0, 0, 10
        self.check_val_every_n_epoch, self.val_check_batch = 1, float("inf")
        self.loggers, self.callback_metrics = (), {}
        self.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=0))
        self.__dict__.update(attributes)
        saver.setup(self, None, "fit")

    def save_checkpoint(self, path, weights_only):
        checkpoint = {"weight": self.weight, "step": self.global_step, "best_value": self.saver.best_value}
        self.strategy.checkpoint_io.save_checkpoint(checkpoint, path)

    def train_epoch(self, accuracy, batches=0):
        """Train the batches of an epoch, validate, and start the next epoch."""
        for batch in range(batches):
            self.saver.on_train_batch_start(self, None, None, batch)
            self.global_step += 1
            self.fit_loop.epoch_loop._batches_that_stepped += 1
        self.current_epoch += 1
        self.global_step = max(1, self.global_step)
        self.callback_metrics["val/acc1"] = torch.tensor(accuracy)
        self.saver.on_validation_end(self, None)
        self.saver.on_train_epoch_start(self, None)


@pytest.fixture
def saves(monkeypatch):
    """The (name, step) of each checkpoint that is written, in order."""
    written = []
    save = AtomicCheckpointIO.save_checkpoint

    def record(self, checkpoint, path, storage_options=None):
        save(self, checkpoint, path)
        written.append((path.stem, checkpoint["step"]))

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", record)
    return written


def make_saver(tmp_path, **options):
    return CheckpointSaver(str(tmp_path / "checkpoints"), monitor="val/acc1", **options)


def test_checkpoint_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    saver = make_saver(tmp_path)
    trainer = FakeTrainer(saver)
    trainer.train_epoch(0.5)
    saver._wait(trainer)
    contents = {path: path.read_bytes() for path in saver.directory.iterdir()}

    def raise_no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cnnzoo.runtime.files.os.fsync", raise_no_space)
    cfg = OmegaConf.create({"run_dir": str(tmp_path)})
    message = r"best\.ckpt: cannot be written: No space left on device; .* resume="
    trainer.train_epoch(0.9)
    with pytest.raises(UserError, match=message), failures_as_user_error(cfg):
        saver.on_train_end(trainer, None)
    assert {path: path.read_bytes() for path in saver.directory.iterdir()} == contents
    assert {path.name for path in contents} == {"best.ckpt", "last.ckpt"}


def test_checkpoint_error_is_raised_at_the_next_batch(tmp_path, monkeypatch):
    saver = make_saver(tmp_path)
    trainer = FakeTrainer(saver)
    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", lambda *_: 1 / 0)
    trainer.train_epoch(0.5)
    saver._io._thread.join()
    with pytest.raises(ZeroDivisionError):
        saver.on_train_batch_start(trainer, None, None, 1)
    saver.on_exception(trainer, None, ZeroDivisionError())  # it was raised already


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize(
    ("every_n_epochs", "expected"),
    [
        (1, ["last 1", "best 2", "last 2", "last 3", "best 4", "last 4", "last 5", "last 5"]),
        (2, ["last 1", "best 2", "last 2", "best 4", "last 4", "last 5"]),
        (3, ["last 1", "best 2", "last 2", "last 3", "best 4", "last 4", "last 5"]),
        (None, ["last 1", "best 2", "last 2", "best 4", "last 4", "last 5"]),
    ],
)
def test_checkpoint_every_n_epochs(tmp_path, saves, background, every_n_epochs, expected):
    saver = make_saver(tmp_path, every_n_epochs=every_n_epochs, background=background)
    trainer = FakeTrainer(saver)
    for accuracy in (float("nan"), 0.5, 0.4, 0.6, 0.5):
        trainer.train_epoch(accuracy, batches=1)
        saver._io.wait()
    saver.on_train_end(trainer, None)
    assert [f"{name} {step}" for name, step in saves] == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [8, 16, 24]),
        ({"accumulate_grad_batches": 5}, [10, 20]),
        ({"world_size": 2}, [10, 20]),  # the logged steps
        ({"val_check_batch": 8}, [9, 17, 25]),  # a run resumed from step 8 would validate again
    ],
)
def test_checkpoint_every_n_seconds(tmp_path, saves, monkeypatch, options, expected):
    seconds = [0.0]
    monkeypatch.setattr(checkpoint_module.time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(checkpoint_module, "highest_of_ranks", lambda trainer, action: action)
    saver = make_saver(tmp_path, every_n_seconds=8, background=False)
    trainer = FakeTrainer(saver, **options)
    saver._last_save = 0.0
    for step in range(30):
        seconds[0] = trainer.global_step = trainer.fit_loop.epoch_loop._batches_that_stepped = step
        saver.on_train_batch_start(trainer, None, None, step)
    assert saves == [("last", step) for step in expected]


def test_stop_signal_is_raised_after_the_file_is_written(tmp_path, saves, monkeypatch):
    handler = InterruptHandler()
    handler.received = signal.SIGTERM
    monkeypatch.setattr("cnnzoo.runtime.signals._current", handler)
    saver = make_saver(tmp_path)
    trainer = FakeTrainer(saver, global_step=3)
    with pytest.raises(TrainingStopped, match="SIGTERM"):
        saver.on_train_batch_start(trainer, None, None, 3)
    assert saves == [("last", 3)]
    assert trainer.barriers  # other ranks wait as well


def test_checkpoints_of_other_callbacks_are_waited_for(tmp_path, saves):
    saver = make_saver(tmp_path)
    trainer = FakeTrainer(saver)
    saver.on_train_end(trainer, None)
    trainer.save_checkpoint(tmp_path / "other.ckpt", weights_only=False)
    saver.teardown(trainer, None, "fit")
    assert saves == [("last", 0), ("other", 0)]
    trainer.save_checkpoint(tmp_path / "after.ckpt", weights_only=False)
    assert saves[-1] == ("after", 0)


@pytest.mark.parametrize("others", [Action.CONTINUE, Action.STOP])
def test_ranks_agree_in_one_collective_call(monkeypatch, others):
    calls = []

    def all_reduce(value, op):
        calls.append(op)
        value.clamp_(min=int(others))

    monkeypatch.setattr(checkpoint_module.distributed, "all_reduce", all_reduce)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    action = highest_of_ranks(SimpleNamespace(world_size=2, strategy=strategy), Action.SAVE)
    assert action == max(Action.SAVE, others)
    assert calls == [checkpoint_module.distributed.ReduceOp.MAX]
    assert highest_of_ranks(SimpleNamespace(world_size=1), Action.SAVE) == Action.SAVE
    assert len(calls) == 1


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
