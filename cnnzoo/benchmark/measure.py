"""Measure images per second: of a loader alone, of training with a loader, and of training on one batch in memory."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from cnnzoo.runtime.formatting import plural
from cnnzoo.runtime.interrupts import is_interrupt
from cnnzoo.training.classifier import Classifier
from cnnzoo.training.lightning_internals import direct_hook_calls

WARMUP_STEPS = 3  # training steps before the clock starts, in which libraries choose their algorithms
MIN_STEPS = 5  # training steps that are measured, however long they take
ENDLESS_LENGTH = 2**31  # number of batches of an epoch that never ends
QUIET_LOGGERS = ("cnnzoo.data", "cnnzoo.callbacks", "cnnzoo.training.train")
"""They would log every cache and every run."""

TrainerFactory = Callable[..., pl.Trainer]  # called with callbacks


class SampledSource:
    """A source with `images` evenly spaced training images of another source, and no other split."""

    def __init__(self, source: Source, images: int) -> None:
        train = source.split("train")
        assert train is not None
        indices = np.linspace(0, len(train) - 1, images).astype(np.int64)
        self._train = train.select(indices)

    def split(self, name: str) -> Split | None:
        return self._train if name == "train" else None


class RepeatedSampler(EpochSampler):
    """Repeats the batches of `sampler` within one epoch, so that a sample has no more epoch ends than the whole set.

    passes: number of repetitions.
    on_pass_start: called before each repetition.
    """

    def __init__(self, sampler: EpochSampler, passes: int, on_pass_start: Callable[[], None]) -> None:
        vars(self).update(vars(sampler))
        self.sampler, self.passes, self.on_pass_start = sampler, passes, on_pass_start

    def __len__(self) -> int:
        return len(self.sampler) * self.passes

    def __iter__(self) -> Iterator[Any]:
        self.sampler.set_epoch(self.epoch)
        for _ in range(self.passes):
            self.on_pass_start()
            yield from self.sampler


class HeldBatch:
    """A loader that yields the first batch of the split again and again, from the memory of `batch_device`."""

    batch_sampler = None

    def __init__(self, split: Split, sampler: EpochSampler, *, batch_device: torch.device, **options: Any) -> None:
        loader = TorchLoader(split, sampler, **{**options, "workers": 0, "device": None})
        self.sampler = sampler
        self.batch = tuple(tensor.to(batch_device) for tensor in next(iter(loader)))

    def __len__(self) -> int:
        return ENDLESS_LENGTH

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        while True:
            yield self.batch

    def close(self) -> None:
        """Nothing to close."""


class Stopwatch(pl.Callback):
    """Measures training and stops it after `seconds` seconds or `max_images` images, and at least `MIN_STEPS` steps.

    The clock starts after `warmup_steps` steps.
    """

    def __init__(self, seconds: float, *, warmup_steps: int = WARMUP_STEPS, max_images: float = float("inf")) -> None:
        self.seconds, self.warmup_steps, self.max_images = seconds, warmup_steps, max_images
        self.steps = self.images = 0
        self.start_time = self.start_wait = 0.0
        self.rate: float | None = None  # images per second; None until it is measured
        self.data_wait = 0.0  # fraction of the time spent waiting for batches

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Without its schedule the learning rate could make the weights diverge, and NaNs change the speed.
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps += 1
        device, wait = trainer.strategy.root_device, getattr(trainer.train_dataloader, "wait_seconds", 0.0)
        if self.steps == self.warmup_steps:
            synchronize(device)
            self.start_time, self.start_wait = time.perf_counter(), wait
        elif self.steps > self.warmup_steps:
            self.images += len(batch[1])
            if self.steps < self.warmup_steps + MIN_STEPS:
                return
            if time.perf_counter() - self.start_time >= self.seconds or self.images >= self.max_images:
                synchronize(device)
                elapsed = time.perf_counter() - self.start_time
                self.rate, self.data_wait = self.images / elapsed, min(1.0, (wait - self.start_wait) / elapsed)
                trainer.should_stop = True


def with_setting(
    data: DataModule, setting: LoaderSetting, *, passes: int = 1, on_pass_start: Callable[[], None] = lambda: None
) -> DataModule:
    """A variant of `data` with the same cache and the loader of `setting`; see `RepeatedSampler` for the rest."""
    loader = partial(LOADERS[setting.loader], **setting.loader_options)
    return data.variant(
        loader=lambda split, sampler, **options: loader(
            split, RepeatedSampler(sampler, passes, on_pass_start), **options
        )
    )


def measure_headspace(data: DataModule, classifier: Classifier, make_trainer: TrainerFactory, seconds: float) -> float:
    """Images per second of training on one batch that stays on the device, which is training without data loading."""
    loader = partial(HeldBatch, batch_device=make_trainer().strategy.root_device)
    return measure_training(data.variant(loader=loader), classifier, make_trainer, seconds)[0]


def measure_training(
    data: DataModule, classifier: Classifier, make_trainer: TrainerFactory, seconds: float, **limits: Any
) -> tuple[float, float]:
    """Images per second of training, and the fraction of the time, 0 to 1, spent waiting for batches.

    limits: further arguments of `Stopwatch`.

    Raises `UserError` if training ends before it has been measured.
    """
    stopwatch = Stopwatch(seconds, **limits)
    try:
        trainer = make_trainer(stopwatch)
        with direct_hook_calls(trainer):  # as in train.py
            trainer.fit(classifier, datamodule=data)
    except SystemExit as error:
        if is_interrupt(error):
            raise KeyboardInterrupt from None
        raise
    finally:
        data.teardown()  # Lightning does not call it after an exception
    if stopwatch.rate is None:
        raise UserError(
            f"training ended after {plural(stopwatch.steps, 'step')}, before {seconds:g} s were measured: leave out "
            "the setting that ends it, such as trainer.max_steps, trainer.max_epochs, trainer.max_time or "
            "trainer.fast_dev_run"
        )
    return stopwatch.rate, stopwatch.data_wait


def measure_loader(data: DataModule, trainer: pl.Trainer, seconds: float) -> float:
    """Images per second of the loader alone, with batches on the device of `trainer`.

    The clock starts after as many batches as the workers may have prefetched, so that none of these is counted.
    """
    data.trainer = trainer
    try:
        loader = data.train_dataloader()
        batches = _endless_batches(loader)
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
    """Remove the files of the split from the operating system's page cache, where it has a call for that."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in split.files():
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError:  # the cache or the loader reports the file
            continue
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work that was submitted to it."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def quiet_loggers() -> Iterator[None]:
    """Log only warnings of `QUIET_LOGGERS`."""
    loggers = [logging.getLogger(name) for name in QUIET_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _endless_batches(loader: Any) -> Iterator[tuple[Tensor, Tensor]]:
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1
