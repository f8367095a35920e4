"""Tests of the callbacks that neither save nor write to TensorBoard, mostly one at a time with a fake trainer."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cnnzoo.callbacks import Bottleneck, CheckpointSaver, NanGuard, ProgressBar, Throughput
from cnnzoo.callbacks.bottleneck import suggest_change
from cnnzoo.callbacks.epoch_table import is_best_epoch
from cnnzoo.callbacks.progress import completed_epochs, total_epochs
from cnnzoo.data import Augment, TorchLoader
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.split import Split
from cnnzoo.errors import UserError


@pytest.mark.parametrize(
    ("monitor", "values", "best_epoch"),
    [
        ("val/acc1", [0.5, 0.9, 0.9, 0.7], 2),
        ("val/acc1", [0.5, 0.9, 0.8, 0.7], 1),
        ("val/loss", [0.5, 0.2, 0.2, 0.3], 2),
        ("val/loss", [float("nan"), 0.2, float("nan")], 1),
    ],
)
def test_best_checkpoint_is_latest_of_equal_epochs(tmp_path, monitor, values, best_epoch):
    saver, saved = CheckpointSaver(str(tmp_path), monitor=monitor), []
    for epoch, value in enumerate(values):
        trainer = SimpleNamespace(
            strategy=SimpleNamespace(reduce_boolean_decision=lambda decision: decision),
            callback_metrics={monitor: torch.tensor(value)},
            sanity_checking=False,
        )
        saver.on_validation_end(trainer, None)
        if saver._is_new_best(trainer):
            saved.append(epoch)
        assert not saver._is_new_best(trainer)  # no validation in between
    assert saved[-1] == best_epoch


@pytest.mark.parametrize("name", ["every_n_epochs", "every_n_seconds"])
@pytest.mark.parametrize("value", [-1, 0, True, "often"])
def test_checkpoint_bad_interval_raises(tmp_path, name, value):
    with pytest.raises(UserError, match=rf"callbacks\.checkpoint\.{name}={value}: expected .* \(null turns it off\)"):
        CheckpointSaver(str(tmp_path), monitor="val/acc1", **{name: value})


class LoggingModule:
    """Records the values that are logged under each name."""

    def __init__(self):
        self.logged = {}

    def log(self, name, value, **_):
        self.logged.setdefault(name, []).append(value)


def test_throughput_logs_images_per_second_and_data_wait(monkeypatch):
    clock = iter([0.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr("cnnzoo.callbacks.throughput.time.perf_counter", lambda: next(clock))
    loader = SimpleNamespace(wait_seconds=0.0)
    trainer, module = SimpleNamespace(train_dataloader=loader, world_size=2), LoggingModule()
    throughput = Throughput(window=2)
    throughput.on_train_epoch_start(trainer, module)
    for wait_seconds in (0.5, 0.25, 0.0):
        loader.wait_seconds += wait_seconds
        throughput.on_train_batch_end(trainer, module, None, (None, [0] * 8), 0)
    assert module.logged["perf/images_per_second"] == [16.0, 16.0, 16.0]
    assert module.logged["perf/data_wait"] == [0.5, 0.375, 0.125]
    assert (throughput.epoch_images_per_second, throughput.epoch_data_wait) == (16.0, 0.25)


def test_throughput_window_of_zero_raises():
    with pytest.raises(UserError, match=r"callbacks\.throughput\.window=0"):
        Throughput(window=0)


def test_progress_log_interval_of_zero_raises():
    with pytest.raises(UserError, match=r"callbacks\.progress\.log_every_seconds=0"):
        ProgressBar(log_every_seconds=0)


def make_progress_trainer(**options):
    defaults = {
        "max_epochs": 4,
        "max_steps": -1,
        "num_training_batches": 9,
        "num_val_batches": [3],
        "current_epoch": 2,
        "accumulate_grad_batches": 1,
    }
    return SimpleNamespace(**{**defaults, **options})


@pytest.mark.parametrize(
    ("options", "epochs"),
    [({}, 4), ({"max_steps": 18}, 2), ({"max_epochs": -1, "max_steps": 9, "accumulate_grad_batches": 2}, 2)],
)
def test_total_epochs_follows_epoch_and_step_limits(options, epochs):
    assert total_epochs(make_progress_trainer(**options)) == epochs


@pytest.mark.parametrize(
    ("train_batches", "val_batches", "epochs"), [(0, 0, 2), (9, 0, 2.9), (9, 3, 3), (4.5, 0, 2.45)]
)
def test_completed_epochs_weighs_val_batches_a_third(train_batches, val_batches, epochs):
    assert completed_epochs(make_progress_trainer(), train_batches, val_batches) == pytest.approx(epochs)


@pytest.mark.parametrize(
    ("monitor", "values", "expected"),
    [("val/acc1", [0.5, 0.9, 0.9, 0.7], [1, 1, 1, 0]), ("val/loss", [0.5, 0.6, 0.2, float("nan")], [1, 0, 1, 0])],
)
def test_epoch_table_marks_the_epoch_of_best_checkpoint(tmp_path, monitor, values, expected):
    saver = CheckpointSaver(str(tmp_path), monitor=monitor)
    trainer = SimpleNamespace(checkpoint_callbacks=[saver])
    marks = []
    for value in values:
        marks.append(is_best_epoch(trainer, {monitor: torch.tensor(value)}))
        if marks[-1]:
            saver.best_value = float(torch.tensor(value))
    assert marks == [bool(mark) for mark in expected]
    assert not is_best_epoch(trainer, {})


def make_bottleneck_trainer(split, data_wait, **options):
    loader = TorchLoader(
        split,
        EpochSampler(len(split), 2, seed=0, train=True),
        augment=Augment(),
        train=True,
        image_size=8,
        channels=3,
        seed=0,
        **options,
    )
    throughput = Throughput()
    throughput.epoch_data_wait = data_wait
    return SimpleNamespace(callbacks=[throughput], train_dataloader=loader, is_global_zero=True, num_devices=2)


PIXEL_SPLIT = Split(np.zeros(4, np.int64), pixels=np.zeros((4, 8, 8, 3), np.uint8))


def make_file_split(num_cached=None, channels=None):
    """Four files, `num_cached` of them in a cache: decoded if `channels` is set. None is no cache."""
    store = None if num_cached is None else SimpleNamespace(num_cached=num_cached, channels=channels)
    return Split(np.zeros(4, np.int64), paths=np.array([b"a"] * 4), store=store)


@pytest.mark.parametrize(
    ("split", "options", "expected"),
    [
        (PIXEL_SPLIT, {"workers": 0}, "; try loader.workers=1"),
        (PIXEL_SPLIT, {"workers": 1}, "times as fast"),
        (make_file_split(), {"workers": 1}, "; try data.cache.mode=auto"),
        (make_file_split(4), {"workers": 1}, "; try loader.workers=3, one per core"),
        (
            make_file_split(1),
            {"workers": 3},
            "; try a larger data.cache.budget, or data.cache.resize=256: only 25% of the images",
        ),
        (make_file_split(4), {"workers": 3}, "; try data.cache.mode=decoded"),
        (make_file_split(4, 3), {"workers": 3, "kind": "threads"}, "; try loader.kind=processes"),
        (make_file_split(4, 3), {"workers": 3}, "times as fast"),
    ],
)
def test_bottleneck_warns_once_and_suggests_a_setting(monkeypatch, caplog, split, options, expected):
    monkeypatch.setattr("cnnzoo.runtime.cpu.usable_cores", lambda: 6)
    bottleneck, trainer = Bottleneck(), make_bottleneck_trainer(split, 0.6, **options)
    for _ in range(2):
        bottleneck.on_train_epoch_end(trainer, None)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("the data is the bottleneck: 60% of the epoch was spent waiting for images")
    assert "2.5 times as fast" in message
    assert expected in message
    assert message.endswith("times as fast") or "; try " in expected


def test_suggest_change_images_on_gpu_need_no_workers():
    loader = SimpleNamespace(split=make_file_split(4, 3), workers=0, images_on_gpu=True)
    assert suggest_change(loader, cores=3) == ""


@pytest.mark.parametrize(("workers", "expected"), [(1, "loader.workers=3, one per core"), (3, "")])
def test_suggest_change_dali_loader_gets_no_worker_kind(workers, expected):
    assert suggest_change(SimpleNamespace(split=make_file_split(4, 3), workers=workers), cores=3) == expected


@pytest.mark.parametrize("data_wait", [None, 0.0, 0.1])
def test_bottleneck_is_silent_below_threshold(caplog, data_wait):
    Bottleneck().on_train_epoch_end(make_bottleneck_trainer(make_file_split(), data_wait), None)
    assert not caplog.records


def make_nan_guard_trainer(precision="32-true"):
    group = {"lr": 0.05, "initial_lr": 0.1}
    return SimpleNamespace(
        is_logged_step=False,
        callback_metrics={},
        global_step=7,
        current_epoch=2,
        precision=precision,
        optimizers=[SimpleNamespace(param_groups=[group])],
    )


@pytest.fixture
def nan_guard(monkeypatch):
    monkeypatch.setattr("cnnzoo.callbacks.nan_guard.is_logged_step", lambda trainer: trainer.is_logged_step)
    return NanGuard()


class UnreadableTensor(torch.Tensor):
    """A loss whose value must not be read, because that makes a GPU wait."""

    def __float__(self):
        raise AssertionError("the loss was read")


def test_nan_guard_uses_the_logged_values(nan_guard):
    trainer, module = make_nan_guard_trainer(), SimpleNamespace(logged_values={"train/loss": 1.0})
    loss = torch.tensor(float("nan")).as_subclass(UnreadableTensor)
    for trainer.is_logged_step in (False, True):
        nan_guard.on_train_batch_end(trainer, module, {"loss": loss}, None, 0)
        nan_guard.on_train_batch_start(trainer, module, None, 1)
    module.logged_values = {"train/loss": float("nan")}
    nan_guard.on_train_batch_end(trainer, module, {"loss": loss}, None, 1)
    with pytest.raises(UserError, match="the loss is nan"):
        nan_guard.on_train_batch_start(trainer, module, None, 2)


def test_nan_guard_of_another_module_reads_its_loss(nan_guard):
    trainer, nan = make_nan_guard_trainer(), {"loss": torch.tensor(float("nan"))}
    nan_guard.on_train_batch_end(trainer, None, nan, None, 0)
    nan_guard.on_train_batch_start(trainer, None, None, 1)  # not a logged step
    trainer.is_logged_step = True
    nan_guard.on_train_batch_end(trainer, None, nan, None, 1)
    with pytest.raises(UserError, match="the loss is nan"):
        nan_guard.on_train_batch_start(trainer, None, None, 2)


def test_nan_guard_checks_the_mean_of_an_epoch(nan_guard):
    trainer = make_nan_guard_trainer()
    nan_guard.on_train_batch_end(trainer, None, {"loss": torch.tensor(1.0)}, None, 0)
    nan_guard.on_train_epoch_end(trainer, None)
    trainer.callback_metrics["train/loss_epoch"] = torch.tensor(float("nan"))
    with pytest.raises(UserError, match="the loss is nan"):
        nan_guard.on_train_epoch_end(trainer, None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_guard_stops_the_run_before_it_is_saved(nan_guard, value):
    trainer = make_nan_guard_trainer()
    nan_guard.on_train_batch_end(trainer, None, {"loss": torch.tensor(value)}, None, 3)  # not a logged step
    with pytest.raises(
        UserError, match=rf"the loss is {value} at step 7 \(epoch 3\), learning rate 0.05; type"
    ) as error:
        nan_guard.on_save_checkpoint(trainer, None, {})
    assert "optimizer.lr=0.01 or " in str(error.value)
    assert "callbacks.nan_guard=null" in str(error.value)
    assert "bf16" not in str(error.value)
    with pytest.raises(UserError, match=r"or trainer.precision=bf16-mixed"):
        nan_guard.on_save_checkpoint(make_nan_guard_trainer(precision="16-mixed"), None, {})


def test_nan_loss_leaves_the_last_good_checkpoint(job, tmp_path, monkeypatch):
    from cnnzoo.training.classifier import Classifier

    training_step = Classifier.training_step

    def nan_in_second_epoch(self, batch, batch_idx):
        images, labels = batch
        is_bad = self.current_epoch == 1 and batch_idx == 1
        return training_step(self, (images * float("nan") if is_bad else images, labels), batch_idx)

    monkeypatch.setattr(Classifier, "training_step", nan_in_second_epoch)
    with pytest.raises(UserError, match=r"the loss is nan at step 4 \(epoch 2\)"):
        job("model=lenet", "trainer.max_epochs=2", "trainer.limit_train_batches=2")
    checkpoint = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["cnnzoo"]["epochs"] == 1
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
