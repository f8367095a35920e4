"""The checks of `job=gpu` one by one: each must fail for what it was written to find."""

import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cnnzoo.benchmark import gpu_checks, gpu_run_checks, gpu_stress, gpu_training
from cnnzoo.benchmark.gpu_images import make_photograph, write_photographs
from cnnzoo.benchmark.gpu_report import Report
from cnnzoo.benchmark.gpu_run_checks import MemoryRecorder, SyncCounter
from cnnzoo.data import ImageFolder, TorchLoader
from cnnzoo.data.split import Split

CPU = torch.device("cpu")


@pytest.fixture
def report(caplog):
    caplog.set_level("INFO")
    return Report(None, {})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A split of 20 generated photographs."""
    root = tmp_path_factory.mktemp("photographs")
    write_photographs(root, {"train": 20, "val": 10}, 20, 40)
    return ImageFolder(str(root)).split("train")


@pytest.fixture
def pixels():
    """A split of 12 images of 16 x 16."""
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    return Split(np.arange(12), pixels=images)


def statuses(report):
    return {result.check: result.status for result in report.results}


def test_photographs_are_the_same_in_each_call(tmp_path, files):
    write_photographs(tmp_path, {"train": 20, "val": 10}, 20, 40)
    again = ImageFolder(str(tmp_path)).split("train")
    contents = [[Path(split.path(index)).read_bytes() for index in range(20)] for split in (files, again)]
    assert contents[0] == contents[1]
    assert len(set(contents[0])) == 20


def test_photograph_has_smooth_areas_and_texture():
    image = make_photograph(np.random.default_rng(0), 200, 300).astype(float)
    assert image.shape == (200, 300, 3)
    neighbours, spread = np.abs(np.diff(image, axis=1)).mean(), image.std()
    assert 1 < neighbours < spread / 4  # noise would have more than the spread, one color nothing


class BrokenDali(TorchLoader):
    """The torch loader in DALI's place, with one pipeline that was built again."""

    num_rebuilds = 1

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, workers=0, **options)

    def __iter__(self):
        for number, (images, labels) in enumerate(super().__iter__()):
            yield (images ^ 1 if number == 1 else images), labels  # each value changes by 1


@pytest.fixture
def broken_dali(monkeypatch):
    monkeypatch.setattr(gpu_checks, "DaliLoader", BrokenDali)
    monkeypatch.setattr(gpu_checks, "TorchLoader", partial(TorchLoader, workers=0))
    monkeypatch.setattr(gpu_checks, "require_dali", lambda device: None)


def test_dali_check_finds_rebuilds_and_differences(report, files, broken_dali):
    gpu_checks.check_dali(report, files, CPU, 16, 4)
    lines = statuses(report)
    assert lines.pop("DALI on the CPU: pipelines built again") == "fail"
    assert set(lines.values()) == {"fail"}
    assert len(lines) == len(gpu_checks.VARIANTS)
    assert {result.figure for result in report.results if result.unit == "of 255"} == {1.0}


def test_dali_check_finds_wrong_labels(report, files, broken_dali, monkeypatch):
    monkeypatch.setattr(BrokenDali, "__iter__", lambda self: ((x, y + 1) for x, y in TorchLoader.__iter__(self)))
    gpu_checks.check_dali(report, files, CPU, 16, 4)
    reasons = {result.reason for result in report.results if result.status == "fail"}
    assert "the labels of epoch 0 differ from the torch loader's" in reasons


class BadSecondEpoch(TorchLoader):
    """A loader whose third batch of every epoch but the first has one wrong value."""

    epoch = 0

    def __iter__(self):
        self.epoch += 1
        for number, (images, labels) in enumerate(super().__iter__()):
            images = images.clone()
            if self.epoch > 1 and number == 2:
                images[1, 2, 3, 4] ^= 1
            yield images, labels


@pytest.mark.parametrize(("loader", "wrong"), [(TorchLoader, 0), (BadSecondEpoch, 3)])
def test_stress_counts_wrong_batches(report, pixels, loader, wrong):
    augment, train = gpu_checks.VARIANTS["padded"]
    loader = gpu_checks.make_loader(loader, pixels, 4, frozen=True, augment=augment, train=train, image_size=16)
    gpu_stress.check_stress(report, "test", loader, CPU, batches=9, seconds=60)
    (result,) = report.results
    assert (result.figure, result.unit, result.bar) == (wrong, "of 9", 0)
    assert result.status == ("fail" if wrong else "pass")


def test_stress_uses_the_batches_of_the_reference(report, pixels):
    augment, train = gpu_checks.VARIANTS["padded"]
    make = partial(gpu_checks.make_loader, TorchLoader, augment=augment, train=train, image_size=16, frozen=True)
    other = Split(pixels.labels, pixels=pixels.pixels[::-1].copy())
    gpu_stress.check_stress(report, "test", make(pixels, 4), CPU, batches=3, seconds=60, reference=make(other, 4))
    assert report.results[0].figure == 3


def test_sync_counter_names_the_places_of_each_step(monkeypatch):
    monkeypatch.setattr(gpu_run_checks, "FIRST_STEPS", 1)
    monkeypatch.setattr(gpu_run_checks, "is_logged_step", lambda trainer: trainer.logged)
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        counter = SyncCounter(recorded)
        for step, syncs in enumerate([3, 0, 1, 2, 0]):
            counter.on_train_batch_start(None, None, None, step)
            for _ in range(syncs):
                warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("another one", stacklevel=1)
            counter.on_train_batch_end(SimpleNamespace(logged=step == 3), None, None, None, step)
    counts = {logged: [len(places) for places in counter.steps(logged=logged)] for logged in (False, True)}
    assert counts == {False: [0, 1], True: [2]}  # the first and the last step are not counted
    assert counter.steps(logged=False)[1][0].startswith("benchmark/test_gpu_checks.py:")


def test_memory_growth_is_relative_to_the_third_epoch():
    recorder = MemoryRecorder()
    recorder.epochs = [{"reserved": size} for size in (1, 1, 200, 150, 203)]
    assert recorder.growth("reserved") == pytest.approx(0.015)


def test_hand_written_loss_includes_auxiliary_losses():
    logits, aux, labels = torch.randn(2, 3), torch.randn(2, 3), torch.tensor([0, 2])
    net = SimpleNamespace(forward_with_aux=lambda images: (logits, [aux, aux]))
    loss = gpu_training._loss(net, None, labels, 0.3)
    cross_entropy = torch.nn.functional.cross_entropy
    assert float(loss) == pytest.approx(float(cross_entropy(logits, labels) + 0.6 * cross_entropy(aux, labels)))


def test_kernel_time_bar_is_two_percent_of_the_step(report):
    for seconds, step in ((90e-6, 5e-3), (110e-6, 5e-3), (200e-6, None), (300e-6, None)):
        gpu_checks.report_kernel_time(report, seconds, step, has_bar=True)
    gpu_checks.report_kernel_time(report, 1.0, 5e-3, has_bar=False)
    assert [result.status for result in report.results] == ["pass", "fail", "pass", "fail", "measured"]
