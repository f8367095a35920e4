"""Defaults of runs that start from pretrained weights."""

import json
import logging

import pytest
import torch
from omegaconf import open_dict

import cnnzoo
from cnnzoo.errors import UserError
from cnnzoo.training.finetune import apply_finetune_defaults, freeze_callbacks
from tests.training.test_recipes import compose_config


@pytest.fixture(scope="session")
def five_classes(tmp_path_factory):
    """A file with weights of lenet5 for grey images in five classes."""
    path = tmp_path_factory.mktemp("weights") / "lenet5.pth"
    torch.save(cnnzoo.create_model("lenet5", num_classes=5, in_channels=1).state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("overrides", "lr", "epochs", "ratio"),
    [
        ((), 0.05, 10, 1.0),
        (("model.weights=W.pth",), 0.005, 5, 0.1),
        (("model.weights=W.pth", "optimizer=adamw"), 1e-4, 5, 0.1),
        (("model.weights=W.pth", "optimizer.lr=0.3", "trainer.max_epochs=7"), 0.3, 7, 0.1),
        (("model.weights=W.pth", "first_layer_lr_ratio=0.5"), 0.005, 5, 0.5),
        (("model.weights=W.pth", "experiment=transfer"), 0.005, 10, 0.1),
    ],
)
def test_finetune_defaults_yield_to_typed_values(overrides, lr, epochs, ratio):
    cfg = compose_config(*overrides)
    apply_finetune_defaults(cfg)
    assert (cfg.optimizer.lr, cfg.trainer.max_epochs) == (pytest.approx(lr), epochs)
    assert cfg.first_layer_lr_ratio == ratio


def test_finetune_trains_a_new_head_first(job, five_classes, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    job("model=lenet", f"model.weights={five_classes}", "trainer.max_epochs=2", "test=false")
    assert "training only output.bias, output.weight for 1 epoch" in caplog.text
    assert "training all layers" in caplog.text
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["epochs"] == 2


def test_finetune_keeps_a_head_that_fits(job, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "ten_classes.pth"
    torch.save(cnnzoo.create_model("lenet5", num_classes=10, in_channels=1).state_dict(), path)
    job("model=lenet", f"model.weights={path}", "trainer.max_epochs=2", "trainer.limit_train_batches=2", "test=false")
    assert "training only" not in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model=lenet", "freeze_epochs=1"), "freeze_epochs=1: the weights are random; type model.weights=FILE"),
        (("model=lenet", "freeze_epochs=some"), "freeze_epochs=some: expected"),
        (("model=lenet", "first_layer_lr_ratio=0"), "first_layer_lr_ratio=0: expected a number > 0 and <= 1"),
    ],
)
def test_finetune_setting_that_cannot_work_is_an_error(job, overrides, message):
    with pytest.raises(UserError, match=message):
        job(*overrides)


def test_transfer_without_weights_is_an_error(job):
    with pytest.raises(UserError, match=r"freeze_epochs=1: the weights are random; type model\.weights=FILE"):
        job("experiment=transfer", "model=lenet")


def test_configuration_of_an_earlier_version_is_not_changed():
    cfg = compose_config("model.weights=W.pth")
    for key in ("first_layer_lr_ratio", "freeze_epochs"):
        with open_dict(cfg):
            del cfg[key]
    before = cfg.copy()
    apply_finetune_defaults(cfg)
    assert cfg == before
    assert freeze_callbacks(cfg, cnnzoo.create_model("resnet20")) == []
