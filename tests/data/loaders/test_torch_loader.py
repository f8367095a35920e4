"""The loader: the same batches whatever makes them, and nothing left behind."""

import gc
import multiprocessing
import os
import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from cnnzoo.data.cache.cache import Cache
from cnnzoo.data.datasets.builtin import Synthetic
from cnnzoo.data.loaders import base as loader_module
from cnnzoo.data.loaders import batch_builder, torch_loader
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.split import Split
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.transforms.preprocess import Preprocess, normalize
from cnnzoo.errors import UserError
from tests.helpers.loaders import (
    NO_WORKERS,
    WORKER_POOLS,
    each_loader,
    each_pool,
    equal_batches,
    live_workers,
    load_epoch,
    loader_threads,
    reference_loader,
    wait_for_end,
)

CROPS = ["center", "padded", "random_resized"]


def pixels(images=60):
    return Synthetic(images=images, image_size=16).split("train")


@each_loader
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", CROPS)
def test_batches_of_pixels(loader_of, crew, crop, channels):
    split = pixels()
    for images, labels in load_epoch(loader_of(split, 8, crop=crop, channels=channels, image_size=20, **crew)):
        assert images.shape == (8, channels, 20, 20)
        assert images.dtype == torch.uint8
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.shape == (8,)
        assert labels.dtype == torch.int64


@each_loader
def test_labels_stay_with_their_images(loader_of, crew):
    split = Split(
        np.arange(30, dtype=np.int64),
        pixels=np.arange(30, dtype=np.uint8)[:, None, None, None].repeat(64, 1).reshape(30, 8, 8, 1),
    )
    batches = load_epoch(loader_of(split, crop="center", image_size=8, channels=1, batch_size=7, **crew))
    assert all((images == labels[:, None, None, None]).all() for images, labels in batches)
    assert len({int(label) for _, labels in batches for label in labels}) == 28


@each_loader
def test_labels_stay_with_their_files(loader_of, files, crew):
    """Of files of several sizes in one batch, which are worked on size by size."""
    loader = loader_of(files, 20, train=False, **crew)
    ((images, labels),) = load_epoch(loader)
    preprocess = Preprocess(16, 1.0, 3, (0,) * 3, (1,) * 3)
    for n in range(20):
        difference = preprocess(files.path(n)) * 255 - images[n].float()
        assert difference.abs().mean() < (1 if "loader" in crew else 1e-3)
    assert labels.tolist() == files.labels.tolist()


@pytest.mark.parametrize("crop", CROPS)
def test_the_same_bytes_whoever_makes_them(loader_of, files, crop):
    expected = [load_epoch(loader_of(files, crop=crop, **NO_WORKERS), epoch) for epoch in (0, 1)]
    for crew in (*WORKER_POOLS, {"workers": 4, "kind": "threads"}, {"workers": 4, "kind": "processes"}):
        for mode in ("none", "encoded", "decoded"):
            stores = Cache(mode=mode).fill({"train": files}, channels=3, on_bad_file="error")
            loader = loader_of(replace(files, store=stores.get("train")), crop=crop, **crew)
            assert all(equal_batches(load_epoch(loader, epoch), expected[epoch]) for epoch in (0, 1))
            loader.close()


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_workers_are_used_for_pixels_where_they_are_asked_for(loader_of, kind):
    loader = loader_of(pixels(), workers=1, kind=kind)
    assert equal_batches(load_epoch(loader), load_epoch(loader_of(pixels())))
    assert len(live_workers()) == 1
    assert len(loader_threads()) == (kind == "threads")


def test_threads_leave_torch_its_cores(loader_of, files):
    before = torch.get_num_threads()
    load_epoch(loader_of(files, workers=2, kind="threads"))
    counts = []
    later = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert [torch.get_num_threads(), *counts] == [before, before]


def test_many_held_images_are_the_same_as_few(loader_of, files, monkeypatch):
    expected = load_epoch(loader_of(files, 10, **NO_WORKERS))
    monkeypatch.setattr(batch_builder, "MAX_BUFFERED_BYTES", 3000)
    assert equal_batches(load_epoch(loader_of(files, 10, **NO_WORKERS)), expected)


@each_pool
def test_an_epoch_is_resumed_in_the_middle(loader_of, files, crew):
    for split, size in ((files, 16), (pixels(), 20)):
        whole = loader_of(split, image_size=size, **crew)
        expected = [load_epoch(whole, epoch) for epoch in (1, 2)]
        resumed = loader_of(split, image_size=size, **crew)
        resumed.sampler.start_at(3)
        assert len(resumed) == len(whole)
        iter(resumed)  # Lightning does it, to look whether it can
        resumed.sampler.set_epoch(1)
        assert equal_batches([(images.clone(), labels) for images, labels in resumed], expected[0][3:])
        assert equal_batches(load_epoch(resumed, 2), expected[1])


@each_loader
def test_another_epoch_or_seed_gives_other_images(loader_of, crew):
    first = load_epoch(loader_of(pixels(), **crew))
    assert equal_batches(load_epoch(loader_of(pixels(), **crew)), first)
    assert not equal_batches(load_epoch(loader_of(pixels(), **crew), 1), first)
    assert not equal_batches(load_epoch(loader_of(pixels(), seed=1, **crew)), first)


@each_pool
def test_breaking_off_leaves_nothing_behind(loader_of, files, crew):
    expected = load_epoch(loader_of(files, **reference_loader(crew)), 3)
    loader = loader_of(files, **crew)
    for stop in (1, 3):
        loader.sampler.set_epoch(stop)
        for number, _ in enumerate(loader, start=1):
            if number == stop:
                break
        assert equal_batches(load_epoch(loader, 3), expected)


@each_pool
def test_an_iteration_ends_where_another_begins(loader_of, files, crew):
    loader = loader_of(files, **crew)
    first = iter(loader)
    next(first)
    next(iter(loader))
    with pytest.raises(RuntimeError, match="another one of the same loader has begun"):
        next(first)


@each_pool
def test_iterating_is_lazy(loader_of, files, crew):
    loader = loader_of(files, **crew)
    made = iter(loader)
    assert not live_workers()
    loader.sampler.set_epoch(1)  # after iter(), as Lightning does
    assert torch.equal(next(made)[0], load_epoch(loader_of(files, **reference_loader(crew)), 1)[0][0])


@each_pool
def test_thirty_epochs_in_a_row_are_whole(loader_of, files, crew):
    loader = loader_of(files, 6, image_size=8, **crew)
    for epoch in range(30):
        assert len(load_epoch(loader, epoch)) == 3  # of 20 images


@each_pool
@pytest.mark.parametrize("count", [1, 2, 3])
def test_ranks_share_the_images(loader_of, files, crew, count):
    """Evaluation sees each once, in the last batches fewer; training in one epoch none twice, in as many batches."""
    split = replace(files, labels=np.arange(20))
    seen, lengths = [], set()
    for rank in range(count):
        options = {"image_size": 8, "ranks": (rank, count), **crew}
        seen += [label for _, labels in load_epoch(loader_of(split, 3, train=False, **options)) for label in labels]
        trained = load_epoch(loader_of(split, 3, **options))
        lengths.add(len(trained))
        assert all(len(images) == len(labels) == 3 for images, labels in trained)
    assert sorted(map(int, seen)) == list(range(20))
    assert lengths == {20 // (3 * count)}


@each_pool
def test_a_kept_batch_never_changes(loader_of, files, crew):
    loader = loader_of(files, **crew)
    kept = list(loader)
    copies = [(images.clone(), labels.clone()) for images, labels in kept]
    load_epoch(loader, 1)
    loader.close()
    assert equal_batches(kept, copies)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_workers_live_on_and_end(loader_of, files, kind):
    loader = loader_of(files, workers=2, kind=kind)
    load_epoch(loader)
    first = set(live_workers())
    load_epoch(loader, 1)
    assert set(live_workers()) == first
    assert len(first) == 2
    loader.close()
    wait_for_end(first)
    load_epoch(loader)  # new ones
    second = set(live_workers())
    assert len(second) == 2
    loader.__del__()
    wait_for_end(second)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_workers_end_with_a_loader_that_was_broken_off_and_forgotten(files, kind):
    sampler = EpochSampler(len(files), 2, seed=0, train=True)
    loader = TorchLoader(
        files, sampler, augment=Augment(), train=True, image_size=8, channels=3, seed=0, workers=1, kind=kind
    )
    made = iter(loader)
    next(made)
    found = live_workers()
    assert len(found) == 1
    del loader, made
    gc.collect()
    wait_for_end(found)


@each_pool
def test_random_numbers_of_the_net_are_left_alone(loader_of, files, crew):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load_epoch(loader_of(files, **crew))
    assert torch.equal(torch.get_rng_state(), before)


def test_spawned_workers_give_the_same(loader_of, files):
    """Python 3.14 and macOS do not fork; what workers are given must be picklable."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        assert equal_batches(
            load_epoch(loader_of(files, workers=1, kind="processes")), load_epoch(loader_of(files, **NO_WORKERS))
        )
    finally:
        multiprocessing.set_start_method(before, force=True)


def test_what_workers_are_given_is_small(files, loader_of):
    assert len(pickle.dumps(loader_of(files)._batches)) < 10_000


@each_loader
def test_waiting_is_counted(loader_of, files, monkeypatch, crew):
    """By a clock that moves one second each time it is looked at: from asking for a batch to having it."""
    ticks = iter(range(1000))
    monkeypatch.setattr(loader_module.time, "perf_counter", lambda: float(next(ticks)))
    loader = loader_of(files, 5, **crew)
    load_epoch(loader)
    assert loader.wait_seconds == len(loader) + 1  # the last time, to learn that there are no more


def test_workers_by_themselves(loader_of, files, monkeypatch):
    monkeypatch.setattr(torch_loader, "usable_cores", lambda: 3)
    assert loader_of(files).workers == 3
    assert loader_of(pixels()).workers == 0
    monkeypatch.setattr(torch_loader, "usable_cores", lambda: 64)
    assert loader_of(files).workers == 8


def testusable_cores_are_those_of_this_process():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system does not bind processes to cores")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert torch_loader.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_kinds_that_cannot_be(loader_of, files):
    with pytest.raises(UserError, match=r"loader\.kind=thread: it can be auto, threads, processes"):
        loader_of(files, kind="thread")


@pytest.mark.parametrize("workers", [-1, 1.5, "many", True])
def test_workers_that_cannot_be(loader_of, files, workers):
    with pytest.raises(UserError, match=f"loader.workers={workers}: it can be auto, or a number"):
        loader_of(files, workers=workers)


@pytest.mark.parametrize("kind", ["path", "image", "pixels"])
@pytest.mark.parametrize("channels", [1, 3])
def test_preprocess_is_what_evaluation_does(files, loader_of, kind, channels):
    from PIL import Image

    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.25)[:channels]
    images, _ = next(iter(loader_of(files, train=False, channels=channels, **NO_WORKERS)))
    path = files.path(0)
    given = {"path": path, "image": Image.open(path), "pixels": np.asarray(Image.open(path))}[kind]
    made = Preprocess(16, 1.0, channels, mean, std)(given)
    assert made.shape == (channels, 16, 16)
    assert made.dtype == torch.float32
    assert torch.equal(made, normalize(images, mean, std)[0])


def test_normalize():
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    made = normalize(images, mean, std)
    view = (1, 3, 1, 1)
    expected = (images / 255 - torch.tensor(mean).view(view)) / torch.tensor(std).view(view)
    assert torch.allclose(made, expected, atol=1e-5)
    assert made.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("given", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8)])
def test_preprocess_of_what_is_no_image(given):
    with pytest.raises(ValueError, match="pixels must be uint8"):
        Preprocess(16, 1.0, 3, (0,) * 3, (1,) * 3)(given)
