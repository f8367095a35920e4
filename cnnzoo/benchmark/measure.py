"""Images per second: of a loader alone, and of training, fed by a loader or by one batch that stays on the device."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from cnnzoo.benchmark.settings import LOADERS, LoaderSetting
from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.loaders.workers import PREFETCH_FACTOR
from cnnzoo.data.split import Source, Split
from cnnzoo.errors import UserError
from cnnzoo.training.classifier import Classifier

WARMUP_STEPS = 3  # of training, before the clock starts: libraries choose their algorithms in the first ones
MIN_STEPS = 5  # that a figure is of, however long they take
ENDLESS_LENGTH = 2**31  # batches of an epoch that never ends

TrainerFactory = Callable[..., pl.Trainer]  # called with callbacks


class Sample:
    """A source that has a part of another one's training images, evenly spread, and no other split."""

    def __init__(self, source: Source, images: int) -> None:
        train = source.split("train")
        assert train is not None
        assert train.paths is not None
        self.whole = len(train)
        at = np.linspace(0, self.whole - 1, images).astype(np.int64)
        self._train = replace(train, labels=train.labels[at], paths=train.paths[at])

    def split(self, name: str) -> Split | None:
        """The split "train"; None for the others."""
        return self._train if name == "train" else None


class RepeatedSampler(EpochSampler):
    """`order`, gone over so many times in one epoch: a sample's epochs have more seams than the whole set's.

    `before` is called ahead of each pass.
    """

    def __init__(self, sampler: EpochSampler, passes: int, before: Callable[[], None]) -> None:
        vars(self).update(vars(sampler))
        self.order, self.passes, self.before = sampler, passes, before

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration is of."""
        super().set_epoch(epoch)
        self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.order) * self.passes

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.passes):
            self.before()
            yield from self.order


class HeldBatch:
    """A loader of one and the same batch, which lies on `place`, the device."""

    batch_sampler = None

    def __init__(self, split: Split, sampler: EpochSampler, *, place: torch.device, **options: Any) -> None:
        loader = TorchLoader(split, sampler, **{**options, "workers": 0, "device": None})
        self.sampler = sampler
        self.batch = tuple(tensor.to(place) for tensor in next(iter(loader)))

    def __len__(self) -> int:
        return ENDLESS_LENGTH

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        while True:
            yield self.batch

    def close(self) -> None:
        """There is nobody to end."""


class Stopwatch(pl.Callback):
    """Ends training once it has been measured for so many seconds, and some steps."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.steps, self.images = seconds, 0, 0
        self.start = self.waited = 0.0
        self.rate: float | None = None  # images per second
        self.wait = 0.0  # share of the time

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights as they are: a rate without its schedule makes them diverge, which costs time of its own."""
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the clock; the device, which may lag behind, is waited for where the figure begins and ends."""
        self.steps += 1
        device, waited = trainer.strategy.root_device, getattr(trainer.train_dataloader, "wait_seconds", 0.0)
        if self.steps == WARMUP_STEPS:
            synchronize(device)
            self.start, self.waited = time.perf_counter(), waited
        elif self.steps > WARMUP_STEPS:
            self.images += len(batch[1])
            enough = self.steps >= WARMUP_STEPS + MIN_STEPS
            if enough and time.perf_counter() - self.start >= self.seconds:
                synchronize(device)
                elapsed = time.perf_counter() - self.start
                self.rate, self.wait = self.images / elapsed, min(1.0, (waited - self.waited) / elapsed)
                trainer.should_stop = True


def with_setting(
    data: DataModule, way: LoaderSetting, *, passes: int = 1, before: Callable[[], None] = lambda: None
) -> DataModule:
    """`data`, with its cache, loaded that way; an epoch has so many `passes`."""
    loader = partial(LOADERS[way.loader], **way.options)
    return data.variant(
        loader=lambda split, sampler, **options: loader(split, RepeatedSampler(sampler, passes, before), **options)
    )


def measure_headspace(data: DataModule, classifier: Classifier, trainers: TrainerFactory, seconds: float) -> float:
    """Images per second of training on a batch that never leaves the device."""
    place = trainers().strategy.root_device
    return measure_training(data.variant(loader=partial(HeldBatch, place=place)), classifier, trainers, seconds)[0]


def measure_training(
    data: DataModule, classifier: Classifier, trainers: TrainerFactory, seconds: float
) -> tuple[float, float]:
    """Images per second of training, and the share of its time, 0 to 1, that it waited for batches.

    Raises UserError where training ends before a figure is there.
    """
    watch = Stopwatch(seconds)
    try:
        trainers(watch).fit(classifier, datamodule=data)
    finally:
        data.teardown()  # Lightning does it only where nothing went wrong
    if watch.rate is None:
        raise UserError(
            f"training ended after {watch.steps} steps, before {seconds:g} s were measured: leave out what ends it, "
            "such as trainer.max_steps, trainer.max_epochs, trainer.max_time or trainer.fast_dev_run"
        )
    return watch.rate, watch.wait


def measure_loader(data: DataModule, trainer: pl.Trainer, seconds: float) -> float:
    """Images per second of the loader by itself, whose batches go where `trainer` wants them.

    Before the clock starts as many batches pass as its workers may have made ahead, so that none of those counts.
    """
    data.trainer = trainer
    try:
        loader = data.train_dataloader()
        batches = _endless(loader)
        for _ in range(1 + (PREFETCH_FACTOR + 1) * loader.workers):
            next(batches)
        images, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            images += len(next(batches)[1])
        synchronize(trainer.strategy.root_device)
        return images / (time.perf_counter() - start)
    finally:
        data.teardown()


def drop_page_cache(split: Split) -> None:
    """Make the operating system read the split's files from the disk when they are next wanted, where it can."""
    if not hasattr(os, "posix_fadvise"):
        return
    for index in range(len(split)):
        try:
            file = os.open(split.path(index), os.O_RDONLY)
        except OSError:  # the cache, or the loader, names it
            continue
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _endless(loader: Any) -> Iterator[tuple[Tensor, Tensor]]:
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1
