"""No training step waits for the device, except logged ones, and these once."""

import itertools

import pytest

from tests.helpers.device_waits import DeviceWaits, TensorCreations, WaitRecorder

META = (
    "trainer.strategy={_target_:tests.helpers.device_waits.MetaStrategy}",
    "loader._target_=tests.helpers.device_waits.MetaLoader",
    "+callbacks.recorder._target_=tests.helpers.device_waits.WaitRecorder",
    "callbacks.graph=null",  # it cannot be traced on this device
)
LOG_EVERY = 4
FIRST_STEPS = 1
"""Steps that are not counted: the first batch is written to TensorBoard."""


@pytest.fixture
def recorder(monkeypatch):
    """The recorder class, with a new count; the waits of the block are counted."""
    waits = DeviceWaits()
    for name, value in {"waits": waits, "training": [], "validation": []}.items():
        monkeypatch.setattr(WaitRecorder, name, value)
    with waits, TensorCreations(waits):
        yield WaitRecorder


@pytest.mark.parametrize(
    ("overrides", "accumulate", "batches"),
    [
        (("model=lenet",), 1, 20),
        pytest.param(("model=lenet", "ema=0.9"), 1, 20, marks=pytest.mark.long),
        (("model=lenet", "trainer.gradient_clip_val=1.0", "optimizer=adamw"), 1, 20),
        pytest.param(("model=lenet", "trainer.accumulate_grad_batches=2"), 2, 20, marks=pytest.mark.long),
        pytest.param(("model=googlenet", "data.batch_size=32"), 1, 10, marks=pytest.mark.long),  # auxiliary heads
        (("model=lenet", "mixup=0.2", "cutmix=1.0", "class_weights=balanced"), 1, 20),
        pytest.param(("model=lenet", "focal_gamma=2", "data.balance=true"), 1, 20, marks=pytest.mark.long),
    ],
)
def test_step_waits_only_if_logged_and_once(job, recorder, overrides, accumulate, batches):
    job(
        *("trainer.max_epochs=1", f"trainer.limit_train_batches={batches}", "test=false"),
        *(*META, f"trainer.log_every_n_steps={LOG_EVERY}", *overrides),
    )
    waits = [after - before for before, after in itertools.pairwise(recorder.training)]
    assert len(waits) == batches - 1
    for batch, count in enumerate(waits[FIRST_STEPS:], FIRST_STEPS):
        is_logged = (batch + 1) % (LOG_EVERY * accumulate) == 0
        assert count == int(is_logged), f"batch {batch} of {waits}"


def test_validation_batches_do_not_wait(job, recorder):
    job("model=lenet", "trainer.max_epochs=1", "data.batch_size=16", "test=false", *META)
    waits = [after - before for before, after in itertools.pairwise(recorder.validation)]
    assert len(waits) == 2 + 9 - 1  # two batches of the sanity check
    assert waits[3:] == [0] * 7
