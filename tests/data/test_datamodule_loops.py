"""Loops over the loaders of a data module that no trainer has set up: the epochs and the cache."""

from contextlib import closing
from dataclasses import replace
from functools import partial

import pytest
import pytorch_lightning as pl

from cnnzoo.data.cache import available_memory
from cnnzoo.data.cache.cache import Cache
from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.datasets.builtin import Synthetic
from cnnzoo.data.datasets.folder import ImageFolder
from cnnzoo.data.transforms.decode import OTHER_FORMAT, UNVERIFIED
from tests.helpers.loaders import DALI, LOADERS, NO_WORKERS, loader_params


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


@pytest.mark.parametrize("decoded", [True, False])
def test_loader_is_chosen_for_the_filled_cache(cached_data, monkeypatch, decoded):
    """The choice before `cache.mode=auto` is decided by filling is the same as after it."""
    monkeypatch.setattr(available_memory, "available_bytes", lambda: 10**9 if decoded else 50_000)
    data = cached_data("auto")
    assert not data.build_loader("train").split.cache_decodes
    data.resolve_cache()
    assert data.resolved_cache == Cache("decoded" if decoded else "encoded")
    assert data.build_loader("train").split.cache_decodes == decoded
    assert (data.train_dataloader().split.store.channels is not None) == decoded
    data.resolved_cache = replace(data.resolved_cache, mode="encoded" if decoded else "decoded")  # of another process
    assert all(data.build_loader(name).split.cache_decodes == decoded for name in ("train", "val"))
    data.set_input(image_size=8, channels=1)
    assert data.resolved_cache == data.cache == Cache("auto")


@pytest.mark.parametrize("loader_options", loader_params([NO_WORKERS, DALI]))
def test_cache_is_verified_if_the_loader_needs_it(cached_data, loader_options):
    options = {"loader": "torch", **loader_options}
    loader_class = LOADERS[options.pop("loader")]
    data = cached_data("encoded").variant(loader=partial(loader_class, **options))
    kinds = set(data.train_dataloader().split.store.index["kind"].tolist())
    assert kinds == {OTHER_FORMAT if loader_class.verifies_jpegs else UNVERIFIED}  # the files are PNGs
    data.teardown()
