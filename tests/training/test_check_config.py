"""The checks of a job's settings before anything is built: each wrong value is one line that names its key."""

import subprocess
import sys
from copy import deepcopy
from functools import cache
from types import SimpleNamespace

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from cnnzoo import cli
from cnnzoo.errors import UserError
from cnnzoo.training.check_config import check_accelerator, check_config
from tests.helpers import ROOT

CALLBACK = "+callbacks.x._target_=pytorch_lightning.callbacks"


@cache
def compose_groups(*overrides):
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        return hydra.compose("train", overrides=["model=lenet", *overrides])


def compose(*overrides):
    """The configuration with these overrides; composing once per choice of groups is several times faster."""
    groups = [override for override in overrides if "." not in override.partition("=")[0]]
    keys = [override.lstrip("+") for override in overrides if override not in groups]
    cfg = deepcopy(compose_groups(*groups))
    OmegaConf.set_struct(cfg, False)
    return OmegaConf.merge(cfg, OmegaConf.from_dotlist(keys))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.max_epochs=0"], "trainer.max_epochs=0: expected a number of epochs >= 1, or -1 (until"),
        (["trainer.max_epochs=2.5"], "trainer.max_epochs=2.5: expected a number of epochs >= 1"),
        (["trainer.max_epochs=true"], "trainer.max_epochs=True: expected a number of epochs >= 1"),
        (["trainer.max_epochs=null"], "trainer.max_epochs=None: the learning-rate schedule needs a number of steps"),
        (["trainer.max_epochs=-1"], "trainer.max_epochs=-1: the learning-rate schedule needs a number of steps"),
        (["trainer.max_steps=0"], "trainer.max_steps=0: expected a whole number >= 1 or -1"),
        (["trainer.max_time=1h"], "trainer.max_time=1h: expected days:hours:minutes:seconds"),
        (["trainer.limit_train_batches=0"], "trainer.limit_train_batches=0: expected a number of batches >= 1, or a"),
        (["trainer.limit_train_batches=0.0"], "trainer.limit_train_batches=0.0: expected a number of batches >= 1"),
        (["trainer.limit_val_batches=-1"], "trainer.limit_val_batches=-1: expected a number of batches >= 0"),
        (["trainer.limit_val_batches=1.5"], "or a fraction of them from 0.0 to 1.0"),
        (["trainer.overfit_batches=abc"], "trainer.overfit_batches=abc: expected a number of batches"),
        (["trainer.val_check_interval=0"], "trainer.val_check_interval=0: expected a number of batches >= 1"),
        (["trainer.check_val_every_n_epoch=0"], "trainer.check_val_every_n_epoch=0: expected a whole number >= 1"),
        (["trainer.num_sanity_val_steps=-2"], "trainer.num_sanity_val_steps=-2: expected a whole number >= 0 or -1"),
        (["trainer.log_every_n_steps=0"], "trainer.log_every_n_steps=0: expected a whole number >= 1"),
        (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches=0: expected a whole number >= 1"),
        (["trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val=-1: expected a number >= 0"),
        (["trainer.gradient_clip_algorithm=x"], "trainer.gradient_clip_algorithm=x: expected norm or value"),
        (["trainer.devices=0"], "trainer.devices=0: expected a whole number >= 1 or auto"),
        (["trainer.devices=abc"], "trainer.devices=abc: expected a number of devices, auto, or"),
        (["trainer.accelerator=tpu"], "trainer.accelerator=tpu: expected auto, cpu, gpu, cuda or mps"),
        (["trainer.strategy=ddp_spawn"], "trainer.strategy=ddp_spawn: expected auto or ddp; type trainer=fsdp"),
        (["trainer.precision=abc"], "trainer.precision=abc: expected auto, 16, 16-true"),
        (["trainer.profiler=abc"], "trainer.profiler=abc: expected None, simple, advanced or pytorch"),
        (["trainer.deterministic=maybe"], "trainer.deterministic=maybe: expected True, False or warn"),
        (["trainer.enable_checkpointing=maybe"], "trainer.enable_checkpointing=maybe: expected true or false"),
        (["trainer.enable_checkpointing=false"], "to save no checkpoints, type callbacks.checkpoint=null"),
        (["trainer.fast_dev_run=abc"], "trainer.fast_dev_run=abc: expected a whole number >= 1"),
        (["trainer.barebones=true"], "trainer.barebones=true: Lightning then takes neither callbacks nor metrics"),
        (["trainer.use_distributed_sampler=true"], "trainer.use_distributed_sampler=true: the devices already get"),
        (["+trainer.logger=false"], "trainer.logger=False: set by another group; type logger=..., or logger=none"),
        (["+trainer.callbacks=null"], "trainer.callbacks=None: set by another group; type callbacks=..."),
        (["optimizer.lr=abc"], "optimizer.lr=abc: expected a number >= 0"),
        (["optimizer.lr=inf"], "optimizer.lr=inf: expected a number >= 0"),
        (["optimizer.weight_decay=-1"], "optimizer.weight_decay=-1: expected a number >= 0"),
        (["optimizer.momentum=1"], "optimizer.momentum=1: expected a number >= 0 and < 1"),
        (
            ["optimizer.momentum=0"],
            "optimizer.momentum=0: Nesterov momentum needs momentum; also type optimizer.nester",
        ),
        (["optimizer.nesterov=maybe"], "optimizer.nesterov=maybe: expected true or false"),
        (["optimizer=adamw", "optimizer.betas=0.9"], "optimizer.betas=0.9: expected two numbers >= 0 and < 1"),
        (["optimizer=adamw", "+optimizer.eps=0"], "optimizer.eps=0: expected a number > 0"),
        (["scheduler.warmup_epochs=abc"], "scheduler.warmup_epochs=abc: expected a number >= 0"),
        (["scheduler.warmup_epochs=31"], "expected a number >= 0 and <= 30 (the training has 30 epochs)"),
        (["scheduler.min_lr_ratio=2"], "scheduler.min_lr_ratio=2: expected a number >= 0 and <= 1"),
        (["scheduler=step", "scheduler.gamma=-1"], "scheduler.gamma=-1: expected a number >= 0"),
        (["scheduler=step", "scheduler.milestones=[30]"], "scheduler.milestones=[30]: expected fractions of the train"),
        (["seed=-1"], "seed=-1: expected a whole number from 0 to 4294967295"),
        (["label_smoothing=2"], "label_smoothing=2: expected a number >= 0 and < 1"),
        (["ema=2"], "ema=2: expected a number > 0 and < 1 such as 0.999, or null"),
        (["compile=maybe"], "compile=maybe: expected false, true, default, reduce-overhead or max-autotune"),
        (["compile=1"], "compile=1: expected false, true, default, reduce-overhead or max-autotune"),
        (
            ["compile=reduce-overhead", "trainer.accumulate_grad_batches=2"],
            "compile=reduce-overhead: its CUDA graphs overwrite gradients that are still being accumulated; type",
        ),
        (["test=no"], "test=no: expected true or false"),
        (["channels_last=maybe"], "channels_last=maybe: expected auto, true or false"),
        (["tf32=high"], "tf32=high: expected auto, true or false"),
        (["trainer.benchmark=maybe"], "trainer.benchmark=maybe: expected auto, true or false"),
        (["optimizer.fused=1"], "optimizer.fused=1: expected auto, true or false"),
        (
            ["optimizer.fused=true", "trainer.precision=16"],
            "optimizer.fused=true: with trainer.precision=16 the optimizer unscales the gradients itself, too late",
        ),
        (["optimized_metric=val/acc"], "optimized_metric=val/acc: expected val/acc1, val/acc5, val/balanced_acc"),
        (["model.args=5"], "model.args=5: expected a group of keys"),
        (["data.augment=abc"], "data.augment=abc: expected a group of keys"),
        (["model.recipe=null"], "the configuration has a reference without a value: "),
        (["+callbacks.x=1"], "callbacks.x=1: expected null, or keys"),
        (
            [f"{CALLBACK}.LearningRateFinder"],
            "callbacks.x: LearningRateFinder does not work with this pipeline; type tune=lr",
        ),
        (
            [f"{CALLBACK}.BatchSizeFinder"],
            "callbacks.x: BatchSizeFinder does not work with this pipeline; type tune=batch_size",
        ),
        (
            [f"{CALLBACK}.ModelPruning"],
            "callbacks.x: ModelPruning cannot prune channels-last weights; type channels_last",
        ),
        (
            [f"{CALLBACK}.RichProgressBar"],
            "callbacks.x: only one progress bar is possible; also type callbacks.progress",
        ),
        (
            [f"{CALLBACK}.BackboneFinetuning"],
            "callbacks.x: BackboneFinetuning does not work with this pipeline; set mo",
        ),
        (["callbacks.checkpoint.monitor=foo"], "callbacks.checkpoint.monitor=foo: expected val/acc1, val/acc5, val"),
        (
            [f"{CALLBACK}.EarlyStopping", "+callbacks.x.monitor=val/los"],
            "callbacks.x.monitor=val/los: unknown metric 'val/los': did you mean val/loss",
        ),
        (
            [f"{CALLBACK}.EarlyStopping", "+callbacks.x.monitor=val/acc1"],
            "callbacks.x.monitor=val/acc1: also type +callbacks.x.mode=max",
        ),
    ],
)
def test_wrong_value_is_one_line_with_its_key(overrides, message):
    with pytest.raises(UserError) as error:
        check_config(compose(*overrides))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["trainer=ddp"],
        ["trainer=gpu"],
        ["trainer=profile"],
        ["debug=fast"],
        ["debug=overfit"],
        ["callbacks=none", "logger=none"],
        ["optimizer=adamw"],
        *[[f"scheduler={name}"] for name in ("cosine", "one_cycle", "step", "constant")],
        ["trainer.max_epochs=-1", "trainer.max_steps=5"],
        ["trainer.max_time='00:00:10:00'", "trainer.limit_val_batches=0", "trainer.limit_train_batches=0.5"],
        ["trainer.devices='0,1'"],
        *[[f"compile={mode}"] for mode in ("true", "false", "default", "reduce-overhead", "max-autotune")],
        ["compile=default", "trainer.accumulate_grad_batches=2"],
        ["tf32=true", "channels_last=false", "trainer.benchmark=false", "optimizer.fused=false"],
        ["tf32=null", "trainer.precision=null", "trainer.benchmark=null", "optimizer.fused=null"],
        ["tf32=auto", "channels_last=auto", "trainer.precision=auto", "trainer.benchmark=auto", "optimizer.fused=auto"],
        ["optimizer.fused=true", "trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1"],
        ["trainer.devices=[0,1]", "trainer.precision=16", "trainer.deterministic=warn"],
        ["trainer.val_check_interval=0.5", "trainer.gradient_clip_val=1", "trainer.fast_dev_run=2"],
        [f"{CALLBACK}.EarlyStopping", "+callbacks.x.monitor=val/acc1", "+callbacks.x.mode=max"],
        [f"{CALLBACK}.ModelCheckpoint"],
    ],
)
def test_right_values_pass(overrides):
    check_config(compose(*overrides))


def test_check_config_does_not_import_torch():
    command = "import sys, cnnzoo.training.check_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("num_gpus", "cuda", "accelerator", "devices", "message"),
    [
        (0, "13.0", "gpu", 1, "trainer.accelerator=gpu: torch finds no such device; type trainer=cpu, or trainer=def"),
        (
            0,
            None,
            "cuda",
            8,
            "trainer.accelerator=cuda: torch finds no such device (this build of torch is for the CPU",
        ),
        (0, None, "mps", 1, "trainer.accelerator=mps: torch finds no such device"),
        (2, "13.0", "gpu", 8, "trainer.devices=8: this machine has 2 GPUs, numbered from 0; type trainer.devices=auto"),
        (1, "13.0", "gpu", [1], "trainer.devices=[1]: this machine has 1 GPU,"),
    ],
)
def test_missing_device_names_the_way_out(num_gpus, cuda, accelerator, devices, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch, "version", SimpleNamespace(cuda=cuda, hip=None))
    with pytest.raises(UserError) as error:
        check_accelerator(OmegaConf.create({"accelerator": accelerator, "devices": devices}))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("devices", ["auto", -1, "-1", 1, 2, "2", [1], "0,1"])
def test_existing_devices_pass(devices, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_accelerator(OmegaConf.create({"accelerator": "gpu", "devices": devices}))
