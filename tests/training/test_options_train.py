"""Each training option trains a network to an accuracy that shows that it works."""

import json

import pytest

from tests.helpers.optimizers import needs_optim

pytestmark = pytest.mark.long
RESNET20 = ("model=resnet", "model.name=resnet20", "trainer=cpu", "callbacks=minimal", "trainer.max_epochs=8")


@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer=rmsprop",),
        pytest.param(("optimizer=lamb",), marks=needs_optim),
        pytest.param(("optimizer=soap", "trainer.gradient_clip_val=1"), marks=needs_optim),
        ("scheduler=polynomial",),
        ("scheduler=plateau", "scheduler.warmup_epochs=1", "scheduler.patience=1"),
        ("callbacks.early_stopping.patience=4", "scheduler=plateau", "scheduler.patience=1", "trainer.max_epochs=16"),
        ("decay_norm_bias=true", "trainer.accumulate_grad_batches=2", "data.batch_size=32"),
        ("first_layer_lr_ratio=0.1",),
        ("tune=lr",),
        ("mixup=0.2",),
        ("cutmix=1.0",),
        ("mixup=0.2", "cutmix=1.0", "label_smoothing=0.1", "ema=0.95"),
        ("augment.random_erase=0.5",),
        ("focal_gamma=2",),
        ("class_weights=balanced", "data.balance=true"),
        ("test_time_flip=true", "augment.flip=0.5", "trainer.max_epochs=12"),
        ("gradient_checkpointing=true",),
        ("data.start_size=12",),
    ],
    ids=" ".join,
)
def test_option_trains_resnet20_to_95_percent(overrides, fork, tmp_path):
    process = fork(*RESNET20, *overrides, "run_dir=run", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["test/acc1"] >= 0.95
