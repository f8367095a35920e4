"""Learning-rate schedules that run a step at a time and ask the trainer how many steps there will be.

Each takes the optimizer, the total number of optimizer steps and how many of them make an epoch; the optimizer's own
rate is the peak. `warmup_epochs=None` leaves the length of the warmup to the schedule; one that is longer than the
training is a `UserError`.
"""

import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from cnnzoo.errors import UserError


def cosine(
    optimizer: Optimizer,
    *,
    total_steps: int,
    steps_per_epoch: float,
    warmup_epochs: float | None = None,
    min_lr_ratio: float = 0.0,
) -> LRScheduler:
    """Linear warmup, then half a cosine to `min_lr_ratio` of the peak (SGDR, arXiv 1608.03983, without restarts).

    `warmup_epochs=None`: a tenth of the training, at most 5 epochs.
    """
    warmup = _warmup_steps(
        warmup_epochs, total_steps, steps_per_epoch, default=min(0.1 * total_steps, 5 * steps_per_epoch)
    )

    def share(step: int) -> float:
        done = (step - warmup) / max(1, total_steps - warmup)
        return min_lr_ratio + (1 - min_lr_ratio) * (1 + math.cos(math.pi * min(1.0, done))) / 2

    return LambdaLR(optimizer, _with_warmup(share, warmup))


def step(
    optimizer: Optimizer,
    *,
    total_steps: int,
    steps_per_epoch: float,
    milestones: Sequence[float],
    gamma: float,
    warmup_epochs: float | None = None,
) -> LRScheduler:
    """Linear warmup, then `gamma` once more at each milestone, a share of the total steps between 0 and 1.

    `warmup_epochs=None`: none.
    """
    if not all(0 < share < 1 for share in milestones):
        raise UserError(f"scheduler.milestones={list(milestones)}: each is a share of the training between 0 and 1")
    warmup = _warmup_steps(warmup_epochs, total_steps, steps_per_epoch, default=0)

    def share(step: int) -> float:
        return gamma ** sum(step >= milestone * total_steps for milestone in milestones)

    return LambdaLR(optimizer, _with_warmup(share, warmup))


def one_cycle(
    optimizer: Optimizer, *, total_steps: int, steps_per_epoch: float, warmup_epochs: float | None = None
) -> LRScheduler:
    """One cycle (arXiv 1708.07120), torch's own: up to the peak, then down to 1/250,000 of it.

    Momentum, or Adam's first beta, goes the other way round, between 0.95 and 0.85. `warmup_epochs=None`: the way up is
    three tenths of the training.
    """
    warmup = _warmup_steps(warmup_epochs, total_steps, steps_per_epoch, default=0.3 * total_steps)
    peaks = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, max_lr=peaks, total_steps=total_steps, pct_start=warmup / total_steps)


def _warmup_steps(epochs: float | None, total_steps: int, steps_per_epoch: float, *, default: float) -> int:
    """The warmup in steps, one less than all of them at most."""
    steps = default if epochs is None else epochs * steps_per_epoch
    if epochs is not None and (epochs < 0 or steps > total_steps):
        length = total_steps / steps_per_epoch
        raise UserError(
            f"scheduler.warmup_epochs={epochs}: the training has {length:g} epochs, type a number from 0 to that"
        )
    return min(round(steps), total_steps - 1)


def _with_warmup(share: Callable[[int], float], warmup: int) -> Callable[[int], float]:
    """`share`, led up to by a straight line that reaches the peak at step `warmup`."""
    return lambda step: (step + 1) / (warmup + 1) if step < warmup else share(step)
