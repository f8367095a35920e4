"""The measurements: sampled sources, repeated samplers, the held batch, and the rates of loaders and training."""

import signal
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import nn

from cnnzoo.benchmark import measure
from cnnzoo.benchmark.measure import (
    HeldBatch,
    RepeatedSampler,
    SampledSource,
    Stopwatch,
    measure_headspace,
    measure_loader,
    measure_training,
    with_setting,
)
from cnnzoo.benchmark.settings import LoaderSetting
from cnnzoo.data import Cache, ImageFolder, Synthetic, TorchLoader
from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.errors import UserError
from cnnzoo.training.classifier import Classifier


@pytest.fixture
def images(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(20):
            Image.new("RGB", (12, 12), (number, 0, 0)).save(tmp_path / name / f"{number:02}.png")
    return tmp_path


@pytest.fixture
def pixels():
    data = DataModule(partial(Synthetic, images=60, classes=3, image_size=8), batch_size=4)
    data.set_input(image_size=8, channels=3)
    return data


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
    return Classifier(net, optimizer=partial(torch.optim.SGD, lr=1e6, momentum=0.9))


def make_trainer(*callbacks, max_steps=-1):
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=list(callbacks),
        max_epochs=-1,
        max_steps=max_steps,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_sampled_source_is_evenly_spaced(images):
    source = ImageFolder(str(images))
    train, sampled = source.split("train"), SampledSource(source, 7)
    sample = sampled.split("train")
    indices = [train.paths.tolist().index(path) for path in sample.paths]
    assert (len(indices), indices[0], indices[-1]) == (7, 0, len(train) - 1)
    assert max(np.diff(indices)) - min(np.diff(indices)) <= 1
    assert sample.labels.tolist() == train.labels[indices].tolist()
    assert sampled.split("val") is sampled.split("test") is None


def test_repeated_sampler_repeats_the_epoch():
    calls = []
    sampler = RepeatedSampler(EpochSampler(10, 4, seed=0, train=True), 3, lambda: calls.append(1))
    sampler.set_epoch(2)
    plain = EpochSampler(10, 4, seed=0, train=True)
    plain.set_epoch(2)
    batches = [batch.tolist() for batch in sampler]
    assert batches == 3 * [batch.tolist() for batch in plain]
    assert len(sampler) == len(batches) == 6
    assert (sampler.epoch, sampler.batch_size, len(calls)) == (2, 4, 3)


def test_repeated_sampler_has_the_next_epoch_of_a_loader():
    sampler = RepeatedSampler(EpochSampler(10, 4, seed=0, train=True), 2, lambda: None)
    plain = EpochSampler(10, 4, seed=0, train=True)
    for epoch in range(3):
        sampler.next_epoch()
        plain.set_epoch(epoch)
        assert [batch.tolist() for batch in sampler] == 2 * [batch.tolist() for batch in plain]


def test_held_batch_repeats_the_first_batch(pixels):
    batches = iter(pixels.variant(loader=partial(HeldBatch, batch_device=torch.device("cpu"))).train_dataloader())
    first, second = next(batches), next(batches)
    assert first is second
    images, labels = next(iter(pixels.train_dataloader()))
    assert torch.equal(first[0], images)
    assert torch.equal(first[1], labels)


@pytest.mark.parametrize("setting", [LoaderSetting(None, None, None, 0), LoaderSetting(None, None, "threads", 2)])
def test_measure_loader_skips_prefetched_batches(setting, pixels, monkeypatch):
    clock, yielded = iter(range(1000)), []

    def seven_batches(self):
        for _ in range(7):
            yielded.append(1)
            yield None, [0] * 4

    monkeypatch.setattr(TorchLoader, "__iter__", seven_batches)
    data, trainer = with_setting(pixels, setting), make_trainer()
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    # The clock is read at the start (0), then before each batch until it reads 10, and once more at the end.
    assert measure_loader(data, trainer, 10) == 9 * 4 / 11
    assert len(yielded) == 9 + 1 + 3 * setting.workers


def test_with_setting_builds_that_loader(pixels):
    loader = with_setting(pixels, LoaderSetting(None, None, "processes", 3), passes=5).train_dataloader()
    assert (loader.workers, loader.kind, len(loader)) == (3, "processes", 5 * (len(pixels.split("train")) // 4))
    assert pixels.train_dataloader().workers == 0


def test_variant_shares_only_the_cache(images):
    data = DataModule(ImageFolder, root=str(images), batch_size=4, cache=Cache("encoded"))
    data.setup("fit")
    same_cache, no_cache = data.variant(loader=TorchLoader), data.variant(cache=Cache("none"))
    assert same_cache.train_dataloader().split.store is data.train_dataloader().split.store is not None
    assert same_cache.train_dataloader() is not data.train_dataloader()
    assert no_cache.train_dataloader().split.store is None
    same_cache.teardown()
    assert data.train_dataloader().split.store.num_cached == len(data.split("train"))


def test_measurements_change_no_weights(pixels, classifier):
    before = [parameter.clone() for parameter in classifier.parameters()]
    headspace = measure_headspace(pixels, classifier, make_trainer, 0.01)
    rate, data_wait = measure_training(
        with_setting(pixels, LoaderSetting(None, None, "threads", 1)), classifier, make_trainer, 0.01
    )
    assert headspace > 0
    assert rate > 0
    assert 0 <= data_wait < 1
    assert all(torch.equal(old, new) for old, new in zip(before, classifier.parameters(), strict=True))


def test_stopwatch_measures_rate_and_data_wait(pixels, classifier, monkeypatch):
    class LoaderWithWait(TorchLoader):
        wait_seconds = 0.0

        def __iter__(self):
            for number, batch in enumerate(super().__iter__()):
                self.wait_seconds = float(number)
                yield batch

    clock, stopwatch = iter(range(0, 1000, 4)), Stopwatch(seconds=1)
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    make_trainer(stopwatch).fit(classifier, datamodule=pixels.variant(loader=LoaderWithWait))
    assert stopwatch.steps == measure.WARMUP_STEPS + measure.MIN_STEPS
    # The clock is read at the start, at the last step, and after the device has finished: 8 s.
    assert (stopwatch.rate, stopwatch.data_wait) == (measure.MIN_STEPS * 4 / 8, measure.MIN_STEPS / 8)


def test_measure_training_interrupted_raises_it(pixels, classifier, monkeypatch):
    class Interrupt(pl.Callback):
        def on_train_batch_end(self, *_):
            raise KeyboardInterrupt

    monkeypatch.setattr(signal, "signal", lambda *_: None)  # Lightning would ignore SIGINT from then on
    with pytest.raises(KeyboardInterrupt):
        measure_training(pixels, classifier, lambda *callbacks: make_trainer(*callbacks, Interrupt()), 1)


def test_measure_training_that_ends_early_is_an_error(pixels, classifier):
    with pytest.raises(UserError, match=r"training ended after 2 steps, before 1 s were measured: leave out the"):
        measure_training(pixels, classifier, partial(make_trainer, max_steps=2), 1)
