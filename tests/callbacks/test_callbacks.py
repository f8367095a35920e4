"""What is shown and saved while training, each callback by itself."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cnnzoo.callbacks import Bottleneck, CheckpointSaver, NanGuard, ProgressBar, Throughput
from cnnzoo.callbacks.bottleneck import advice
from cnnzoo.callbacks.epoch_table import is_best_epoch
from cnnzoo.callbacks.progress import completed_epochs, total_epochs
from cnnzoo.data import Augment, TorchLoader
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.split import Split
from cnnzoo.errors import UserError


@pytest.mark.parametrize(
    ("monitor", "values", "best"),
    [
        ("val/acc1", [0.5, 0.9, 0.9, 0.7], 2),
        ("val/acc1", [0.5, 0.9, 0.8, 0.7], 1),
        ("val/loss", [0.5, 0.2, 0.2, 0.3], 2),
        ("val/loss", [float("nan"), 0.2, float("nan")], 1),
    ],
)
def test_the_best_checkpoint_is_the_latest_of_the_best(tmp_path, monitor, values, best):
    checkpoints, saved = CheckpointSaver(str(tmp_path), monitor=monitor), []
    for epoch, value in enumerate(values):
        trainer = SimpleNamespace(
            strategy=SimpleNamespace(reduce_boolean_decision=lambda decision: decision),
            callback_metrics={monitor: torch.tensor(value)},
            sanity_checking=False,
            loggers=[],
            save_checkpoint=lambda path, epoch=epoch, **_: saved.append((path.name, epoch)),
        )
        checkpoints.on_validation_end(trainer, None)
        checkpoints._save_best(trainer, "epochs")
        checkpoints._save_best(trainer, "epochs")  # not measured anew: nothing to decide
    assert saved[-1] == ("best.ckpt", best)
    assert len(set(saved)) == len(saved)


@pytest.mark.parametrize("value", [-1, True, "often"])
def test_how_often_to_save_is_checked(tmp_path, value):
    with pytest.raises(UserError, match=rf"callbacks\.checkpoint\.every_minutes={value}"):
        CheckpointSaver(str(tmp_path), monitor="val/acc1", every_minutes=value)


class Module:
    def __init__(self):
        self.logged = {}

    def log(self, name, value, **_):
        self.logged.setdefault(name, []).append(value)


def test_speed_counts_images_and_the_share_of_waiting(monkeypatch):
    clock = iter([0.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr("cnnzoo.callbacks.throughput.time.perf_counter", lambda: next(clock))
    loader = SimpleNamespace(wait_seconds=0.0)
    trainer, module, speed = SimpleNamespace(train_dataloader=loader, world_size=2), Module(), Throughput(window=2)
    speed.on_train_epoch_start(trainer, module)
    for waited in (0.5, 0.25, 0.0):
        loader.wait_seconds += waited
        speed.on_train_batch_end(trainer, module, None, (None, [0] * 8), 0)
    assert module.logged["perf/images_per_second"] == [16.0, 16.0, 16.0]
    assert module.logged["perf/data_wait"] == [0.5, 0.375, 0.125]
    assert (speed.epoch_images_per_second, speed.epoch_data_wait) == (16.0, 0.25)


def test_speed_needs_a_window():
    with pytest.raises(UserError, match=r"callbacks\.throughput\.window=0"):
        Throughput(window=0)


def test_progress_needs_a_time():
    with pytest.raises(UserError, match=r"callbacks\.progress\.log_every_seconds=0"):
        ProgressBar(log_every_seconds=0)


def fit_of(**changes):
    facts = {"max_epochs": 4, "max_steps": -1, "num_training_batches": 9, "num_val_batches": [3], "current_epoch": 2}
    return SimpleNamespace(**{**facts, "accumulate_grad_batches": 1, **changes})


@pytest.mark.parametrize(
    ("changes", "epochs"),
    [({}, 4), ({"max_steps": 18}, 2), ({"max_epochs": -1, "max_steps": 9, "accumulate_grad_batches": 2}, 2)],
)
def test_a_run_ends_with_its_epochs_or_its_steps(changes, epochs):
    assert total_epochs(fit_of(**changes)) == epochs


@pytest.mark.parametrize(("trained", "validated", "epochs"), [(0, 0, 2), (9, 0, 2.9), (9, 3, 3), (4.5, 0, 2.45)])
def test_validation_counts_a_third_of_training(trained, validated, epochs):
    assert completed_epochs(fit_of(), trained, validated) == pytest.approx(epochs)


@pytest.mark.parametrize(
    ("monitor", "values", "best"),
    [("val/acc1", [0.5, 0.9, 0.9, 0.7], [1, 1, 1, 0]), ("val/loss", [0.5, 0.6, 0.2, float("nan")], [1, 0, 1, 0])],
)
def test_the_best_epoch_so_far_is_what_the_checkpoint_keeps(tmp_path, monitor, values, best):
    checkpoint = CheckpointSaver(str(tmp_path), monitor=monitor)
    trainer = SimpleNamespace(checkpoint_callbacks=[checkpoint])
    marks = []
    for value in values:
        marks.append(is_best_epoch(trainer, {monitor: torch.tensor(value)}))
        if marks[-1]:
            checkpoint.best = float(torch.tensor(value))
    assert marks == [bool(mark) for mark in best]
    assert not is_best_epoch(trainer, {})


def trainer_of(split, wait, **options):
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
    speed = Throughput()
    speed.epoch_data_wait = wait
    return SimpleNamespace(callbacks=[speed], train_dataloader=loader, is_global_zero=True)


PIXELS = Split(np.zeros(4, np.int64), pixels=np.zeros((4, 8, 8, 3), np.uint8))


def files(held=None, channels=None):
    store = None if held is None else SimpleNamespace(held=held, channels=channels)
    return Split(np.zeros(4, np.int64), paths=np.array([b"a"] * 4), store=store)


@pytest.mark.parametrize(
    ("split", "options", "said"),
    [
        (PIXELS, {"workers": 0}, "; try loader.workers=1"),
        (PIXELS, {"workers": 1}, "times as fast"),
        (files(), {"workers": 1}, "; try data.cache.mode=auto"),
        (files(4), {"workers": 1}, "; try loader.workers=3, one for each core"),
        (files(1), {"workers": 3}, "; try a larger data.cache.budget, or data.cache.resize=256: 25% of the images"),
        (files(4), {"workers": 3}, "; try data.cache.mode=decoded"),
        (files(4, 3), {"workers": 3, "kind": "threads"}, "; try loader.kind=processes"),
        (files(4, 3), {"workers": 3}, "times as fast"),
    ],
)
def test_a_bottleneck_is_told_with_what_to_change(monkeypatch, caplog, split, options, said):
    monkeypatch.setattr("cnnzoo.callbacks.bottleneck.usable_cores", lambda: 3)
    bottleneck, trainer = Bottleneck(), trainer_of(split, 0.6, **options)
    for _ in range(2):  # said once
        bottleneck.on_train_epoch_end(trainer, None)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("the data is the bottleneck: 60% of the epoch was spent waiting for images")
    assert "2.5 times as fast" in line
    assert said in line
    assert line.endswith("times as fast") or "; try " in said


@pytest.mark.parametrize(("workers", "said"), [(1, "loader.workers=3, one for each core"), (3, "")])
def test_a_loader_without_kinds_is_not_told_of_them(monkeypatch, workers, said):
    monkeypatch.setattr("cnnzoo.callbacks.bottleneck.usable_cores", lambda: 3)
    assert advice(SimpleNamespace(split=files(4, 3), workers=workers)) == said


@pytest.mark.parametrize("wait", [None, 0.0, 0.1])
def test_no_bottleneck_is_not_told(caplog, wait):
    Bottleneck().on_train_epoch_end(trainer_of(files(), wait), None)
    assert not caplog.records


def lossy(every=10, precision="32-true"):
    """A trainer as far as `Finite` looks at it."""
    group = {"lr": 0.05, "initial_lr": 0.1}
    return SimpleNamespace(
        log_every_n_steps=every,
        is_last_batch=False,
        global_step=7,
        current_epoch=2,
        precision=precision,
        optimizers=[SimpleNamespace(param_groups=[group])],
    )


class Watched(torch.Tensor):
    """A loss that counts how often its value is asked for, which on a GPU is a wait."""

    asked = 0

    def __bool__(self):
        Watched.asked += 1
        return super().__bool__()


def test_a_loss_is_looked_at_where_it_is_logged_and_no_more_often():
    finite, trainer = NanGuard(), lossy(every=10)
    Watched.asked = 0
    loss = torch.zeros(()).as_subclass(Watched)
    for step in range(25):
        trainer.is_last_batch = step == 24
        finite.on_train_batch_end(trainer, None, {"loss": loss}, None, step)
    assert Watched.asked == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(value):
    finite, trainer = NanGuard(), lossy()
    finite.on_train_batch_end(trainer, None, {"loss": torch.tensor(value)}, None, 3)  # not looked at
    with pytest.raises(
        UserError, match=rf"the loss is {value} at step 7 \(epoch 3\), learning rate 0.05: type"
    ) as error:
        finite.on_save_checkpoint(trainer, None, {})
    assert "optimizer.lr=0.01 or " in str(error.value)
    assert "callbacks.nan_guard=null" in str(error.value)
    assert "bf16" not in str(error.value)
    with pytest.raises(UserError, match=r"or trainer.precision=bf16-mixed"):
        finite.on_train_batch_end(lossy(precision="16-mixed"), None, {"loss": torch.tensor(value)}, None, 9)


def test_a_run_whose_loss_explodes_keeps_its_good_checkpoint(job, tmp_path, monkeypatch):
    from cnnzoo.training.classifier import Classifier

    step = Classifier.training_step

    def explode(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        return loss * float("nan") if self.current_epoch == 1 and batch_idx == 1 else loss

    monkeypatch.setattr(Classifier, "training_step", explode)
    with pytest.raises(UserError, match=r"the loss is nan at step 4 \(epoch 2\)"):
        job("model=lenet", "trainer.max_epochs=2", "trainer.limit_train_batches=2")
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert saved["cnnzoo"]["epochs"] == 1
    assert all(value.isfinite().all() for value in saved["state_dict"].values())
