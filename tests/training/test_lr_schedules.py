"""The learning rate at every step, against the formulas."""

import math

import pytest
import torch

from cnnzoo.errors import UserError
from cnnzoo.training import lr_schedules

PEAK = 0.5


def learning_rates(schedule, steps=100, **options):
    optimizer = sgd()
    scheduler = schedule(optimizer, total_steps=steps, steps_per_epoch=10, **options)
    lrs = []
    for _ in range(steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return lrs


def sgd(momentum=0.9):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK, momentum=momentum)


def test_cosine_warmup_is_linear_and_end_is_min_lr_ratio():
    lrs = learning_rates(lr_schedules.cosine, warmup_epochs=2, min_lr_ratio=0.1)
    assert lrs[:3] == pytest.approx([PEAK / 21, PEAK * 2 / 21, PEAK * 3 / 21])
    assert lrs[20] == pytest.approx(PEAK)
    assert lrs[60] == pytest.approx(PEAK * (0.1 + 0.9 * (1 + math.cos(math.pi * 40 / 80)) / 2))
    assert lrs[99] == pytest.approx(PEAK * (0.1 + 0.9 * (1 + math.cos(math.pi * 79 / 80)) / 2))


def test_cosine_default_warmup_is_a_tenth():
    lrs = learning_rates(lr_schedules.cosine)
    assert lrs[9] < lrs[10] == pytest.approx(PEAK)
    assert lrs[11] < PEAK


def test_cosine_with_one_step_uses_the_peak():
    assert learning_rates(lr_schedules.cosine, steps=1) == [PEAK]


def test_step_multiplies_by_gamma_at_milestones():
    lrs = learning_rates(lr_schedules.step, warmup_epochs=0, milestones=[0.5, 0.75], gamma=0.1)
    assert lrs[49] == pytest.approx(PEAK)
    assert lrs[50] == lrs[74] == pytest.approx(PEAK * 0.1)
    assert lrs[75] == lrs[99] == pytest.approx(PEAK * 0.01)


@pytest.mark.parametrize(("warmup_epochs", "peak_step"), [(2, 19), (None, 29)])
def test_one_cycle_peak_is_at_the_end_of_warmup(warmup_epochs, peak_step):
    lrs = learning_rates(lr_schedules.one_cycle, warmup_epochs=warmup_epochs)
    assert max(range(100), key=lrs.__getitem__) == peak_step
    assert lrs[peak_step] == pytest.approx(PEAK)
    assert lrs[-1] < PEAK / 1000


def test_one_cycle_leaves_an_unused_momentum_alone():
    optimizer = sgd(momentum=0)
    lr_schedules.one_cycle(optimizer, total_steps=100, steps_per_epoch=10)
    assert optimizer.param_groups[0]["momentum"] == 0


@pytest.mark.parametrize("power", [1, 2, 0.5])
def test_polynomial_falls_with_the_power_of_what_is_left(power):
    lrs = learning_rates(lr_schedules.polynomial, warmup_epochs=2, power=power, min_lr_ratio=0.1)
    assert lrs[:2] == pytest.approx([PEAK / 21, PEAK * 2 / 21])
    assert lrs[20] == pytest.approx(PEAK)
    assert lrs[60] == pytest.approx(PEAK * (0.1 + 0.9 * 0.5**power))
    assert lrs[99] == pytest.approx(PEAK * (0.1 + 0.9 * (1 / 80) ** power))


def plateau_rates(optimizer, schedules, metrics):
    """The rate at the end of each epoch of 10 steps."""
    lrs = []
    for metric in metrics:
        for _ in range(10):
            optimizer.step()
            if len(schedules) == 2:
                schedules[0]["scheduler"].step()
        schedules[-1]["scheduler"].step(metric)
        lrs.append(optimizer.param_groups[0]["lr"])
    return lrs


@pytest.mark.parametrize(("monitor", "sign"), [("val/acc1", 1), ("val/loss", -1), ("val/f1", 1)])
def test_plateau_waits_for_patience_validations(monitor, sign):
    optimizer = sgd()
    schedules = lr_schedules.plateau(
        optimizer, total_steps=90, steps_per_epoch=10, monitor=monitor, patience=1, gamma=0.5, min_lr_ratio=0.2
    )
    assert [{**schedule, "scheduler": None} for schedule in schedules] == [
        {"scheduler": None, "interval": "epoch", "monitor": monitor, "frequency": 1}
    ]
    metrics = [1 + sign * metric for metric in (0.5, 0.6, 0.6, 0.7, 0.7, 0.6, 0.5, 0.7, 0.7, 0.7, 0.7, 0.7)]
    ratios = [1, 1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]
    assert plateau_rates(optimizer, schedules, metrics) == pytest.approx([PEAK * ratio for ratio in ratios])


def test_plateau_reduces_within_the_warmup_too():
    optimizer = sgd()
    schedules = lr_schedules.plateau(
        optimizer, total_steps=100, steps_per_epoch=10, monitor="val/loss", patience=0, gamma=0.5, warmup_epochs=2
    )
    assert optimizer.param_groups[0]["lr"] == pytest.approx(PEAK / 21)
    lrs = plateau_rates(optimizer, schedules, [2, 2, 1])
    assert lrs == pytest.approx([PEAK * 11 / 21, PEAK / 2, PEAK / 2])


def test_schedule_applies_to_each_group():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    for name in ("cosine", "constant", "polynomial", "one_cycle"):
        optimizer = torch.optim.SGD([{"params": [p], "lr": lr} for p, lr in zip(parameters, (0.4, 0.1), strict=True)])
        scheduler = getattr(lr_schedules, name)(optimizer, total_steps=20, steps_per_epoch=10, warmup_epochs=1)
        for _ in range(20):
            rates = [group["lr"] for group in optimizer.param_groups]
            assert rates[0] == pytest.approx(4 * rates[1]), name
            optimizer.step()
            scheduler.step()


def states(schedules):
    return [schedule["scheduler"].state_dict() for schedule in schedules]


def test_resumed_plateau_keeps_its_progress_and_takes_new_settings():
    options = {"total_steps": 100, "steps_per_epoch": 10, "monitor": "val/loss", "patience": 1, "warmup_epochs": 1}
    metrics = [2, 1, 1, 1, 1, 1, 1]
    optimizer = sgd()
    expected = plateau_rates(optimizer, lr_schedules.plateau(optimizer, **options), metrics)

    before, after = sgd(), sgd()
    schedules = lr_schedules.plateau(before, **options)
    plateau_rates(before, schedules, metrics[:3])
    resumed = lr_schedules.plateau(after, **options)
    after.load_state_dict(before.state_dict())
    for schedule, state in zip(resumed, states(schedules), strict=True):
        schedule["scheduler"].load_state_dict(state)
    assert plateau_rates(after, resumed, metrics[3:]) == expected[3:]

    after = sgd()
    resumed = lr_schedules.plateau(after, **{**options, "patience": 9})
    after.load_state_dict(before.state_dict())
    for schedule, state in zip(resumed, states(schedules), strict=True):
        schedule["scheduler"].load_state_dict(state)
    assert plateau_rates(after, resumed, metrics[3:])[-1] == pytest.approx(PEAK)


def test_resumed_one_cycle_may_have_more_steps():
    before, after = sgd(), sgd()
    short = lr_schedules.one_cycle(before, total_steps=10, steps_per_epoch=10)
    for _ in range(5):
        before.step()
        short.step()
    long = lr_schedules.one_cycle(after, total_steps=100, steps_per_epoch=10)
    long.load_state_dict(short.state_dict())
    after.load_state_dict(before.state_dict())
    for _ in range(94):
        after.step()
        long.step()
    assert after.param_groups[0]["lr"] < PEAK / 1000


def test_warmup_longer_than_training_is_an_error():
    with pytest.raises(
        UserError, match=r"scheduler.warmup_epochs=11: expected a number >= 0 and <= 10 \(the training has 10 epochs"
    ):
        learning_rates(lr_schedules.cosine, warmup_epochs=11)


def test_milestone_outside_training_is_an_error():
    with pytest.raises(UserError, match=r"scheduler.milestones=\[30, 60\]"):
        learning_rates(lr_schedules.step, warmup_epochs=0, milestones=[30, 60], gamma=0.1)
