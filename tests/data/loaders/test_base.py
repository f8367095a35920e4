"""The epochs of a loader that is iterated without a trainer."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cnnzoo.data.cache.cache import Cache
from cnnzoo.data.datasets.builtin import Synthetic
from cnnzoo.data.transforms.augment import Augment
from tests.helpers.loaders import (
    NO_WORKERS,
    equal_batches,
    load_epoch,
    parametrize_loaders,
    parametrize_pools,
    reference_options,
)

CROPS_ONLY = Augment(crop="padded", padding=0.25, flip=0.0)


def iterate(loader):
    """All batches of one loop; the images are copies."""
    return [(images.clone(), labels) for images, labels in loader]


def order(batches):
    return torch.cat([labels for _, labels in batches]).tolist()


def images_by_label(batches):
    return torch.cat([images for images, _ in batches])[np.argsort(order(batches))]


@pytest.fixture(params=["pixels", "none", "encoded", "decoded"])
def split(request, files):
    """A split whose labels are its indices: pixels in memory, or files with each cache mode."""
    if request.param == "pixels":
        split = Synthetic(images=60, image_size=16).split("train")
    else:
        stores = Cache(mode=request.param).fill({"train": files}, channels=3, on_bad_file="error")
        split = replace(files, store=stores.get("train"))
    return replace(split, labels=np.arange(len(split)))


@parametrize_pools
def test_loader_iterations_are_successive_epochs(make_loader, split, loader_options):
    batch_size = len(split) // 4
    reference = make_loader(split, batch_size, augment=CROPS_ONLY, **reference_options(loader_options))
    loader = make_loader(split, batch_size, augment=CROPS_ONLY, **loader_options)
    epochs = [iterate(loader) for _ in range(3)]
    assert len({tuple(order(epoch)) for epoch in epochs}) == 3
    assert not any(torch.equal(images_by_label(epochs[0]), images_by_label(epoch)) for epoch in epochs[1:])
    assert all(equal_batches(epochs[epoch], load_epoch(reference, epoch)) for epoch in range(3))


@parametrize_pools
def test_loader_set_epoch_holds_until_the_next_call(make_loader, files, loader_options):
    reference = make_loader(files, **reference_options(loader_options))
    expected = [load_epoch(reference, epoch) for epoch in range(4)]
    loader = make_loader(files, **loader_options)
    iterate(loader)
    loader.set_epoch(3)
    assert equal_batches(iterate(loader), expected[3])
    assert equal_batches(iterate(loader), expected[3])
    loader.sampler.set_epoch(1)
    assert equal_batches(iterate(loader), expected[1])
    loader.set_epoch(1)
    assert equal_batches(iterate(loader), expected[1])


@parametrize_pools
def test_loader_unfinished_iteration_counts_as_an_epoch(make_loader, files, loader_options):
    reference = make_loader(files, **reference_options(loader_options))
    loader = make_loader(files, **loader_options)
    for epoch in (1, 3):
        next(iter(loader))
        iter(loader)  # requests no batch, so it does not count
        assert equal_batches(iterate(loader), load_epoch(reference, epoch))


@parametrize_loaders
def test_loader_set_epoch_after_iter_holds(make_loader, files, loader_options):
    loader = make_loader(files, **loader_options)
    iterator = iter(loader)
    loader.set_epoch(2)
    assert equal_batches(iterate(iterator), load_epoch(make_loader(files, **loader_options), 2))


@parametrize_loaders
def test_loader_start_at_applies_to_one_iteration(make_loader, files, loader_options):
    loader, reference = make_loader(files, **loader_options), make_loader(files, **loader_options)
    loader.sampler.start_at(3)
    assert equal_batches(iterate(loader), load_epoch(reference, 0)[3:])
    assert equal_batches(iterate(loader), load_epoch(reference, 1))


@parametrize_loaders
def test_loader_frozen_repeats_epoch_0(make_loader, files, loader_options):
    loader, reference = make_loader(files, **loader_options), make_loader(files, **loader_options)
    loader.sampler.frozen = True
    assert all(equal_batches(iterate(loader), load_epoch(reference)) for _ in range(2))
    loader.set_epoch(5)
    assert equal_batches(iterate(loader), load_epoch(reference))


@parametrize_pools
def test_eval_loader_iterations_are_equal(make_loader, files, loader_options):
    loader = make_loader(files, 6, train=False, **loader_options)
    first = iterate(loader)
    next(iter(loader))
    assert equal_batches(iterate(loader), first)
    loader.set_epoch(7)
    assert equal_batches(iterate(loader), first)
    assert order(first) == files.labels.tolist()


def test_loaders_of_one_seed_start_at_epoch_0(make_loader, files):
    first = iterate(make_loader(files, **NO_WORKERS))
    assert equal_batches(iterate(make_loader(files, **NO_WORKERS)), first)
    assert equal_batches(load_epoch(make_loader(files, **NO_WORKERS), 0), first)


@parametrize_pools
def test_loader_augments_each_repetition_differently(make_loader, split, loader_options):
    """Balanced training repeats the images of small classes within an epoch."""
    split = replace(split, labels=(np.arange(len(split)) >= 3).astype(np.int64))
    size = len(split)
    reference = make_loader(split, 2, balance=True, augment=CROPS_ONLY, **reference_options(loader_options))
    loader = make_loader(split, 2, balance=True, augment=CROPS_ONLY, **loader_options)
    batches = load_epoch(loader)
    assert equal_batches(batches, load_epoch(reference))
    labels = torch.cat([labels for _, labels in batches])
    assert (labels == 0).sum() == size // 2
    of_three_images = torch.cat([images for images, _ in batches])[labels == 0]
    assert len(of_three_images.flatten(1).unique(dim=0)) > 3
