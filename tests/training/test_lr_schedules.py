"""The learning rate at every step, against the formulas."""

import math

import pytest
import torch

from cnnzoo.errors import UserError
from cnnzoo.training import lr_schedules

PEAK = 0.5


def rates(schedule, steps=100, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK, momentum=0.9)
    scheduler = schedule(optimizer, total_steps=steps, steps_per_epoch=10, **options)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_cosine_warms_up_in_a_straight_line_and_falls_to_its_final_share():
    seen = rates(lr_schedules.cosine, warmup_epochs=2, min_lr_ratio=0.1)
    assert seen[:3] == pytest.approx([PEAK / 21, PEAK * 2 / 21, PEAK * 3 / 21])
    assert seen[20] == pytest.approx(PEAK)
    assert seen[60] == pytest.approx(PEAK * (0.1 + 0.9 * (1 + math.cos(math.pi * 40 / 80)) / 2))
    assert seen[99] == pytest.approx(PEAK * (0.1 + 0.9 * (1 + math.cos(math.pi * 79 / 80)) / 2))


def test_cosine_by_itself_warms_up_for_a_tenth():
    seen = rates(lr_schedules.cosine)
    assert seen[9] < seen[10] == pytest.approx(PEAK)
    assert seen[11] < PEAK


def test_a_training_of_one_step_has_a_rate():
    assert rates(lr_schedules.cosine, steps=1) == [PEAK]


def test_step_falls_at_its_milestones():
    seen = rates(lr_schedules.step, warmup_epochs=0, milestones=[0.5, 0.75], gamma=0.1)
    assert seen[49] == pytest.approx(PEAK)
    assert seen[50] == seen[74] == pytest.approx(PEAK * 0.1)
    assert seen[75] == seen[99] == pytest.approx(PEAK * 0.01)


@pytest.mark.parametrize(("warmup", "peak_at"), [(2, 19), (None, 29)])
def test_one_cycle_peaks_at_the_end_of_its_warmup(warmup, peak_at):
    seen = rates(lr_schedules.one_cycle, warmup_epochs=warmup)
    assert max(range(100), key=seen.__getitem__) == peak_at
    assert seen[peak_at] == pytest.approx(PEAK)
    assert seen[-1] < PEAK / 1000


def test_a_warmup_longer_than_the_training_is_an_error():
    with pytest.raises(UserError, match=r"scheduler.warmup_epochs=11: the training has 10 epochs"):
        rates(lr_schedules.cosine, warmup_epochs=11)


def test_a_milestone_outside_the_training_is_an_error():
    with pytest.raises(UserError, match=r"scheduler.milestones=\[30, 60\]"):
        rates(lr_schedules.step, warmup_epochs=0, milestones=[30, 60], gamma=0.1)
