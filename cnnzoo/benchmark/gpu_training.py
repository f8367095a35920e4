"""Training from RAM, as a share of a hand-written loop on one batch that stays on the device."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from statistics import median
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from cnnzoo.benchmark.gpu_report import CheckError, Report, SkippedError, free_memory, one_line
from cnnzoo.benchmark.measure import (
    MIN_STEPS,
    WARMUP_STEPS,
    HeldBatch,
    RepeatedSampler,
    TrainerFactory,
    measure_training,
    synchronize,
)
from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.loaders.workers import PREFETCH_FACTOR
from cnnzoo.training.classifier import Classifier
from cnnzoo.training.optimizers import build_optimizer

SHARE_BAR = 0.98
"""Of the speed of the hand-written loop that training from RAM must reach."""
ENDLESS_PASSES = 10**6
"""Repetitions of the images in an epoch, so that no epoch ends: that of ImageNet has 10,000 batches."""
STEP_CALLBACKS = ("NanGuard", "Throughput", "GradientNorm", "GpuStats")
"""The default callbacks that act in each step. The others act before the first step or after an epoch."""
STEP_OVERRIDES = (
    "callbacks=none",
    *(f"+callbacks.{name.lower()}._target_=cnnzoo.callbacks.{name}" for name in STEP_CALLBACKS),
    "trainer.max_epochs=1",
    "trainer.limit_val_batches=0",
)
"""For the configuration of `train`, to measure its steps. Also set the learning rate to 0: the weights could diverge,
and NaNs change the speed."""


@dataclass(frozen=True)
class Training:
    """What `train.py` builds for a configuration.

    make_trainer: `make_trainer(*callbacks)` builds a trainer with the configured callbacks and loggers, and these.
    """

    cfg: DictConfig
    data: DataModule
    classifier: Classifier
    make_trainer: TrainerFactory


BuildTraining = Callable[[Sequence[str]], Training]  # called with the overrides of a command line of train.py


@dataclass
class NetworkShares:
    """Images per second of one network, one value per round."""

    training: Training
    hand: list[float] = field(default_factory=list)
    rates: dict[str, list[float]] = field(default_factory=dict)  # by the name of the loader
    problem: str = ""  # why it was not measured

    def share(self, name: str) -> float:
        """The median of the shares of the rounds."""
        return median(rate / hand for rate, hand in zip(self.rates[name], self.hand, strict=True))


class ShareBenchmark:
    """Measures the networks one after the other in each round, so that a drift of the machine affects all alike.

    build: builds the training of one network.
    networks: names and the overrides that select them.
    loaders: the loaders to compare, by name.
    seconds, max_images: a measurement ends after either.
    warmup_steps: in addition to the batches that workers build ahead.
    """

    def __init__(
        self,
        build: BuildTraining,
        networks: Mapping[str, Sequence[str]],
        loaders: Mapping[str, Callable[..., Any]],
        device: torch.device,
        *,
        seconds: float,
        max_images: int,
        warmup_steps: int,
    ) -> None:
        self.loaders, self.device = loaders, device
        self.limits: dict[str, Any] = {"seconds": seconds, "max_images": max_images, "warmup_steps": warmup_steps}
        self.networks: dict[str, NetworkShares] = {}
        for name, overrides in networks.items():
            training = build([*overrides, "optimizer.lr=0", *STEP_OVERRIDES])
            self.networks[name] = NetworkShares(training, rates={loader: [] for loader in loaders})
        first = next(iter(self.networks.values())).training.data
        first.setup("fit")
        self.data = first  # with the filled cache; the networks get the same images

    def measure_round(self, time_left: Callable[[], float]) -> bool:
        """Measure every network once. Returns False if `time_left()`, in seconds, was too short for one of them."""
        for shares in self.networks.values():
            if shares.problem:
                continue
            longest = (1 + len(self.loaders)) * 2 * self.limits["seconds"]
            if time_left() < longest:
                return False
            try:
                hand = measure_hand_loop(shares.training, self.data, self.device, **self.limits)
                rates = {name: self._measure(shares.training, loader) for name, loader in self.loaders.items()}
            except Exception as error:
                shares.problem = one_line(error)
                free_memory()
                continue
            shares.hand.append(hand)
            for name, rate in rates.items():
                shares.rates[name].append(rate)
        return True

    def report(self, report: Report, *, bar: float | None, judged: str) -> None:
        """Add one line for each network: the share with the loader `judged`; the others are notes."""
        for name, shares in self.networks.items():
            check = f"{name}: training / hand-written loop"
            with report.checking(check):
                if shares.problem:
                    raise CheckError(shares.problem)
                if not shares.hand:
                    raise SkippedError("the time of the job was used up")
                others = [f"{other} {shares.share(other):.3f}" for other in self.loaders if other != judged]
                note = ", ".join([f"{median(shares.hand):,.0f} images/s by hand", *others])
                details = {
                    "hand_images_per_second": shares.hand,
                    "images_per_second": shares.rates,
                    "shares": {loader: shares.share(loader) for loader in self.loaders},
                }
                if bar is None:
                    report.measure(check, shares.share(judged), "", note=note, **details)
                else:
                    report.judge(check, shares.share(judged), "", ">=", bar, note=note, **details)

    def step_seconds(self, name: str) -> float | None:
        """Duration of a step of the hand-written loop; None if it was not measured."""
        shares = self.networks.get(name)
        return self.data.batch_size / median(shares.hand) if shares is not None and shares.hand else None

    def _measure(self, training: Training, loader: Callable[..., Any]) -> float:
        data = with_loader(self.data, loader)
        workers = data.build_loader("train").workers
        limits = {**self.limits, "warmup_steps": self.limits["warmup_steps"] + (PREFETCH_FACTOR + 1) * workers}
        return measure_training(data, training.classifier, training.make_trainer, **limits)[0]


def with_loader(data: DataModule, loader: Callable[..., Any], *, endless: bool = True) -> DataModule:
    """A variant of `data` with the same cache and another loader.

    endless: repeat the images, so that the epoch does not end.
    """
    if not endless:
        return data.variant(loader=loader)
    return data.variant(
        loader=lambda split, sampler, **options: loader(
            split, RepeatedSampler(sampler, ENDLESS_PASSES, lambda: None), **options
        )
    )


def measure_hand_loop(
    training: Training,
    data: DataModule,
    device: torch.device,
    *,
    seconds: float,
    max_images: float = float("inf"),
    warmup_steps: int = WARMUP_STEPS,
    net: nn.Module | None = None,
) -> float:
    """Images per second of a loop of forward, backward and `optimizer.step()` on one batch that stays on the device.

    Memory format, precision, optimizer, loss and normalization are those of `training`.

    net: another network, without auxiliary heads, than that of `training`.
    """
    classifier = training.classifier
    torch.backends.cudnn.benchmark = bool(training.cfg.trainer.benchmark)  # as the trainer sets it
    held = data.variant(loader=partial(HeldBatch, batch_device=device)).build_loader("train").batch
    aux_weight = classifier.aux_weight if net is None else 0.0
    trained: Any = classifier.net if net is None else net
    trained = trained.to(device, memory_format=classifier.memory_format).train()
    optimizer = build_optimizer(classifier.optimizer, trained)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=training.cfg.trainer.precision == "bf16-mixed")
    images, start = 0, 0.0
    for step in count(1):
        inputs, labels = data.on_after_batch_transfer(held, 0)
        optimizer.zero_grad()
        with autocast:
            loss = _loss(trained, inputs, labels, aux_weight)
        loss.backward()
        optimizer.step()
        if step == warmup_steps:
            synchronize(device)
            start = time.perf_counter()
        elif step > warmup_steps:
            images += len(labels)
            enough = images >= max_images or time.perf_counter() - start >= seconds
            if enough and step >= warmup_steps + MIN_STEPS:
                break
    synchronize(device)
    rate = images / (time.perf_counter() - start)
    optimizer.zero_grad()
    return rate


def _loss(net: Any, images: Tensor, labels: Tensor, aux_weight: float) -> Tensor:
    """Cross-entropy, with the auxiliary losses as in training."""
    if not aux_weight:
        return F.cross_entropy(net(images), labels)
    logits, aux_logits = net.forward_with_aux(images)
    loss = F.cross_entropy(logits, labels)
    for aux in aux_logits:
        loss = loss + aux_weight * F.cross_entropy(aux, labels)
    return loss
