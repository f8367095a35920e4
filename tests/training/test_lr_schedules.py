"""The learning rate at every step, against the formulas."""

import math

import pytest
import torch

from cnnzoo.errors import UserError
from cnnzoo.training import lr_schedules

PEAK = 0.5


def learning_rates(schedule, steps=100, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK, momentum=0.9)
    scheduler = schedule(optimizer, total_steps=steps, steps_per_epoch=10, **options)
    lrs = []
    for _ in range(steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return lrs


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


def test_warmup_longer_than_training_is_an_error():
    with pytest.raises(
        UserError, match=r"scheduler.warmup_epochs=11: expected a number >= 0 and <= 10 \(the training has 10 epochs"
    ):
        learning_rates(lr_schedules.cosine, warmup_epochs=11)


def test_milestone_outside_training_is_an_error():
    with pytest.raises(UserError, match=r"scheduler.milestones=\[30, 60\]"):
        learning_rates(lr_schedules.step, warmup_epochs=0, milestones=[30, 60], gamma=0.1)
