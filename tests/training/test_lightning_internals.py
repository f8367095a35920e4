"""What `lightning_internals` replaces in Lightning does the same as Lightning, and is as it was when it was written."""

import hashlib
import inspect

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.profilers import SimpleProfiler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cnnzoo.training.classifier import Classifier
from cnnzoo.training.lightning_internals import REPLACED, direct_hook_calls, log_row

SOURCE_DIGESTS = {
    "_call_callback_hooks": "c413fb9a6a9ce1a3",
    "_call_lightning_module_hook": "558a87d04c4680e1",
    "_call_strategy_hook": "ff429e3ac60d2a80",
    "is_param_in_hook_signature": "6bd4f22c778d7ccc",
}
HOOKS = [name for name in dir(pl.Callback) if name.startswith(("on_", "setup", "teardown"))]


class Recorder(pl.Callback):
    """Records each hook, and the hook that Lightning believes to be in."""

    def __init__(self):
        self.calls = []


def record(name):
    def hook(self, trainer, pl_module, *args, **kwargs):
        self.calls.append((name, pl_module._current_fx_name, len(args), sorted(kwargs)))

    return hook


for hook_name in HOOKS:
    setattr(Recorder, hook_name, record(hook_name))


class OneHook(pl.Callback):
    """Overrides one hook."""

    def __init__(self):
        self.steps = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps += 1


def fit(*callbacks, patched=True, **options):
    torch.manual_seed(0)
    data = DataLoader(TensorDataset(torch.rand(12, 3, 2, 2), torch.arange(12) % 4), batch_size=3)
    classifier = Classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1)
    )
    options = {"max_epochs": 2, "logger": False, "log_every_n_steps": 2, **options}
    trainer = pl.Trainer(
        accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=list(callbacks), **options,
    )  # fmt: skip
    if patched:
        with direct_hook_calls(trainer):
            trainer.fit(classifier, data, data)
    else:
        trainer.fit(classifier, data, data)
    return trainer


def test_direct_hook_calls_equal_lightnings():
    calls = []
    for patched in (False, True):
        recorder, one_hook = Recorder(), OneHook()
        trainer = fit(recorder, one_hook, patched=patched)
        assert one_hook.steps == trainer.global_step == 8
        calls.append(recorder.calls)
    assert calls[0] == calls[1]
    assert {name for name, *_ in calls[1]} >= {"on_train_batch_start", "on_before_zero_grad", "on_validation_end"}


def test_direct_hook_calls_end_with_the_block():
    originals = [getattr(module, name) for module, name in REPLACED]
    trainer = pl.Trainer(accelerator="cpu", logger=False)
    with direct_hook_calls(trainer):
        assert not set(originals) & {getattr(module, name) for module, name in REPLACED}
    assert [getattr(module, name) for module, name in REPLACED] == originals


def test_direct_hook_calls_notice_a_new_callback():
    class Adder(pl.Callback):
        added = OneHook()

        def on_train_epoch_end(self, trainer, pl_module):
            trainer.callbacks.append(self.added)

    adder = Adder()
    fit(adder)
    assert adder.added.steps == 4


def test_profiler_still_records_every_hook():
    profiler = SimpleProfiler()
    fit(OneHook(), profiler=profiler)
    assert len(profiler.recorded_durations["[Callback]OneHook.on_train_batch_end"]) == 8


def test_logged_values_reach_callbacks_and_progress_bar():
    trainer = fit(EarlyStopping("train/loss", check_on_train_epoch_end=True))  # raises for an unknown metric
    assert trainer.callback_metrics["train/loss"].device == torch.device("cpu")
    assert trainer.logged_metrics["train/acc1"].item() in (0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1)
    log_row(trainer, {"train/loss": 2.0, "lr": 1.0}, prog_bar=("train/loss",))
    assert trainer.progress_bar_metrics["train/loss"] == 2.0
    assert "lr" not in trainer.progress_bar_metrics


def test_direct_hook_calls_leave_other_trainers_alone():
    other = []

    class FitsAnother(OneHook):
        def on_train_start(self, trainer, pl_module):
            other.append(fit(OneHook(), patched=False, max_epochs=1))

    callback = FitsAnother()
    fit(callback)
    assert other[0].callbacks[0].steps == 4
    assert callback.steps == 8


@pytest.mark.parametrize(("module", "name"), REPLACED)
def test_replaced_function_is_the_known_one(module, name):
    """If this fails, compare the new function with its replacement in `lightning_internals`, also `VERSIONS` there."""
    digest = hashlib.sha256(inspect.getsource(getattr(module, name)).encode()).hexdigest()[:16]
    assert digest == SOURCE_DIGESTS[name]
