"""Each training option lets a ResNet learn the digits."""

import json

import pytest

pytestmark = pytest.mark.long
OPTIONS = {
    "mixup": ("mixup=0.2",),
    "cutmix": ("cutmix=1.0",),
    "mixup and cutmix": ("mixup=0.2", "cutmix=1.0"),
    "random erasing": ("augment.random_erase=0.5",),
    "label smoothing": ("label_smoothing=0.1",),
    "focal loss": ("focal_gamma=2",),
    "class weights": ("class_weights=balanced",),
    "balanced classes": ("data.balance=true",),
    "test-time flip": ("test_time_flip=true", "augment.flip=0.5"),
    "gradient checkpointing": ("gradient_checkpointing=true",),
    "accumulation": ("trainer.accumulate_grad_batches=2",),
    "clipping": ("trainer.gradient_clip_val=1.0",),
    "ema": ("ema=0.95",),
    "rmsprop": ("optimizer=rmsprop",),
    "lamb": ("optimizer=lamb",),
    "soap": ("optimizer=soap",),
    "adamw": ("optimizer=adamw",),
    "polynomial": ("scheduler=polynomial",),
    "plateau": ("scheduler=plateau",),
    "one cycle": ("scheduler=one_cycle",),
    "step": ("scheduler=step",),
    "early stopping": ("callbacks.early_stopping.patience=5",),
    "start size": ("data.start_size=12",),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_option_reaches_95_percent(job, tmp_path, option):
    job(
        *("model=resnet", "model.name=resnet20", "data.image_size=16", "trainer.max_epochs=15", "data.batch_size=32"),
        *OPTIONS[option],
    )
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test/acc1"] >= 0.95
