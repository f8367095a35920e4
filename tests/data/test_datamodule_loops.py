"""Loops over the loaders of a data module that no trainer has set up: the epochs and the cache."""

from contextlib import closing
from functools import partial

import pytest
import pytorch_lightning as pl

from cnnzoo.data.cache.cache import Cache
from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.datasets.builtin import Synthetic
from cnnzoo.data.datasets.folder import ImageFolder


@pytest.fixture
def cached_data(tree):
    """A function that makes a data module of image files with a cache mode."""
    root = str(tree({"train/a": 8, "train/b": 8, "val/a": 2, "val/b": 2}))
    return lambda mode: DataModule(ImageFolder, root=root, batch_size=2, image_size=8, cache=Cache(mode=mode))


def test_new_loaders_start_at_epoch_0():
    def labels():
        return [labels.tolist() for _, labels in data.train_dataloader()]

    data = DataModule(partial(Synthetic, images=100, image_size=8), batch_size=10)
    first, second = labels(), labels()
    assert first != second
    data.teardown()
    assert labels() == first
    data.set_input(image_size=8, channels=3)
    assert labels() == first
    assert labels() == second


@pytest.mark.parametrize("mode", ["encoded", "decoded", "auto"])
def test_train_loader_without_trainer_fills_the_cache(cached_data, mode):
    data = cached_data(mode)
    loader = data.train_dataloader()
    assert loader.split.store.num_cached == 16
    assert data.val_dataloader().split.store.num_cached == 4
    assert data.train_dataloader() is loader


def test_train_loader_refills_a_dropped_cache(cached_data):
    data = cached_data("decoded")
    store = data.train_dataloader().split.store
    data.teardown()
    assert data.train_dataloader().split.store is not store
    data.set_input(image_size=8, channels=1)
    assert data.train_dataloader().split.store.get(0)[0].shape[2] == 1


def test_other_loaders_use_but_do_not_fill_the_cache(cached_data):
    data = cached_data("decoded")
    assert data.val_dataloader().split.store is None
    with closing(data.build_loader("train")) as loader:
        assert loader.split.store is None
    store = data.train_dataloader().split.store
    assert store.num_cached == 16
    with closing(data.build_loader("train")) as loader:
        assert loader.split.store is store
    assert data.val_dataloader().split.store.num_cached == 4


def test_cache_mode_none_keeps_other_loaders(cached_data):
    data = cached_data("none")
    val_loader = data.val_dataloader()
    assert data.train_dataloader().split.store is None
    assert data.val_dataloader() is val_loader


def test_train_loader_with_trainer_does_not_fill_the_cache(cached_data):
    data = cached_data("decoded")
    data.trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    assert data.train_dataloader().split.store is None
    data.setup("fit")
    assert data.train_dataloader().split.store.num_cached == 16
