"""One benchmark of data: its caches filled, each way measured alone, the promising ones under training."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from statistics import median
from typing import Any

import torch
from omegaconf import DictConfig

from cnnzoo.benchmark.measure import (
    Sample,
    TrainerFactory,
    drop_page_cache,
    measure_headspace,
    measure_loader,
    measure_training,
    with_setting,
)
from cnnzoo.benchmark.settings import Measurement, choose_finalists, choose_simplest, loader_settings
from cnnzoo.data.cache import available_memory
from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.loaders.dali_loader import check_dali, dali_problem, unsupported_augmentation
from cnnzoo.data.split import Split
from cnnzoo.errors import UserError
from cnnzoo.runtime.console import TimeLeftEstimator, live_bar
from cnnzoo.runtime.cpu import usable_cores
from cnnzoo.runtime.formatting import format_bytes
from cnnzoo.training.classifier import Classifier

log = logging.getLogger(__name__)


class DataBenchmark:
    """Measures `data` as `cfg` says and keeps the figures: call `fill`, then `measure`.

    Of files a sample of the training split is measured. `classifier` is the network with its optimizer; `trainers`
    makes a trainer with the callbacks it is given.
    """

    def __init__(self, cfg: DictConfig, data: DataModule, classifier: Classifier, trainers: TrainerFactory) -> None:
        self.cfg, self.classifier, self.trainers = cfg, classifier, trainers
        self.trainer, self.cores = trainers(), usable_cores()
        train, val = data.split("train"), data.split("val")
        assert train is not None
        self.train, self.cached = train, len(train) + len(val or ())
        self.images = len(train)
        self.data, self.cache = data, data.cache
        if train.paths is not None:
            self.images = min(len(train), max(cfg.images, 2 * data.batch_size))
            source = Sample(data.source, self.images)
            self.data = data.variant(source=source, cache=replace(data.cache, mode="none", resize=None))
        self.passes = len(train) // self.images
        self.budget = data.cache.budget * available_memory.available_bytes()
        self.heads: list[float] = []  # images per second of training where data costs nothing
        self.measured = [
            Measurement(way)
            for way in loader_settings(
                files=train.paths is not None,
                cores=self.cores,
                mode=data.cache.mode,
                resize=data.cache.resize,
                loaders=_loaders(cfg.loader._target_.split(".")[-1], data, self.trainer.strategy.root_device),
                kind=cfg.loader.get("kind", "auto"),
                workers=cfg.loader.workers,
            )
        ]
        self.tried: list[Measurement] = []  # under training
        self._modules: dict[str, DataModule] = {}  # by cache

    @property
    def headspace(self) -> float:
        """Images per second that training would do if data cost nothing."""
        return median(self.heads)

    @property
    def fitting(self) -> list[Measurement]:
        """The ways whose cache fits the budget."""
        return [each for each in self.measured if each.memory <= self.budget]

    @property
    def chosen(self) -> Measurement:
        """The way to use."""
        return choose_simplest(self.tried, lambda each: each.training)

    def fill(self) -> None:
        """Fill each cache with the sample, read from the disk, and reckon what the whole set takes.

        A cache that is too large for the whole set is emptied again. Raises UserError where no other is left.
        """
        for cache, alike in groupby(self.measured, key=lambda each: each.way.cache):
            members = list(alike)
            mode: Any = members[0].way.mode or "none"
            changed = replace(self.cache, mode=mode, resize=members[0].way.resize)
            self._modules[cache] = module = self.data.variant(cache=changed)
            if mode == "none":
                continue
            split = self.data.split("train")
            assert split is not None
            drop_page_cache(split)
            start = time.perf_counter()
            module.setup("fit")
            seconds = time.perf_counter() - start
            store = module.train_dataloader().split.store
            share = max(store.held, 1) / self.cached
            for each in members:
                each.memory = float(store.index["bytes"].sum()) / share if store.held else float("inf")
                each.filling = seconds / share
            if each.memory > self.budget:
                log.info("cache %s: the whole set does not fit, so it is not measured", cache)
                module.teardown()
        if not self.fitting:
            raise UserError(
                f"data.cache.mode={self.cache.mode}: the whole set does not fit in the {format_bytes(self.budget)} of "
                f"data.cache.budget={self.cache.budget}; leave data.cache.mode out to measure the others, or type "
                "data.cache.resize=256"
            )

    def measure(self) -> None:
        """Every way alone, then the finalists under training; all in turn, in each round."""
        seconds, rounds = self.cfg.seconds, self.cfg.rounds
        with _progress("each way alone", rounds * (len(self.fitting) + 1)) as step:
            for _ in range(rounds):
                step("headspace")
                self.heads.append(measure_headspace(self.data, self.classifier, self.trainers, seconds))
                for each in self.fitting:
                    step(f"{each.way.cache}, {each.way.crew}")
                    each.rates.append(measure_loader(self._loaded(each), self.trainer, seconds))
        on_cpu = self.trainer.strategy.root_device.type == "cpu"
        self.tried = choose_finalists(
            self.fitting, self.headspace, cores=self.cores, on_cpu=on_cpu, most=self.cfg.finalists
        )
        with _progress("the best under training", rounds * (len(self.tried) + 1)) as step:
            for _ in range(rounds):
                step("headspace")
                self.heads.append(measure_headspace(self.data, self.classifier, self.trainers, seconds))
                for each in self.tried:
                    step(f"{each.way.cache}, {each.way.crew}")
                    rate, wait = measure_training(self._loaded(each), self.classifier, self.trainers, seconds)
                    each.trained.append(rate)
                    each.waits.append(wait)

    def _loaded(self, each: Measurement) -> DataModule:
        """The data with this way's cache and loader.

        Without a cache, a set that is larger than the memory comes from the disk in every epoch, so its sample has to.
        """
        before: Callable[[], None] = lambda: None  # noqa: E731
        split = self.data.split("train")
        if each.way.mode == "none" and split is not None and self._bytes(split) > available_memory.available_bytes():
            before = lambda: drop_page_cache(split)  # noqa: E731
        return with_setting(self._modules[each.way.cache], each.way, passes=self.passes, before=before)

    def _bytes(self, split: Split) -> float:
        """How many bytes the files of the whole set have, from those of a sample."""
        return sum(os.stat(split.path(index)).st_size for index in range(len(split))) / len(split) * self.cached


def _loaders(typed: str, data: DataModule, device: torch.device) -> list[str]:
    """The loaders to measure: what was typed, else torch's, and for files DALI's where it can be used."""
    train = data.split("train")
    if typed == "DaliLoader":
        check_dali(data.augment, device)
        return ["dali"]
    if typed == "TorchLoader" or train is None or train.paths is None:
        return ["torch"]
    can = (
        dali_problem(torch.version.cuda if device.type == "cuda" else None) is None
        and unsupported_augmentation(data.augment) is None
    )
    return ["torch", "dali"] if can else ["torch"]


@contextmanager
def _progress(text: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal, elsewhere one line. Call it ahead of each measurement, with its name."""
    done, pace = -1, TimeLeftEstimator()
    with live_bar() as shown:
        if shown is None:
            log.info("measuring %s", text)

        def show(now: str) -> None:
            nonlocal done
            done += 1
            if shown is not None:
                name, left = f"measuring {text}", pace.left(done, total)
                shown.show(name, done, total, left=left, count=f"{done}/{total}", figures=now)

        yield show
