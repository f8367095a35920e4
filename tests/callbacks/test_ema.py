"""Tests of `EMA` together with Lightning's checkpoints; runs of the whole job are in tests/training/test_resume.py."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from cnnzoo.callbacks import EMA, CheckpointSaver
from cnnzoo.data import Digits
from cnnzoo.data.datamodule import DataModule
from cnnzoo.models import create_model
from cnnzoo.training.classifier import Classifier


def fit(dirpath, epochs, resume=None):
    """Train with EMA for `epochs` of 4 steps; returns (trainer, classifier, data)."""
    torch.manual_seed(0)
    data = DataModule(Digits, batch_size=300)
    data.set_input(image_size=32, channels=1)
    net = create_model("lenet5", in_channels=1)
    trainer = pl.Trainer(
        logger=False,
        max_epochs=epochs,
        accelerator="cpu",
        log_every_n_steps=1,
        callbacks=[EMA(0.9), CheckpointSaver(str(dirpath), monitor="val/acc1")],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    metadata = {"model": net.arguments, "preprocess": data.preprocess}
    classifier = Classifier(net, optimizer=partial(torch.optim.SGD, lr=0.1), metadata=metadata)
    trainer.fit(classifier, datamodule=data, ckpt_path=resume)
    return trainer, classifier, data


def test_ema_validate_and_test_of_checkpoint_use_the_average(tmp_path):
    trainer, classifier, data = fit(tmp_path, epochs=2)
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)
    classifier.load_state_dict(best["state_dict"])
    (expected,) = trainer.test(classifier, datamodule=data, verbose=False)
    (metrics,) = trainer.validate(classifier, datamodule=data, verbose=False, ckpt_path=tmp_path / "best.ckpt")
    assert metrics["val/acc1"] == pytest.approx(best["cnnzoo"]["metrics"]["val/acc1"])
    assert trainer.test(classifier, datamodule=data, verbose=False) == [expected]
    assert trainer.test(classifier, datamodule=data, verbose=False, ckpt_path=tmp_path / "best.ckpt") == [expected]


def test_ema_finished_run_resumes_from_the_raw_weights(tmp_path):
    fit(tmp_path / "short", epochs=1)
    _, extended, _ = fit(tmp_path / "short", epochs=2, resume=tmp_path / "short/last.ckpt")
    _, uninterrupted, _ = fit(tmp_path / "long", epochs=2)
    for name, value in uninterrupted.state_dict().items():
        assert torch.equal(extended.state_dict()[name], value), name
