"""Progressive image size: the size of each epoch, and the batches of every loader whose images grow."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.datasets.builtin import Synthetic
from cnnzoo.data.loaders.progressive import grow_images, progressive_size
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.errors import UserError
from tests.helpers.loaders import (
    DALI,
    FILE_POOLS,
    GPU_DATASET,
    NO_WORKERS,
    equal_batches,
    live_workers,
    load_epoch,
    loader_params,
    reference_options,
)

SIZES = [24, 24, 26, 28, 28]
"""Of epochs 0 to 4, when images grow from 24 to 28 pixels in 4 epochs."""


@pytest.mark.parametrize(
    ("epochs", "start", "final", "sizes"),
    [
        (16, 160, 224, [160, 160, 160, 176, 176, 176, 192, 192, 192, 208, 208, 208, 224, 224, 224, 224]),
        (8, 100, 224, [100, 112, 128, 160, 176, 192, 224, 224]),
        (4, 24, 28, SIZES[:4]),
        (4, 12, 16, [12, 13, 14, 16]),
        (2, 8, 16, [8, 16]),
        (1, 8, 16, [16]),
        (3, 16, 16, [16, 16, 16]),
    ],
)
def test_progressive_size_of_each_epoch(epochs, start, final, sizes):
    square, wide = (final, final), (final, 2 * final)
    assert [progressive_size(epoch, epochs, start, square) for epoch in range(epochs)] == [(s, s) for s in sizes]
    assert [progressive_size(epoch, epochs, start, wide) for epoch in range(epochs)] == [(s, 2 * s) for s in sizes]
    assert progressive_size(epochs, epochs, start, square) == square  # a resumed run may train longer


@pytest.fixture
def make_growing(make_loader, files):
    """A function that makes a loader of `files` whose images have `SIZES`."""

    def make(**options):
        loader = make_loader(files, image_size=28, **options)
        grow_images(loader, start=24, epochs=4)
        return loader

    return make


def iterate(loader):
    """All batches of one loop; the images are copies."""
    return [(images.clone(), labels) for images, labels in loader]


@pytest.mark.parametrize("loader_options", loader_params([*FILE_POOLS, {**DALI, "works_ahead": True}, GPU_DATASET]))
def test_growing_loader_equals_loaders_of_each_size(make_loader, make_growing, files, loader_options):
    references = [make_loader(files, image_size=size, **reference_options(loader_options)) for size in SIZES]
    expected = [load_epoch(reference, epoch) for epoch, reference in enumerate(references)]
    loader = make_growing(**loader_options)
    assert loader.image_size == (24, 24)
    for epoch in range(5):
        assert equal_batches(iterate(loader), expected[epoch])

    for epoch in (3, 0, 2, 2, 1):
        assert equal_batches(load_epoch(loader, epoch), expected[epoch])
    loader.set_epoch(2)
    next(iter(loader))  # stopped early
    loader.sampler.start_at(3)
    assert equal_batches(iterate(loader), expected[2][3:])
    iterator = iter(loader)
    loader.set_epoch(3)
    assert equal_batches(iterate(iterator), expected[3])
    loader.close()
    assert equal_batches(iterate(loader), expected[3])


def test_growing_loader_stops_the_workers_of_a_size(make_growing):
    loader = make_growing(workers=2, kind="processes", works_ahead=True)
    load_epoch(loader, 0)
    workers = live_workers()
    load_epoch(loader, 1)
    assert live_workers() == workers  # the same size
    load_epoch(loader, 2)
    assert len(live_workers()) == 2
    assert not any(worker.is_alive() for worker in workers)


def test_growing_loader_ends_older_iterations(make_growing):
    loader = make_growing(**NO_WORKERS)
    iterator = iter(loader)
    next(iterator)
    load_epoch(loader, 3)
    with pytest.raises(RuntimeError, match="no longer valid"):
        next(iterator)


class Recorder(pl.LightningModule):
    """Records the image size of each batch."""

    def __init__(self):
        super().__init__()
        self.weight, self.sizes = torch.nn.Parameter(torch.zeros(1)), {"train": [], "val": []}

    def training_step(self, batch, batch_idx):
        assert batch[0].shape[2] == batch[0].shape[3]
        self.sizes["train"].append(batch[0].shape[2])
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.sizes["val"].append(batch[0].shape[2])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())


def make_data(**options):
    return DataModule(
        partial(Synthetic, images=100, image_size=8),
        batch_size=35,
        image_size=28,
        start_size=24,
        **{"loader": partial(TorchLoader, workers=1), **options},
    )


def fit(data, **options):
    """The image sizes that a trainer gets."""
    module = Recorder()
    outputs = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options |= dict.fromkeys(outputs, False)
    pl.Trainer(accelerator="cpu", devices=1, num_sanity_val_steps=0, **options).fit(module, datamodule=data)
    return module.sizes


def test_trainer_grows_training_images_only():
    sizes = fit(make_data(), max_epochs=4)
    assert sizes["train"] == [size for size in SIZES[:4] for _ in range(2)]
    assert set(sizes["val"]) == {28}


@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.parametrize("options", [{"overfit_batches": 1, "max_epochs": 3}, {"fast_dev_run": True}])
def test_debugging_runs_use_the_final_size(options):
    assert set(fit(make_data(), **options)["train"]) == {28}


def test_loop_without_trainer_uses_the_final_size():
    assert {images.shape[2] for images, _ in make_data().train_dataloader()} == {28}


def test_growing_without_a_number_of_epochs_is_an_error():
    with pytest.raises(UserError, match=r"^trainer\.max_epochs=-1: data\.start_size=24 needs a number of epochs; set "):
        fit(make_data(), max_epochs=-1, max_steps=2)


def test_growing_with_another_kind_of_loader_is_an_error():
    class OtherLoader:
        def __init__(self, *arguments, **options):
            pass

    with pytest.raises(UserError, match=r"^data\.start_size=24: the loader OtherLoader cannot change its image size"):
        fit(make_data(loader=OtherLoader), max_epochs=1)


def test_start_size_above_the_image_size_is_an_error():
    with pytest.raises(
        UserError, match=r"^data\.start_size=24: the image size is 16; type a smaller data\.start_size$"
    ):
        make_data().set_input(image_size=16, channels=3)
