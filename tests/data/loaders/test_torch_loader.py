"""What every loader promises, and the torch loader: equal batches from any workers, and no workers left running."""

import gc
import multiprocessing
import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from cnnzoo.data.cache.cache import Cache
from cnnzoo.data.datasets.builtin import Synthetic
from cnnzoo.data.loaders import batch_builder, wait_timer
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.split import Split
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.transforms.preprocess import Preprocess, normalize
from cnnzoo.errors import UserError
from cnnzoo.runtime import cpu
from tests.helpers.loaders import (
    NO_WORKERS,
    WORKER_POOLS,
    equal_batches,
    join_workers,
    live_workers,
    load_epoch,
    loader_threads,
    parametrize_loaders,
    parametrize_pools,
    reference_options,
)

CROPS = ["center", "padded", "random_resized"]


def pixel_split(images=60):
    return Synthetic(images=images, image_size=16).split("train")


@parametrize_loaders
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", CROPS)
def test_loader_batch_shapes_and_dtypes(make_loader, loader_options, crop, channels):
    loader = make_loader(pixel_split(), 8, crop=crop, channels=channels, image_size=20, **loader_options)
    for images, labels in load_epoch(loader):
        assert images.shape == (8, channels, 20, 20)
        assert images.dtype == torch.uint8
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.shape == (8,)
        assert labels.dtype == torch.int64


@parametrize_loaders
def test_loader_labels_match_pixels(make_loader, loader_options):
    split = Split(
        np.arange(30, dtype=np.int64),
        pixels=np.arange(30, dtype=np.uint8)[:, None, None, None].repeat(64, 1).reshape(30, 8, 8, 1),
    )
    batches = load_epoch(make_loader(split, crop="center", image_size=8, channels=1, batch_size=7, **loader_options))
    assert all((images == labels[:, None, None, None]).all() for images, labels in batches)
    assert len({int(label) for _, labels in batches for label in labels}) == 28


@parametrize_loaders
def test_loader_labels_match_files_of_several_sizes(make_loader, files, loader_options):
    loader = make_loader(files, 20, train=False, **loader_options)
    ((images, labels),) = load_epoch(loader)
    preprocess = Preprocess(16, 1.0, 3, (0,) * 3, (1,) * 3)
    for n in range(20):
        difference = preprocess(files.path(n)) * 255 - images[n].float()
        assert difference.abs().mean() < (1 if "loader" in loader_options else 1e-3)
    assert labels.tolist() == files.labels.tolist()


@pytest.mark.parametrize("crop", [*(pytest.param(crop, marks=pytest.mark.long) for crop in CROPS[:2]), CROPS[2]])
def test_torch_loader_any_workers_and_cache_equal_bytes(make_loader, files, crop):
    expected = [load_epoch(make_loader(files, crop=crop, **NO_WORKERS), epoch) for epoch in (0, 1)]
    for loader_options in (*WORKER_POOLS, {"workers": 4, "kind": "threads"}, {"workers": 4, "kind": "processes"}):
        for mode in ("none", "encoded", "decoded"):
            stores = Cache(mode=mode).fill({"train": files}, channels=3, on_bad_file="error")
            loader = make_loader(replace(files, store=stores.get("train")), crop=crop, **loader_options)
            assert all(equal_batches(load_epoch(loader, epoch), expected[epoch]) for epoch in (0, 1))
            loader.close()


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_torch_loader_pixels_with_explicit_workers(make_loader, kind):
    loader = make_loader(pixel_split(), workers=1, kind=kind)
    assert equal_batches(load_epoch(loader), load_epoch(make_loader(pixel_split())))
    assert len(live_workers()) == 1
    assert len(loader_threads()) == (kind == "threads")


def test_thread_pool_keeps_torch_num_threads(make_loader, files):
    num_threads = torch.get_num_threads()
    load_epoch(make_loader(files, workers=2, kind="threads"))
    counts = []
    thread = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [torch.get_num_threads(), *counts] == [num_threads, num_threads]


def test_batch_builder_small_buffer_gives_equal_batches(make_loader, files, monkeypatch):
    expected = load_epoch(make_loader(files, 10, **NO_WORKERS))
    monkeypatch.setattr(batch_builder, "MAX_BUFFERED_BYTES", 3000)
    assert equal_batches(load_epoch(make_loader(files, 10, **NO_WORKERS)), expected)


@parametrize_pools
def test_loader_resumes_within_an_epoch(make_loader, files, loader_options):
    for split, size in ((files, 16), (pixel_split(), 20)):
        uninterrupted = make_loader(split, image_size=size, **loader_options)
        expected = [load_epoch(uninterrupted, epoch) for epoch in (1, 2)]
        resumed = make_loader(split, image_size=size, **loader_options)
        resumed.sampler.start_at(3)
        assert len(resumed) == len(uninterrupted)
        iter(resumed)  # Lightning does this to check that the loader is iterable
        resumed.sampler.set_epoch(1)
        assert equal_batches([(images.clone(), labels) for images, labels in resumed], expected[0][3:])
        assert equal_batches(load_epoch(resumed, 2), expected[1])


@parametrize_loaders
def test_loader_images_depend_on_epoch_and_seed(make_loader, loader_options):
    first = load_epoch(make_loader(pixel_split(), **loader_options))
    assert equal_batches(load_epoch(make_loader(pixel_split(), **loader_options)), first)
    assert not equal_batches(load_epoch(make_loader(pixel_split(), **loader_options), 1), first)
    assert not equal_batches(load_epoch(make_loader(pixel_split(), seed=1, **loader_options)), first)


@parametrize_pools
def test_loader_unfinished_iteration_leaves_no_batches(make_loader, files, loader_options):
    expected = load_epoch(make_loader(files, **reference_options(loader_options)), 3)
    loader = make_loader(files, **loader_options)
    for stop in (1, 3):
        loader.sampler.set_epoch(stop)
        for number, _ in enumerate(loader, start=1):
            if number == stop:
                break
        assert equal_batches(load_epoch(loader, 3), expected)


@parametrize_pools
def test_loader_new_iteration_invalidates_the_old_one(make_loader, files, loader_options):
    loader = make_loader(files, **loader_options)
    first = iter(loader)
    next(first)
    next(iter(loader))
    with pytest.raises(RuntimeError, match="a newer iteration of the same loader has started"):
        next(first)


@parametrize_pools
def test_loader_iter_is_lazy(make_loader, files, loader_options):
    loader = make_loader(files, **loader_options)
    iterator = iter(loader)
    assert not live_workers()
    loader.sampler.set_epoch(1)  # after iter(), as Lightning does
    expected = load_epoch(make_loader(files, **reference_options(loader_options)), 1)
    assert torch.equal(next(iterator)[0], expected[0][0])


@parametrize_pools
def test_loader_thirty_epochs_are_complete(make_loader, files, loader_options):
    loader = make_loader(files, 6, image_size=8, **loader_options)
    for epoch in range(30):
        assert len(load_epoch(loader, epoch)) == 3  # of 20 images


@parametrize_pools
@pytest.mark.parametrize("world_size", [1, 3])
def test_loader_ranks_share_the_images(make_loader, files, loader_options, world_size):
    """Evaluation: every image once, in batches that may be short. Training: full batches, the same number per rank."""
    split = replace(files, labels=np.arange(20))
    eval_labels, train_lengths = [], set()
    for rank in range(world_size):
        options = {"image_size": 8, "rank": rank, "world_size": world_size, **loader_options}
        eval_batches = load_epoch(make_loader(split, 3, train=False, **options))
        eval_labels += [int(label) for _, labels in eval_batches for label in labels]
        train_batches = load_epoch(make_loader(split, 3, **options))
        train_lengths.add(len(train_batches))
        assert all(len(images) == len(labels) == 3 for images, labels in train_batches)
    assert sorted(eval_labels) == list(range(20))
    assert train_lengths == {20 // (3 * world_size)}


@parametrize_pools
def test_loader_kept_batches_never_change(make_loader, files, loader_options):
    loader = make_loader(files, **loader_options)
    batches = list(loader)
    copies = [(images.clone(), labels.clone()) for images, labels in batches]
    load_epoch(loader, 1)
    loader.close()
    assert equal_batches(batches, copies)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_workers_live_until_close(make_loader, files, kind):
    loader = make_loader(files, workers=2, kind=kind)
    load_epoch(loader)
    first = set(live_workers())
    load_epoch(loader, 1)
    assert set(live_workers()) == first
    assert len(first) == 2
    loader.close()
    join_workers(first)
    load_epoch(loader)  # with new workers
    second = set(live_workers())
    assert len(second) == 2
    loader.__del__()
    join_workers(second)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_workers_end_when_loader_is_garbage_collected(files, kind):
    sampler = EpochSampler(len(files), 2, seed=0, train=True)
    loader = TorchLoader(
        files, sampler, augment=Augment(), train=True, image_size=8, channels=3, seed=0, workers=1, kind=kind
    )
    iterator = iter(loader)
    next(iterator)
    workers = live_workers()
    assert len(workers) == 1
    del loader, iterator
    gc.collect()
    join_workers(workers)


@parametrize_pools
def test_loader_keeps_torch_rng_state(make_loader, files, loader_options):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    load_epoch(make_loader(files, **loader_options))
    assert torch.equal(torch.get_rng_state(), state)


def test_spawned_workers_give_equal_batches(make_loader, files):
    """Python 3.14 and macOS do not fork, so everything that workers receive must be picklable."""
    start_method = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        assert equal_batches(
            load_epoch(make_loader(files, workers=1, kind="processes")), load_epoch(make_loader(files, **NO_WORKERS))
        )
    finally:
        multiprocessing.set_start_method(start_method, force=True)


def test_batch_builder_pickle_is_small(files, make_loader):
    assert len(pickle.dumps(make_loader(files)._builder)) < 10_000


@parametrize_loaders
def test_loader_wait_seconds_counts_each_batch(make_loader, files, monkeypatch, loader_options):
    """With a clock that advances one second per call, each wait takes one second."""
    ticks = iter(range(1000))
    monkeypatch.setattr(wait_timer.time, "perf_counter", lambda: float(next(ticks)))
    loader = make_loader(files, 5, **loader_options)
    load_epoch(loader)
    assert loader.wait_seconds == len(loader) + 1  # the last wait ends the iteration


def test_torch_loader_auto_workers_share_the_cores(make_loader, files, monkeypatch):
    monkeypatch.setattr(cpu, "usable_cores", lambda: 64)
    assert make_loader(files).workers == 64
    assert make_loader(files, local_ranks=8).workers == 8
    assert make_loader(files, local_ranks=8, workers=3).workers == 3
    assert make_loader(pixel_split()).workers == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"workers": 2}, "torch, 2 processes"),
        ({"workers": 1}, "torch, 1 process"),
        ({"workers": 1, "kind": "threads"}, "torch, 1 thread"),
        ({"workers": 3, "kind": "processes"}, "torch, 3 processes"),
        ({"workers": 0, "kind": "threads"}, "torch, in the training process"),
    ],
)
def test_torch_loader_describe(make_loader, files, options, text):
    assert make_loader(files, **options).describe() == text


def test_torch_loader_unknown_kind_raises(make_loader, files):
    with pytest.raises(UserError, match=r"loader\.kind=thread: expected auto, threads or processes"):
        make_loader(files, kind="thread")


@pytest.mark.parametrize("workers", [-1, 1.5, "many", True])
def test_torch_loader_invalid_workers_raise(make_loader, files, workers):
    with pytest.raises(UserError, match=f"loader.workers={workers}: expected a whole number >= 0 or auto"):
        make_loader(files, workers=workers)


@pytest.mark.parametrize("kind", ["path", "image", "pixels"])
@pytest.mark.parametrize("channels", [1, 3])
def test_preprocess_equals_evaluation(files, make_loader, kind, channels):
    from PIL import Image

    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.25)[:channels]
    images, _ = next(iter(make_loader(files, train=False, channels=channels, **NO_WORKERS)))
    path = files.path(0)
    source = {"path": path, "image": Image.open(path), "pixels": np.asarray(Image.open(path))}[kind]
    image = Preprocess(16, 1.0, channels, mean, std)(source)
    assert image.shape == (channels, 16, 16)
    assert image.dtype == torch.float32
    assert torch.equal(image, normalize(images, mean, std)[0])


def test_normalize_equals_formula():
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    normalized = normalize(images, mean, std)
    view = (1, 3, 1, 1)
    expected = (images / 255 - torch.tensor(mean).view(view)) / torch.tensor(std).view(view)
    assert torch.allclose(normalized, expected, atol=1e-5)
    assert normalized.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("pixels", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8)])
def test_preprocess_invalid_pixels_raise(pixels):
    with pytest.raises(UserError, match="pixels must be uint8"):
        Preprocess(16, 1.0, 3, (0,) * 3, (1,) * 3)(pixels)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("notes.txt", r"^notes\.txt: not an image, or in a format that Pillow does not support$"),
        ("gone.png", r"^gone\.png: No such file or directory$"),
        (5, r"^expected the path of an image, .* uint8 pixels, not int$"),
        (torch.zeros(3, 4, 4), r"uint8 pixels, not Tensor$"),
    ],
)
def test_preprocess_other_values_are_an_error(image, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("a file")
    with pytest.raises(UserError, match=message):
        Preprocess(16, 1.0, 3, (0,) * 3, (1,) * 3)(image)


@pytest.mark.parametrize(("size", "channels", "message"), [(0, 3, "^image_size=0: "), (8, 0, "^channels=0: ")])
def test_preprocess_values_out_of_range_are_an_error(size, channels, message):
    with pytest.raises(UserError, match=message):
        Preprocess(size, 1.0, channels, (0,) * 3, (1,) * 3)
