"""What is measured: a sample in many passes, a batch that stays, steps that change nothing, rates that are right."""

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
    Sample,
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


def trainers(*callbacks, max_steps=-1):
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


def test_a_sample_is_spread_over_the_training_split(images):
    source = ImageFolder(str(images))
    train, sample = source.split("train"), Sample(source, 7)
    part = sample.split("train")
    at = [train.paths.tolist().index(path) for path in part.paths]
    assert (len(at), at[0], at[-1]) == (7, 0, len(train) - 1)
    assert max(np.diff(at)) - min(np.diff(at)) <= 1
    assert part.labels.tolist() == train.labels[at].tolist()
    assert sample.split("val") is sample.split("test") is None


def test_passes_are_epochs_in_one():
    calls = []
    sampler = RepeatedSampler(EpochSampler(10, 4, seed=0, train=True), 3, lambda: calls.append(1))
    sampler.set_epoch(2)
    same = EpochSampler(10, 4, seed=0, train=True)
    same.set_epoch(2)
    batches = [batch.tolist() for batch in sampler]
    assert batches == 3 * [batch.tolist() for batch in same]
    assert len(sampler) == len(batches) == 6
    assert (sampler.epoch, sampler.batch_size, len(calls)) == (2, 4, 3)


def test_the_held_batch_is_the_first_and_stays(pixels):
    batches = iter(pixels.variant(loader=partial(HeldBatch, place=torch.device("cpu"))).train_dataloader())
    first, second = next(batches), next(batches)
    assert first is second
    images, labels = next(iter(pixels.train_dataloader()))
    assert torch.equal(first[0], images)
    assert torch.equal(first[1], labels)


@pytest.mark.parametrize("way", [LoaderSetting(None, None, None, 0), LoaderSetting(None, None, "threads", 2)])
def test_a_loader_alone_is_timed_after_it_is_warm(way, pixels, monkeypatch):
    clock, given = iter(range(1000)), []

    def seven(self):
        for _ in range(7):
            given.append(1)
            yield None, [0] * 4

    monkeypatch.setattr(TorchLoader, "__iter__", seven)
    data, trainer = with_setting(pixels, way), trainers()
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    # the clock reads 0 at the start, then once ahead of each batch until it reads 10, and once more at the end
    assert measure_loader(data, trainer, 10) == 9 * 4 / 11
    assert len(given) == 9 + 1 + 3 * way.workers


def test_a_way_is_loaded_as_it_says(pixels):
    loader = with_setting(pixels, LoaderSetting(None, None, "processes", 3), passes=5).train_dataloader()
    assert (loader.workers, loader.kind, len(loader)) == (3, "processes", 5 * (len(pixels.split("train")) // 4))
    assert pixels.train_dataloader().workers == 0


def test_variants_share_the_cache_and_nothing_else(images):
    data = DataModule(ImageFolder, root=str(images), batch_size=4, cache=Cache("encoded"))
    data.setup("fit")
    one, other = data.variant(loader=TorchLoader), data.variant(cache=Cache("none"))
    assert one.train_dataloader().split.store is data.train_dataloader().split.store is not None
    assert one.train_dataloader() is not data.train_dataloader()
    assert other.train_dataloader().split.store is None
    one.teardown()
    assert data.train_dataloader().split.store.held == len(data.split("train"))


def test_headspace_and_training_change_no_weight(pixels, classifier):
    before = [parameter.clone() for parameter in classifier.parameters()]
    rate = measure_headspace(pixels, classifier, trainers, 0.01)
    trained, wait = measure_training(
        with_setting(pixels, LoaderSetting(None, None, "threads", 1)), classifier, trainers, 0.01
    )
    assert rate > 0
    assert trained > 0
    assert 0 <= wait < 1
    assert all(torch.equal(old, new) for old, new in zip(before, classifier.parameters(), strict=True))


def test_the_stopwatch_counts_images_and_waiting(pixels, classifier, monkeypatch):
    class Waited(TorchLoader):
        def __iter__(self):
            for number, batch in enumerate(super().__iter__()):
                self.wait_seconds = float(number)
                yield batch

    clock, watch = iter(range(0, 1000, 4)), Stopwatch(seconds=1)
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    trainers(watch).fit(classifier, datamodule=pixels.variant(loader=Waited))
    assert watch.steps == measure.WARMUP_STEPS + measure.MIN_STEPS
    # the clock is read at the start, at the last step, and when the device is done: 8 s
    assert (watch.rate, watch.wait) == (measure.MIN_STEPS * 4 / 8, measure.MIN_STEPS / 8)


def test_training_that_ends_too_soon_is_an_error(pixels, classifier):
    with pytest.raises(UserError, match=r"training ended after 2 steps, before 1 s were measured: leave out what"):
        measure_training(pixels, classifier, partial(trainers, max_steps=2), 1)
