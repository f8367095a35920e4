"""`tune=lr` and `tune=batch_size`: what is found, and that the run is the one with that value typed."""

import json
from copy import deepcopy

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from cnnzoo import cli
from cnnzoo.errors import UserError
from cnnzoo.jobs.train import build_trial
from cnnzoo.models.lenet import LeNet
from cnnzoo.training import tune
from cnnzoo.training.device_defaults import Device

LENET = ("model=lenet", "trainer=cpu", "callbacks=minimal", "trainer.max_epochs=2")


def compose(run_dir, *overrides, resume=None):
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        cfg = hydra.compose("train", overrides=["model=lenet", "trainer=cpu", *overrides])
    cfg.run_dir = str(run_dir)
    if resume is not None:
        OmegaConf.update(cfg, "resume", resume)
    return cfg


def no_build(cfg):
    raise AssertionError("nothing is to be trained")


def test_steepest_rate_is_on_a_logarithmic_scale():
    exponents = torch.arange(-4, 1, 0.05)
    losses = 1.2 - torch.sigmoid(4 * (exponents + 2)) + torch.exp(8 * (exponents + 0.5))  # falls fastest at 0.01
    assert tune.steepest_rate((10**exponents).tolist(), losses.tolist()) == pytest.approx(0.01, rel=0.01)


def test_steepest_rate_ignores_what_is_not_finite():
    exponents = torch.arange(-4, 1, 0.05)
    losses = 1.2 - torch.sigmoid(4 * (exponents + 2))
    losses[90:] = float("nan")
    losses[20] = float("inf")
    assert tune.steepest_rate((10**exponents).tolist(), losses.tolist()) == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize("loss", [float("nan"), 1.0])
def test_steepest_rate_is_none_if_the_loss_never_falls(loss):
    assert tune.steepest_rate([0.01 * 1.1**n for n in range(100)], [loss] * 100) is None
    assert tune.steepest_rate([0.1], [2.0]) is None


def test_lr_is_found_saved_and_set(tmp_path):
    cfg = compose(tmp_path, "tune=lr")
    before = deepcopy(cfg)
    tune.apply_tuning(cfg, build_trial)
    saved = json.loads((tmp_path / "tuned.json").read_text())
    assert saved == {"optimizer.lr": cfg.optimizer.lr}
    assert 0.005 < cfg.optimizer.lr < 0.5  # lenet5 trains well with 0.1
    before.optimizer.lr = cfg.optimizer.lr
    assert cfg == before  # nothing else has changed
    assert {path.name for path in tmp_path.iterdir()} == {"tuned.json"}


@pytest.mark.long
@pytest.mark.parametrize(("limit", "size"), [(100, 64), (10**9, 1024)])
def test_batch_size_is_the_largest_that_fits(tmp_path, monkeypatch, limit, size):
    forward, tried = LeNet.forward, []

    def forward_if_it_fits(net, x):
        tried.append(len(x))
        if len(x) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return forward(net, x)

    monkeypatch.setattr(LeNet, "forward", forward_if_it_fits)
    monkeypatch.setattr(tune, "find_device", lambda accelerator: Device("cuda"))
    cfg = compose(tmp_path, "tune=batch_size")
    tune.apply_tuning(cfg, build_trial)
    assert cfg.data.batch_size == size
    assert json.loads((tmp_path / "tuned.json").read_text()) == {"data.batch_size": size}
    assert tried.count(size) >= 3
    assert max(tried) <= 2 * size


def test_resumed_run_uses_the_saved_value(tmp_path):
    (tmp_path / "tuned.json").write_text('{"optimizer.lr": 0.0123}')
    cfg = compose(tmp_path, "tune=lr", resume=["trainer.max_epochs=9"])
    tune.apply_tuning(cfg, no_build)
    assert cfg.optimizer.lr == 0.0123
    cfg = compose(tmp_path, "tune=lr", "optimizer.lr=0.5", resume=["optimizer.lr=0.5"])
    tune.apply_tuning(cfg, no_build)
    assert cfg.optimizer.lr == 0.5


def test_new_run_does_not_use_a_value_that_is_left_over(tmp_path):
    (tmp_path / "tuned.json").write_text('{"optimizer.lr": 0.0123}')
    with pytest.raises(AssertionError, match="nothing is to be trained"):
        tune.apply_tuning(compose(tmp_path, "tune=lr"), no_build)


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (("tune=lr", "trainer.devices=2"), "tune=lr: it uses one device; find the value with trainer.devices=1"),
        (("tune=lr", "trainer.fast_dev_run=true"), "tune=lr: trainer.fast_dev_run runs too few steps"),
        (("tune=lr", "optimizer.lr=0"), "tune=lr: it tries the rates around optimizer.lr; set that to a number > 0"),
        (("tune=batch_size",), "tune=batch_size: it fills a GPU's memory, and this run is on the CPU"),
    ],
)
def test_tuning_that_cannot_work_is_an_error(tmp_path, overrides, error):
    with pytest.raises(UserError, match=error):
        tune.apply_tuning(compose(tmp_path, *overrides), no_build)


def test_tuning_of_a_run_that_has_begun_is_an_error(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    with pytest.raises(UserError, match="tune=lr: the run has begun without it"):
        tune.apply_tuning(compose(tmp_path, "tune=lr", resume=["tune=lr"]), no_build)


@pytest.mark.long
def test_tuned_run_is_the_run_with_that_value_typed(fork, tmp_path):
    tuned = fork(*LENET, "tune=lr", "run_dir=tuned", cwd=tmp_path)
    assert tuned.returncode == 0, tuned.stderr
    assert tuned.stderr == ""
    lr = json.loads((tmp_path / "tuned/tuned.json").read_text())["optimizer.lr"]
    assert f"tune=lr: optimizer.lr={lr:g}" in tuned.stdout
    typed = fork(*LENET, f"optimizer.lr={lr}", "run_dir=typed", cwd=tmp_path)
    resumed = fork("resume=tuned", "trainer.max_epochs=3", cwd=tmp_path)
    longer = fork("resume=typed", "trainer.max_epochs=3", cwd=tmp_path)
    assert (typed.returncode, resumed.returncode, longer.returncode) == (0, 0, 0)
    one, other = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("tuned", "typed")
    )
    assert one["global_step"] == 60
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
