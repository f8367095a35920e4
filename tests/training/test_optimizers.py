"""The optimizers of `conf/optimizer`: their groups, their steps, and their resumed state."""

import io
from copy import deepcopy
from functools import cache, partial

import hydra
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import cnnzoo
from cnnzoo import cli
from cnnzoo.errors import UserError
from cnnzoo.training import check_config
from cnnzoo.training.classifier import Classifier
from cnnzoo.training.optimizers import (
    build_optimizer,
    check_arguments,
    parameter_groups,
    update_saved_settings,
)
from tests.helpers.optimizers import needs_optim

NAMES = sorted(path.stem for path in (cli.CONF / "optimizer").glob("*.yaml"))
FAMILIES = sorted({cnnzoo.info(name).family for name in cnnzoo.list_models()})
each_optimizer = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_optim if name in ("lamb", "soap") else ()) for name in NAMES]
)


@cache
def compose(name):
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        return hydra.compose("train", overrides=["model=lenet", f"optimizer={name}"])


def factory(name):
    """The optimizer of the configuration, as the job calls it."""
    cfg = deepcopy(compose(name).optimizer)
    if "fused" in cfg:
        cfg.fused = None
    return cli.instantiate(cfg, "optimizer", _convert_="all")


def make_net(seed=0):
    """A small network without batch norm, so that the gradient of a batch is the mean of those of its parts."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))


def make_batches(count=16, size=8):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, size, 1, 8, 8, generator=generator)
    return list(zip(images, torch.randint(10, (count, size), generator=generator), strict=True))


def train_steps(net, optimizer, batches):
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()


class Gradients(pl.Callback):
    """Keeps the gradients that each step of the optimizer was given, the last one excepted."""

    def __init__(self):
        self.steps = []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        gradients = [parameter.grad for parameter in pl_module.parameters()]
        if all(gradient is not None for gradient in gradients):
            self.steps.append(torch.cat([gradient.flatten() for gradient in gradients]).clone())


def fit(name, batches, **options):
    """The network after an epoch, and the gradients of its steps."""
    gradients, net = Gradients(), make_net()
    loader = DataLoader(TensorDataset(*(torch.cat(part) for part in zip(*batches, strict=True))), len(batches[0][1]))
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[gradients], **options,
    )  # fmt: skip
    trainer.fit(Classifier(net, optimizer=factory(name)), loader)
    return net, gradients.steps


def is_norm_or_bias(net, name):
    """By the kind of the layer and the name, not by the shape as `parameter_groups` does."""
    module, _, parameter = name.rpartition(".")
    norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
    return isinstance(net.get_submodule(module), norms) or parameter == "bias"


@pytest.mark.parametrize("model", [*FAMILIES, "lenet5_paper"])
def test_groups_are_weights_and_norms_with_biases(model):
    name = next(name for name in cnnzoo.list_models() if model in (name, cnnzoo.info(name).family))
    with torch.device("meta"):
        net = cnnzoo.create_model(name)
    names = {parameter: name for name, parameter in net.named_parameters()}
    weights, others = ({names[p] for p in group["params"]} for group in parameter_groups(net))
    coefficients = {"s2.weight", "s4.weight"} if model == "lenet5_paper" else set()  # one per map, like a norm's
    assert others == {name for name in names.values() if is_norm_or_bias(net, name)} | coefficients
    assert weights == set(names.values()) - others
    assert [group.get("weight_decay", "as configured") for group in parameter_groups(net)] == ["as configured", 0.0]
    assert not any("weight_decay" in group for group in parameter_groups(net, decay_norm_bias=True))


def test_frozen_parameters_are_in_no_group():
    net = make_net()
    for parameter in net[0].parameters():
        parameter.requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(net)) == 4
    net[1].requires_grad_(False)
    net[4].bias.requires_grad_(False)
    assert len(parameter_groups(net)) == 1


def test_learning_rate_falls_geometrically_towards_the_first_layer():
    net = cnnzoo.create_model("resnet20")
    groups = parameter_groups(net, first_layer_lr_ratio=0.1)
    scales = [group["lr_scale"] for group in groups]
    assert len(groups) == 16
    assert scales[::2] == scales[1::2] == pytest.approx([0.1 ** (depth / 7) for depth in range(8)])
    parameters = [p for group in groups for p in group["params"]]
    assert len(parameters) == len(set(parameters)) == len(list(net.parameters()))
    of_parameter = {p: group["lr_scale"] for group in groups for p in group["params"]}
    in_order = [of_parameter[p] for p in net.parameters()]
    assert in_order == sorted(in_order)
    assert (of_parameter[net.conv1.weight], of_parameter[net.bn1.bias]) == pytest.approx((0.1, 0.1))
    assert (of_parameter[net.fc.weight], of_parameter[net.fc.bias]) == (1, 1)
    optimizer = build_optimizer(partial(torch.optim.SGD, lr=0.5), net, first_layer_lr_ratio=0.1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5 * scale for scale in scales])


@each_optimizer
@pytest.mark.parametrize("decay_norm_bias", [False, True])
def test_weight_decay_changes_only_its_groups(name, decay_norm_bias):
    net = make_net()
    nn.init.ones_(net[0].bias)
    nn.init.ones_(net[1].bias)
    optimizer = build_optimizer(factory(name), net, decay_norm_bias=decay_norm_bias)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    for _ in range(2):  # SOAP only prepares in the first step
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    changed = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == (set(before) if decay_norm_bias else {"0.weight", "4.weight"})
    assert all(net.state_dict()[key].norm() < before[key].norm() for key in changed)


@each_optimizer
def test_state_in_a_checkpoint_resumes_bit_identically(name):
    batches = make_batches()
    net = make_net().to(memory_format=torch.channels_last)
    optimizer = build_optimizer(factory(name), net)
    train_steps(net, optimizer, batches[:12])
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train_steps(net, optimizer, batches[12:])

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = make_net(seed=5).to(memory_format=torch.channels_last)
    other.load_state_dict(saved["net"])
    resumed = build_optimizer(factory(name), other)
    resumed.load_state_dict(saved["optimizer"])
    train_steps(other, resumed, batches[12:])
    for key, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


@each_optimizer
def test_accumulated_gradients_equal_those_of_one_batch(name):
    batches = make_batches()
    large = [tuple(torch.cat(part) for part in zip(*batches[n : n + 4], strict=True)) for n in range(0, 16, 4)]
    one, expected = fit(name, large, precision="64-true")
    net, gradients = fit(name, batches, accumulate_grad_batches=4, precision="64-true")
    assert len(gradients) == len(expected) == 3
    if name == "soap":  # the eigenvectors of the first gradient are not unique, so that rounding decides
        torch.testing.assert_close(gradients[:2], expected[:2], rtol=1e-9, atol=1e-12)
        return
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-12)
    initial = make_net().state_dict()
    for key, value in one.state_dict().items():
        change = (value - initial[key]).norm()
        assert (net.state_dict()[key] - value).norm() < 1e-9 * change, key


@each_optimizer
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
@pytest.mark.parametrize(("algorithm", "order"), [("norm", 2), ("value", float("inf"))])
def test_clipped_gradients_move_all_weights(name, precision, algorithm, order):
    net, gradients = fit(
        name,
        make_batches(),
        precision=precision,
        gradient_clip_val=0.01,
        gradient_clip_algorithm=algorithm,
        accumulate_grad_batches=2,
    )
    assert len(gradients) == 7
    for gradient in gradients:
        assert float(gradient.norm(order)) == pytest.approx(0.01, rel=0.02)  # it was larger
    dtype = {"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(precision, torch.float32)
    initial = make_net().to(dtype).state_dict()
    for key, value in net.state_dict().items():
        assert value.dtype == dtype
        assert value.isfinite().all()
        if precision != "bf16-true":  # there, a small step is lost in the rounding
            assert not torch.equal(value, initial[key]), key


@pytest.mark.parametrize(
    ("found", "overrides", "error"),
    [
        (None, (), r'optimizer: pytorch_optimizer\.Lamb is not installed; type pip install "cnnzoo\[optim\]"'),
        ("found", ("trainer=fsdp",), r"Lamb needs whole weights, .* type trainer=ddp or optimizer=adamw"),
    ],
)
def test_optimizer_that_cannot_run_is_an_error_at_once(monkeypatch, found, overrides, error):
    monkeypatch.setattr(check_config, "find_spec", lambda name: found)
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        cfg = hydra.compose("train", overrides=["optimizer=lamb", *overrides, "run_dir=x"])
    with pytest.raises(UserError, match=error):
        check_config.check_config(cfg)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"lr": 0.1, "nesterof": True}, "optimizer.nesterof=True: SGD has no such argument; expected lr, momentum, "),
        ({"fused": True}, None),
        ({"params": 1}, "optimizer.params=1: SGD has no such argument"),
    ],
)
def test_unknown_argument_is_an_error_before_the_call(arguments, error):
    optimizer = partial(torch.optim.SGD, **arguments)
    if error is None:
        check_arguments("optimizer", optimizer)
    else:
        with pytest.raises(UserError, match=error):
            check_arguments("optimizer", optimizer)


@pytest.mark.parametrize("arguments", [{"lr": -1.0}, {"lr": 0.1, "momentum": -1}, {"lr": 0.1, "nesterov": True}])
def test_rejected_value_is_reported_when_classifier_is_built(arguments):
    with pytest.raises(UserError, match=rf"^optimizer: .*optimizer\.lr={arguments['lr']}"):
        Classifier(make_net(), optimizer=partial(torch.optim.SGD, **arguments))


def resumed_groups(saved, new, schedule=None):
    """The groups of a checkpoint, after a run with the optimizer `new` has loaded it."""
    net = make_net()
    before, after = (build_optimizer(partial(torch.optim.AdamW, **settings), net) for settings in (saved, new))
    checkpoint = {"optimizer_states": [before.state_dict()], "lr_schedulers": []}
    if schedule is not None:
        checkpoint["lr_schedulers"] = [schedule(before).state_dict()]
        checkpoint["optimizer_states"] = [before.state_dict()]
    update_saved_settings(checkpoint, after)
    return checkpoint["optimizer_states"][0]["param_groups"], checkpoint["lr_schedulers"]


def test_resumed_run_keeps_saved_settings_that_are_unchanged():
    saved = {"lr": 0.3, "weight_decay": 0.1}
    groups, _ = resumed_groups(saved, saved)
    expected = build_optimizer(partial(torch.optim.AdamW, **saved), make_net()).state_dict()["param_groups"]
    assert groups == expected


def test_resumed_run_with_a_learning_rate_of_zero():
    groups, _ = resumed_groups({"lr": 0.0}, {"lr": 0.0})
    assert [group["lr"] for group in groups] == [0.0, 0.0]
    with pytest.raises(UserError, match="the run began with a learning rate of 0"):
        resumed_groups({"lr": 0.0}, {"lr": 0.1})


def test_resumed_run_takes_new_settings():
    groups, _ = resumed_groups({"lr": 0.3, "weight_decay": 0.1}, {"lr": 0.3, "weight_decay": 0.2, "betas": (0.8, 0.9)})
    assert [(group["weight_decay"], group["betas"]) for group in groups] == [(0.2, (0.8, 0.9)), (0.0, (0.8, 0.9))]


def test_resumed_run_scales_the_scheduled_learning_rate():
    def schedule(optimizer):
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
        optimizer.step()
        schedule.step()
        return schedule

    groups, (state,) = resumed_groups({"lr": 0.5}, {"lr": 2.0}, schedule)
    assert [(group["lr"], group["initial_lr"]) for group in groups] == [(1.0, 2.0)] * 2
    assert (state["base_lrs"], state["_last_lr"]) == ([2.0, 2.0], [1.0, 1.0])


def test_resumed_run_keeps_momentum_that_one_cycle_moves():
    schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.5, total_steps=10)
    groups, _ = resumed_groups({"lr": 0.5}, {"lr": 0.5}, schedule)
    assert [group["betas"][0] for group in groups] == [0.95, 0.95]
    assert [group["lr"] for group in groups] == pytest.approx([0.5 / 25] * 2)
