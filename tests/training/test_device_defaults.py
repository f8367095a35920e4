"""What `auto` means on each device, and that a value that is typed wins."""

from copy import deepcopy
from dataclasses import astuple
from functools import cache, partial
from types import SimpleNamespace

import hydra
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.strategies import DDPStrategy

from cnnzoo import cli
from cnnzoo.training import device_defaults
from cnnzoo.training.classifier import Classifier
from cnnzoo.training.device_defaults import Device, DeviceSettings, apply_device_defaults, resolve_settings
from cnnzoo.training.run_summary import device_summary
from cnnzoo.training.train import build_strategy

CPU, MPS, OLD_GPU, GPU = Device("cpu"), Device("mps"), Device("cuda"), Device("cuda", has_bf16=True)


@pytest.mark.parametrize(
    ("device", "typed", "used"),  # used: precision, channels last, fused, benchmark, TF32
    [
        (CPU, {}, ("32-true", True, None, None, None)),
        (CPU, {"precision": "bf16-mixed"}, ("bf16-mixed", True, None, None, None)),
        (CPU, {"fused": True, "benchmark": True, "tf32": True}, ("32-true", True, True, True, True)),
        (CPU, {"channels_last": False}, ("32-true", False, None, None, None)),
        (MPS, {}, ("32-true", True, None, None, None)),
        (GPU, {}, ("bf16-mixed", True, True, True, None)),
        (GPU, {"precision": "32-true"}, ("32-true", True, True, True, True)),
        (GPU, {"precision": 32}, (32, True, True, True, True)),
        (GPU, {"precision": None}, (None, True, True, True, True)),
        (GPU, {"precision": 32, "tf32": False}, (32, True, True, True, False)),
        (GPU, {"precision": "64-true"}, ("64-true", True, True, True, None)),
        (GPU, {"precision": "16-mixed"}, ("16-mixed", True, None, True, None)),
        (GPU, {"precision": 16}, (16, True, None, True, None)),
        (GPU, {"precision": "16-mixed", "fused": True}, ("16-mixed", True, True, True, None)),
        (GPU, {"fused": False, "channels_last": False}, ("bf16-mixed", False, False, True, None)),
        (GPU, {"fused": None, "benchmark": None, "tf32": None}, ("bf16-mixed", True, None, None, None)),
        (GPU, {"benchmark": False}, ("bf16-mixed", True, True, False, None)),
        (GPU, {"deterministic": True}, ("bf16-mixed", True, True, None, None)),
        (GPU, {"deterministic": True, "benchmark": True}, ("bf16-mixed", True, True, True, None)),
        (GPU, {"can_fuse": False}, ("bf16-mixed", True, None, True, None)),
        (OLD_GPU, {}, ("32-true", True, True, True, None)),
        (OLD_GPU, {"precision": "bf16-mixed"}, ("bf16-mixed", True, True, True, None)),
        (OLD_GPU, {"precision": "16-mixed"}, ("16-mixed", True, None, True, None)),
        (OLD_GPU, {"tf32": True}, ("32-true", True, True, True, True)),
    ],
)
def test_auto_follows_the_device(device, typed, used):
    facts = {name: typed[name] for name in ("deterministic", "can_fuse") if name in typed}
    settings = DeviceSettings(**{name: value for name, value in typed.items() if name not in facts})
    assert astuple(resolve_settings(device, settings, **facts))[:-1] == used


@pytest.mark.parametrize(
    ("device", "typed", "used"), [(GPU, "auto", 50), (CPU, "auto", 10), (GPU, 7, 7), (CPU, None, None)]
)
def test_log_interval_is_longer_on_a_gpu(device, typed, used):
    assert resolve_settings(device, DeviceSettings(log_every_n_steps=typed)).log_every_n_steps == used


@cache
def compose_once(*overrides):
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        return hydra.compose("train", overrides=["model=lenet", *overrides])


@pytest.fixture
def apply(monkeypatch):
    """`apply(device, *overrides, remove=[...])`: the configuration as a job uses it on `device`."""
    precision, allow_tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    def apply_on(device, *overrides, remove=()):
        monkeypatch.setattr(device_defaults, "find_device", lambda accelerator: device)
        cfg = deepcopy(compose_once(*overrides))
        OmegaConf.set_struct(cfg, False)
        for key in remove:
            parent, _, name = key.rpartition(".")
            del (OmegaConf.select(cfg, parent) if parent else cfg)[name]
        OmegaConf.set_struct(cfg, True)
        apply_device_defaults(cfg)
        return cfg

    yield apply_on
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = allow_tf32


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_configuration_has_the_used_values(optimizer, apply):
    cfg = apply(GPU, f"optimizer={optimizer}")
    assert (cfg.trainer.precision, cfg.trainer.benchmark, cfg.trainer.devices) == ("bf16-mixed", True, 1)
    assert (cfg.channels_last, cfg.optimizer.fused, cfg.tf32) == (True, True, None)
    cfg = apply(CPU, f"optimizer={optimizer}")
    assert (cfg.trainer.precision, cfg.trainer.benchmark, cfg.trainer.devices) == ("32-true", None, 1)
    assert (cfg.channels_last, cfg.optimizer.fused, cfg.tf32) == (True, None, None)


def test_configuration_of_an_earlier_version_keeps_its_meaning(apply):
    old = ("trainer.precision=null", "trainer.benchmark=null", "channels_last=true")
    cfg = apply(GPU, *old, remove=["tf32", "optimizer.fused"])
    assert (cfg.trainer.precision, cfg.trainer.benchmark, cfg.channels_last) == (None, None, True)
    assert "tf32" not in cfg
    assert "fused" not in cfg.optimizer


@pytest.mark.parametrize(
    ("overrides", "fused"),
    [
        (["+optimizer.foreach=true"], None),
        (["trainer=fsdp"], None),
        (["optimizer._target_=torch.optim.NAdam"], "no key"),
        (["optimizer._target_=torch.optim.NAdam", "optimizer.fused=true"], True),
    ],
)
def test_fused_is_off_where_the_optimizer_has_no_such_form(overrides, fused, apply):
    assert apply(GPU, *overrides).optimizer.get("fused", "no key") == fused


def test_precision_plugin_gets_no_precision(apply):
    assert apply(GPU, "trainer.plugins=[]").trainer.precision is None


@pytest.mark.parametrize(("tf32", "matmul"), [("auto", "high"), ("true", "high"), ("false", "highest"), ("null", None)])
def test_tf32_sets_the_switches_of_torch(tf32, matmul, apply):
    for before in ("highest", "high"):
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = before == "high"
        apply(GPU, "trainer.precision=32", f"tf32={tf32}")
        assert torch.get_float32_matmul_precision() == (matmul or before)
        assert torch.backends.cudnn.allow_tf32 == ((matmul or before) == "high")
        apply(CPU, "trainer.precision=32", "tf32=false")
        assert torch.get_float32_matmul_precision() == (matmul or before)


@pytest.mark.parametrize(
    ("accelerator", "mps", "cuda", "device"),
    [
        ("auto", False, True, GPU),
        ("gpu", False, True, GPU),
        ("cuda", True, True, GPU),
        ("cpu", True, True, CPU),
        ("auto", True, False, MPS),
        ("gpu", True, False, MPS),
        ("auto", False, False, CPU),
    ],
)
def test_device_is_the_one_that_lightning_chooses(accelerator, mps, cuda, device, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    assert device_defaults.find_device(accelerator) == device


@pytest.mark.parametrize(
    ("device", "overrides", "text"),
    [
        (GPU, (), "1 x NVIDIA H100 80GB HBM3, precision bf16-mixed, channels last, fused optimizer, cuDNN benchmark"),
        (
            GPU,
            ("trainer.precision=32-true",),
            "1 x NVIDIA H100 80GB HBM3, precision 32-true, channels last, fused optimizer, TF32, cuDNN benchmark",
        ),
        (CPU, (), "1 x CPU, 2 threads, precision 32-true, channels last"),
        (CPU, ("channels_last=false", "tf32=true", "trainer.benchmark=true"), "1 x CPU, 2 threads, precision 32-true"),
    ],
)
def test_table_names_what_is_used(device, overrides, text, apply, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    cfg = apply(device, *overrides)
    strategy = SimpleNamespace(root_device=torch.device(device.type))
    trainer = SimpleNamespace(strategy=strategy, world_size=1, precision=cfg.trainer.precision)
    assert device_summary(trainer, cfg) == text
    assert len(text) <= 120


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_fused_optimizer_clips_gradients_under_bf16(optimizer):
    norms = []

    class GradientNorms(pl.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            norms.append(torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None]))

    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    classifier = Classifier(net, optimizer=lambda groups: optimizer(groups, lr=0.1, fused=True))
    batches = torch.utils.data.DataLoader([(10 * torch.rand(1, 8, 8), n) for n in range(10)], batch_size=5)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        precision="bf16-mixed",
        gradient_clip_val=0.01,
        callbacks=[GradientNorms()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(classifier, batches)
    assert classifier.trainer.optimizers[0].defaults["fused"]
    assert norms[-1] == pytest.approx(0.01, rel=1e-3)  # of the first step, before its gradient is dropped


@pytest.mark.parametrize(("saved", "typed"), [(None, True), (True, None)])
def test_resumed_optimizer_is_fused_as_its_device_wants(saved, typed):
    weights = [torch.nn.Parameter(torch.ones(3))]
    weights[0].grad = torch.ones(3)
    optimizer = torch.optim.AdamW(weights, fused=saved)
    optimizer.step()
    checkpoint = {"train_means": {}, "optimizer_states": [optimizer.state_dict()]}
    factory = partial(torch.optim.AdamW, fused=typed)
    Classifier(torch.nn.Linear(3, 1, bias=False), optimizer=factory).on_load_checkpoint(checkpoint)
    optimizer = factory(weights)
    optimizer.load_state_dict(checkpoint["optimizer_states"][0])
    assert [group["fused"] for group in optimizer.param_groups] == [typed]


@pytest.mark.parametrize(
    ("overrides", "views"),
    [
        ((), None),
        (("trainer=ddp",), True),
        (("trainer.devices=2",), True),
        (("trainer.strategy=ddp",), True),
        (("trainer.strategy=ddp_find_unused_parameters_true", "trainer.devices=2"), None),
        (("trainer=fsdp",), None),
    ],
)
def test_ddp_reduces_gradients_in_place(overrides, views):
    trainer = compose_once(*overrides).trainer
    strategy = build_strategy(trainer)
    assert isinstance(strategy, DDPStrategy) == (views is not None)
    if views:
        assert strategy._ddp_kwargs["gradient_as_bucket_view"]
    else:
        assert strategy == trainer.strategy
