"""Loaders for a GPU build batches of the next epoch in advance, and never yield a batch of another epoch."""

import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.datasets.builtin import Synthetic
from cnnzoo.data.loaders.base import EndlessRequests
from cnnzoo.data.loaders.batch_builder import BatchBuilder
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.split import Split
from cnnzoo.errors import UserError
from tests.helpers.images import save_image
from tests.helpers.loaders import (
    DALI,
    NO_WORKERS,
    equal_batches,
    join_workers,
    live_workers,
    load_epoch,
    loader_params,
    loader_threads,
    reference_options,
)

CPU = torch.device("cpu")
POOLS = [NO_WORKERS, {"workers": 2, "kind": "threads"}, {"workers": 2, "kind": "processes"}]


def take(loader, count=None):
    """The first `count` batches of a new iteration, or all; the images are copies. The iteration is not exhausted."""
    iterator = iter(loader)
    batches = [next(iterator) for _ in range(len(loader) if count is None else count)]
    return [(images.clone(), labels.clone()) for images, labels in batches]


def resume(loader, batch):
    loader.sampler.start_at(batch)
    return [(images.clone(), labels.clone()) for images, labels in loader]


def set_epoch_after_iter(loader, epoch):
    iterator = iter(loader)
    loader.set_epoch(epoch)
    return [(images.clone(), labels.clone()) for images, labels in iterator]


def close(loader):
    loader.close()
    return []


ITERATIONS = {
    "not exhausted": lambda loader: [*take(loader), *load_epoch(loader, 1)],
    "stopped early": lambda loader: [*take(loader, 2), *take(loader), *take(loader, 1), *take(loader)],
    "stopped before the end": lambda loader: [*take(loader, len(loader) - 1), *take(loader)],
    "jumps": lambda loader: [batch for epoch in (0, 1, 5, 6, 2, 2) for batch in load_epoch(loader, epoch)],
    "resumed": lambda loader: [*resume(loader, 3), *take(loader), *resume(loader, 2), *take(loader, 1)],
    "resumed at the end": lambda loader: [*take(loader), *resume(loader, len(loader)), *take(loader)],
    "resumed where it stopped": lambda loader: [*load_epoch(loader), *take(loader, 2), *resume(loader, 2)],
    "set_epoch after iter": lambda loader: [*load_epoch(loader), *set_epoch_after_iter(loader, 4), *take(loader)],
    "closed": lambda loader: [*load_epoch(loader), *close(loader), *take(loader), *take(loader)],
}


def check_equal_batches(loader, reference):
    """Every sequence of iterations, one after another on the same loaders."""
    for name, iterate in ITERATIONS.items():
        assert equal_batches(iterate(loader), iterate(reference)), name


@pytest.mark.parametrize("mode", ["train", "eval", "frozen"])
@pytest.mark.parametrize("loader_options", loader_params([*POOLS, DALI]))
def test_loader_working_ahead_gives_equal_batches(make_loader, files, loader_options, mode):
    options = {"train": mode != "eval", "batch_size": 4, "image_size": 8, **loader_options}
    loader = make_loader(files, works_ahead=True, **options)
    reference = make_loader(files, **{**options, **reference_options(loader_options)})
    loader.sampler.frozen = reference.sampler.frozen = mode == "frozen"
    check_equal_batches(loader, reference)


@pytest.mark.parametrize("loader_options", POOLS)
def test_prefetch_working_ahead_gives_equal_batches(fake_cuda, make_loader, files, loader_options):
    loader, reference = make_loader(files, image_size=8, **loader_options), make_loader(files, image_size=8, workers=0)
    loader.device = CPU
    check_equal_batches(loader, reference)
    assert len(fake_cuda) == 1  # one stream for the copies of all epochs
    loader.close()
    join_workers(live_workers())


def test_gpu_dataset_working_ahead_gives_equal_batches(fake_cuda, make_loader, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**40, 0))
    split = Synthetic(images=60, image_size=16).split("train")
    loader, reference = make_loader(split, 7, crop="padded"), make_loader(split, 7, crop="padded")
    loader.device = CPU
    check_equal_batches(loader, reference)


def test_trainer_uses_all_batches_that_were_built_ahead():
    """Only the check of the validation before training, which stops early, discards batches."""

    class Recorder(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight, self.batches = torch.nn.Parameter(torch.zeros(1)), []

        def training_step(self, batch, batch_idx):
            self.batches.append(batch)
            return self.weight.sum()

        def validation_step(self, batch, batch_idx):
            self.batches.append(batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters())

    def train(loader):
        data = DataModule(partial(Synthetic, images=60, image_size=8), batch_size=4, loader=loader)
        module = Recorder()
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        pl.Trainer(max_epochs=3, num_sanity_val_steps=1, accelerator="cpu", **options).fit(module, datamodule=data)
        return module.batches

    class WorksAhead(TorchLoader):
        works_ahead = True

        def _iter_batches(self, requests):
            starts.append(self._builder.train)
            return super()._iter_batches(requests)

    starts = []
    expected = train(TorchLoader)
    assert equal_batches(train(partial(WorksAhead, workers=1)), expected)
    assert starts == [False, True, False]


def test_process_pool_starts_next_epoch_before_the_end(make_loader, files):
    loader = make_loader(files, workers=2, kind="processes", works_ahead=True)
    take(loader)
    assert loader._pool._last_request_id == len(loader) + 2 * 2  # two for each worker
    workers = live_workers()
    take(loader)
    assert loader._pool._last_request_id == 2 * len(loader) + 2 * 2  # none was discarded
    assert live_workers() == workers


def test_prefetch_copies_first_batch_of_next_epoch(fake_cuda, make_loader, files, monkeypatch):
    loader, copied = make_loader(files, **NO_WORKERS), threading.Event()
    loader.device, build, requested = CPU, BatchBuilder.build, []

    def record(builder, request, out=None):
        requested.append(request.epoch)
        if request.epoch == 1:
            copied.set()
        return build(builder, request, out)

    monkeypatch.setattr(BatchBuilder, "build", record)
    take(loader)
    assert copied.wait(10)
    assert requested == [0] * len(loader) + [1]


@pytest.mark.parametrize("device", [None, CPU])
def test_loader_on_cpu_does_not_work_ahead(make_loader, files, device):
    loader = make_loader(files, workers=2, kind="processes", device=device)
    take(loader)
    assert loader._pool._last_request_id == len(loader)


def test_loader_without_images_yields_nothing_ahead(make_loader, files):
    """In evaluation, a rank may have no image at all."""
    split = replace(files, labels=files.labels[:2], paths=files.paths[:2])
    loader = make_loader(split, train=False, rank=2, world_size=3, works_ahead=True, workers=1)
    assert [list(loader) for _ in range(2)] == [[], []]
    assert not live_workers()


@pytest.mark.parametrize("loader_options", loader_params([*POOLS, DALI]))
def test_bad_file_of_next_epoch_is_raised_there(make_loader, tmp_path, loader_options):
    """The damaged image is the one that the first epoch leaves out, and the second one has in its first batch."""
    for number in range(5):
        path = save_image(tmp_path / f"{number}.jpg", 40, 40)
    seed = next(seed for seed in range(100) if 4 not in order(seed, epoch=0) and 4 in order(seed, epoch=1)[0])
    path.write_bytes(path.read_bytes()[:300])
    split = Split(np.arange(5), paths=np.array([str(tmp_path / f"{n}.jpg").encode() for n in range(5)]))
    loader = make_loader(split, 2, seed=seed, image_size=8, works_ahead=True, **loader_options)
    assert len(take(loader)) == 2
    with pytest.raises(UserError, match=rf"^{path}: cannot be read: "):
        take(loader)
    with pytest.raises(UserError, match=rf"^{path}: cannot be read: "):
        load_epoch(loader, 1)


def order(seed, epoch):
    """The batches of an epoch of five images: int64 (2, 2)."""
    sampler = EpochSampler(5, 2, seed=seed, train=True)
    sampler.set_epoch(epoch)
    return np.stack(list(sampler))


@pytest.mark.parametrize("prefetch", [False, True])
def test_error_of_next_epoch_is_raised_there(fake_cuda, make_loader, files, monkeypatch, prefetch):
    build = BatchBuilder.build

    def fail_in_epoch_1(builder, request, out=None):
        return build(builder, request, out) if request.epoch != 1 else 1 // 0

    monkeypatch.setattr(BatchBuilder, "build", fail_in_epoch_1)
    loader = make_loader(files, workers=2, kind="threads", works_ahead=True)
    loader.device = CPU if prefetch else None
    expected = [load_epoch(make_loader(files, **NO_WORKERS), epoch) for epoch in (0, 2)]
    assert equal_batches(take(loader), expected[0])
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            load_epoch(loader, 1)
    assert equal_batches(load_epoch(loader, 2), expected[1])


@pytest.mark.parametrize("prefetch", [False, True])
def test_closed_loader_ends_iteration_ahead(fake_cuda, make_loader, files, prefetch):
    loader = make_loader(files, workers=2, kind="processes", works_ahead=True)
    loader.device = CPU if prefetch else None
    iterator = iter(loader)
    next(iterator)
    loader.close()
    with pytest.raises(RuntimeError, match="its loader has been closed"):
        next(iterator)
    assert not loader_threads()


def test_endless_requests_ignore_later_changes_of_the_sampler():
    sampler = EpochSampler(20, 4, seed=0, train=True)
    requests = iter(EndlessRequests(sampler, 3))
    sampler.set_epoch(7)
    sampler.start_at(2)
    assert [next(requests).epoch for _ in range(8)] == [0, 0, 1, 1, 1, 1, 1, 2]
    sampler.set_epoch(0)
    assert sampler.take_first_batch() == 2
