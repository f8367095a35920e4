"""Learning-rate schedules. All are updated after every step, except `plateau`.

Each takes the optimizer, the total number of optimizer steps and the number of steps per epoch. The optimizer's own
learning rate is the peak, for each of its parameter groups. `warmup_epochs=None` is the schedule's default warmup. A
warmup that is longer than the training raises `UserError`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from cnnzoo.checks import check_number
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
    warmup_steps = _warmup_steps(
        warmup_epochs, total_steps, steps_per_epoch, default=min(0.1 * total_steps, 5 * steps_per_epoch)
    )

    def lr_ratio(step: int) -> float:
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return min_lr_ratio + (1 - min_lr_ratio) * (1 + math.cos(math.pi * min(1.0, progress))) / 2

    return LambdaLR(optimizer, _with_warmup(lr_ratio, warmup_steps))


def polynomial(
    optimizer: Optimizer,
    *,
    total_steps: int,
    steps_per_epoch: float,
    power: float = 1.0,
    warmup_epochs: float | None = None,
    min_lr_ratio: float = 0.0,
) -> LRScheduler:
    """Linear warmup, then a polynomial of degree `power` down to `min_lr_ratio` of the peak; 1 is a straight line.

    `warmup_epochs=None`: no warmup.
    """
    warmup_steps = _warmup_steps(warmup_epochs, total_steps, steps_per_epoch, default=0)

    def lr_ratio(step: int) -> float:
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return min_lr_ratio + (1 - min_lr_ratio) * (1 - min(1.0, progress)) ** power

    return LambdaLR(optimizer, _with_warmup(lr_ratio, warmup_steps))


def constant(
    optimizer: Optimizer, *, total_steps: int, steps_per_epoch: float, warmup_epochs: float | None = None
) -> LRScheduler:
    """Linear warmup, then the peak until the end. `warmup_epochs=None`: no warmup."""
    warmup_steps = _warmup_steps(warmup_epochs, total_steps, steps_per_epoch, default=0)
    return LambdaLR(optimizer, _with_warmup(lambda step: 1.0, warmup_steps))


def step(
    optimizer: Optimizer,
    *,
    total_steps: int,
    steps_per_epoch: float,
    milestones: Sequence[float],
    gamma: float,
    warmup_epochs: float | None = None,
) -> LRScheduler:
    """Linear warmup, then the rate is multiplied by `gamma` at each milestone, a fraction of the total steps.

    `warmup_epochs=None`: no warmup.
    """
    if not all(0 < milestone < 1 for milestone in milestones):
        raise UserError(
            f"scheduler.milestones={list(milestones)}: expected fractions of the training, each > 0 and < 1"
        )
    warmup_steps = _warmup_steps(warmup_epochs, total_steps, steps_per_epoch, default=0)

    def lr_ratio(step: int) -> float:
        return gamma ** sum(step >= milestone * total_steps for milestone in milestones)

    return LambdaLR(optimizer, _with_warmup(lr_ratio, warmup_steps))


def one_cycle(
    optimizer: Optimizer, *, total_steps: int, steps_per_epoch: float, warmup_epochs: float | None = None
) -> LRScheduler:
    """One cycle (arXiv 1708.07120) by torch's `OneCycleLR`: up to the peak, then down to 1/250,000 of it.

    Momentum, or Adam's first beta, moves in the opposite direction, between 0.95 and 0.85; an optimizer that uses
    neither keeps its settings. `warmup_epochs=None`: the rate rises for three tenths of the training.
    """
    warmup_steps = _warmup_steps(warmup_epochs, total_steps, steps_per_epoch, default=0.3 * total_steps)
    peaks = [group["lr"] for group in optimizer.param_groups]
    return OneCycle(
        optimizer,
        max_lr=peaks,
        total_steps=total_steps,
        pct_start=warmup_steps / total_steps,
        cycle_momentum="betas" in optimizer.defaults or optimizer.defaults.get("momentum", 0) > 0,
    )


def plateau(
    optimizer: Optimizer,
    *,
    total_steps: int,
    steps_per_epoch: float,
    monitor: str,
    gamma: float = 0.1,
    patience: int = 3,
    min_lr_ratio: float = 0.0,
    every_n_epochs: int = 1,
    warmup_epochs: float | None = None,
) -> list[dict[str, Any]]:
    """Linear warmup, then the rate is multiplied by `gamma` after more than `patience` validations without a new best.

    monitor: the metric of the validation; the lower, the better, if it is a loss, else the higher.
    min_lr_ratio: the lowest rate, as a fraction of the peak.
    every_n_epochs: epochs between two validations.

    Returns the warmup, which is updated after every step, and the plateau, which is updated after every validation, in
    the form of Lightning's `configure_optimizers`. `warmup_epochs=None`: no warmup.
    """
    warmup_steps = _warmup_steps(warmup_epochs, total_steps, steps_per_epoch, default=0)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])  # as the other schedules do
    reduction = Plateau(
        optimizer,
        mode="min" if "loss" in monitor else "max",
        factor=gamma,
        patience=patience,
        min_lr=[min_lr_ratio * group["lr"] for group in optimizer.param_groups],
    )
    schedules: list[dict[str, Any]] = [
        {"scheduler": reduction, "interval": "epoch", "monitor": monitor, "frequency": every_n_epochs}
    ]
    if warmup_steps:
        # Both multiply the present rate by a factor, so the order in which they change it does not matter.
        warmup = LinearLR(optimizer, start_factor=1 / (warmup_steps + 1), total_iters=warmup_steps)
        schedules.insert(0, {"scheduler": warmup, "interval": "step"})
    return schedules


class OneCycle(OneCycleLR):
    """torch's `OneCycleLR`, whose state dict has only its progress: a resumed run may have another number of steps."""

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("last_epoch", "_step_count", "_last_lr")}


class Plateau(ReduceLROnPlateau):
    """torch's `ReduceLROnPlateau`, whose state dict has only its progress: a resumed run may change its settings."""

    def state_dict(self) -> dict[str, Any]:
        names = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_last_lr")
        return {name: getattr(self, name) for name in names}


def _warmup_steps(warmup_epochs: float | None, total_steps: int, steps_per_epoch: float, *, default: float) -> int:
    """The warmup in steps, at most `total_steps - 1`."""
    if warmup_epochs is None:
        return min(round(default), total_steps - 1)
    epochs = total_steps / steps_per_epoch
    note = f"(the training has {epochs:g} epochs)"
    check_number("scheduler.warmup_epochs", warmup_epochs, minimum=0, maximum=epochs, note=note)
    return min(round(warmup_epochs * steps_per_epoch), total_steps - 1)


def _with_warmup(lr_ratio: Callable[[int], float], warmup_steps: int) -> Callable[[int], float]:
    """Prepend a linear warmup, which reaches 1 at step `warmup_steps`."""
    return lambda step: (step + 1) / (warmup_steps + 1) if step < warmup_steps else lr_ratio(step)
