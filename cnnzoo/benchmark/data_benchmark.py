"""`DataBenchmark`: fill each cache, measure each loader setting alone, then the most promising ones in training."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from statistics import median
from typing import Any

import torch
from omegaconf import DictConfig

from cnnzoo.benchmark.measure import (
    SampledSource,
    TrainerFactory,
    drop_page_cache,
    measure_headspace,
    measure_loader,
    measure_training,
    with_setting,
)
from cnnzoo.benchmark.settings import Measurement, choose_finalists, choose_simplest, loader_settings
from cnnzoo.benchmark.timing import progress
from cnnzoo.data.cache import available_memory
from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.loaders.dali_loader import check_dali, dali_problem, unsupported_augmentation, unsupported_format
from cnnzoo.data.split import Split
from cnnzoo.errors import UserError
from cnnzoo.runtime.cpu import usable_cores
from cnnzoo.runtime.formatting import format_bytes
from cnnzoo.training.classifier import Classifier

log = logging.getLogger(__name__)


class DataBenchmark:
    """Measures the loader settings for `data`: call `fill_caches`, then `measure`.

    For image files, a sample of the training split is measured instead of the whole split.

    classifier: the network with its optimizer.
    make_trainer: `make_trainer(*callbacks)` builds a trainer.
    """

    def __init__(self, cfg: DictConfig, data: DataModule, classifier: Classifier, make_trainer: TrainerFactory) -> None:
        self.cfg, self.classifier, self.make_trainer = cfg, classifier, make_trainer
        self.trainer, self.cores = make_trainer(), usable_cores()
        train, val = data.split("train"), data.split("val")
        assert train is not None
        self.train = train
        self.num_images = len(train) + len(val or ())  # that the cache of a training run holds
        self.sample_size = len(train)
        self.data, self.cache = data, data.cache
        if train.has_files:
            self.sample_size = min(len(train), max(cfg.images, 2 * data.batch_size))
            source = SampledSource(data.source, self.sample_size)
            self.data = data.variant(source=source, cache=replace(data.cache, mode="none", resize=None))
        self.passes = len(train) // self.sample_size  # over the sample per epoch
        self.budget_bytes = data.cache.budget * available_memory.available_bytes()
        self.headspace_rates: list[float] = []  # images per second of training without data loading
        self.measurements = [
            Measurement(setting)
            for setting in loader_settings(
                files=train.has_files,
                cores=self.cores,
                mode=data.cache.mode,
                resize=data.cache.resize,
                loaders=_loaders_to_measure(
                    cfg.loader._target_.split(".")[-1], data, self.trainer.strategy.root_device
                ),
                kind=cfg.loader.get("kind", "auto"),
                workers=cfg.loader.workers,
            )
        ]
        self.finalists: list[Measurement] = []  # measured in training
        self._data_by_cache: dict[str, DataModule] = {}

    @property
    def headspace(self) -> float:
        """Images per second of training without data loading, the median of all rounds."""
        return median(self.headspace_rates)

    @property
    def fitting_measurements(self) -> list[Measurement]:
        """The measurements whose cache fits the budget."""
        return [measurement for measurement in self.measurements if measurement.memory_bytes <= self.budget_bytes]

    @property
    def best(self) -> Measurement:
        """The measurement of the setting to use."""
        return choose_simplest(self.finalists, lambda measurement: measurement.training_rate)

    def fill_caches(self) -> None:
        """Fill each cache with the sample, read from the disk, and extrapolate memory and time to the whole set.

        A cache that would be too large for the whole set is emptied again. Raises `UserError` if no other one is left.
        """
        for cache, group in groupby(self.measurements, key=lambda measurement: measurement.setting.cache_text):
            same_cache = list(group)
            setting = same_cache[0].setting
            mode: Any = setting.mode or "none"
            data = self.data.variant(cache=replace(self.cache, mode=mode, resize=setting.resize))
            self._data_by_cache[cache] = data
            if mode == "none":
                continue
            split = self.data.split("train")
            assert split is not None
            drop_page_cache(split)
            start = time.perf_counter()
            data.setup("fit")
            seconds = time.perf_counter() - start
            store = data.train_dataloader().split.store
            share = max(store.num_cached, 1) / self.num_images
            memory_bytes = float(store.index["bytes"].sum()) / share if store.num_cached else float("inf")
            for measurement in same_cache:
                measurement.memory_bytes = memory_bytes
                measurement.fill_seconds = seconds / share
            if memory_bytes > self.budget_bytes:
                log.info("cache %s: not measured, because the whole data set does not fit in the budget", cache)
                data.teardown()
        if not self.fitting_measurements:
            raise UserError(
                f"data.cache.mode={self.cache.mode}: the whole data set does not fit in the "
                f"{format_bytes(self.budget_bytes)} of data.cache.budget={self.cache.budget}; leave data.cache.mode "
                "out to measure the other modes, or type data.cache.resize=256"
            )

    def measure(self) -> None:
        """Measure every setting alone, then the finalists in training. Each round measures all of them once."""
        seconds, rounds, measurements = self.cfg.seconds, self.cfg.rounds, self.fitting_measurements
        with progress("loaders alone", rounds * (len(measurements) + 1)) as next_step:
            for _ in range(rounds):
                next_step("headspace")
                self._measure_headspace()
                for measurement in measurements:
                    next_step(_setting_text(measurement))
                    rate = measure_loader(self._data_with_setting(measurement), self.trainer, seconds)
                    measurement.loader_rates.append(rate)
        on_cpu = self.trainer.strategy.root_device.type == "cpu"
        self.finalists = choose_finalists(
            measurements, self.headspace, cores=self.cores, on_cpu=on_cpu, limit=self.cfg.finalists
        )
        with progress("training", rounds * (len(self.finalists) + 1)) as next_step:
            for _ in range(rounds):
                next_step("headspace")
                self._measure_headspace()
                for measurement in self.finalists:
                    next_step(_setting_text(measurement))
                    data = self._data_with_setting(measurement)
                    rate, data_wait = measure_training(data, self.classifier, self.make_trainer, seconds)
                    measurement.training_rates.append(rate)
                    measurement.data_waits.append(data_wait)

    def _measure_headspace(self) -> None:
        rate = measure_headspace(self.data, self.classifier, self.make_trainer, self.cfg.seconds)
        self.headspace_rates.append(rate)

    def _data_with_setting(self, measurement: Measurement) -> DataModule:
        """The data with the cache and the loader of this setting.

        If the whole set has no cache and is larger than the memory, training reads it from the disk in every epoch. The
        sample is smaller, so its files are dropped from the page cache before each pass.
        """
        setting = measurement.setting
        on_pass_start: Callable[[], None] = lambda: None  # noqa: E731
        split = self.data.split("train")
        if (
            setting.mode == "none"
            and split is not None
            and self._total_file_bytes(split) > available_memory.available_bytes()
        ):
            on_pass_start = lambda: drop_page_cache(split)  # noqa: E731
        data = self._data_by_cache[setting.cache_text]
        return with_setting(data, setting, passes=self.passes, on_pass_start=on_pass_start)

    def _total_file_bytes(self, sample: Split) -> float:
        """Estimate the size of all files of the whole set from those of a sample."""
        return sum(sample.file_size(index) for index in range(len(sample))) / len(sample) * self.num_images


def _setting_text(measurement: Measurement) -> str:
    return f"{measurement.setting.cache_text}, {measurement.setting.workers_text}"


def _loaders_to_measure(target: str, data: DataModule, device: torch.device) -> list[str]:
    """The loader that the user chose; otherwise torch, and also DALI for image files if it can be used.

    target: class name in the configuration of the loader.
    """
    train = data.split("train")
    if target == "DaliLoader":
        check_dali(data.augment, device)
        return ["dali"]
    if target == "TorchLoader" or train is None or not train.has_files:
        return ["torch"]
    data.resolve_input()
    dali_usable = (
        dali_problem(torch.version.cuda if device.type == "cuda" else None) is None
        and unsupported_augmentation(data.augment) is None
        and unsupported_format(data.resolved_channels, data.bits) is None
    )
    return ["torch", "dali"] if dali_usable else ["torch"]
