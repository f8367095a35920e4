"""What is shown and saved while training, each callback by itself."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cnnzoo.callbacks import BestCheckpoint, ProgressBar, Speed
from cnnzoo.callbacks.board import captioned_grid
from cnnzoo.errors import UserError


def test_a_grid_is_as_square_as_it_can_be_and_has_its_captions_below():
    images = torch.zeros(5, 1, 8, 8)
    images[4] = 1.0
    grid = captioned_grid(images, ["a", "b", "c", "d", "e"])
    assert grid.shape == (2 * 78, 3 * 64, 3)
    assert grid.dtype == np.uint8
    assert (grid[:64, :64] == 0).all()  # the first image, black
    assert (grid[78 : 78 + 64, 64:128] == 255).all()  # the fifth, in the second row, white
    assert (grid[64:78, :64] < 128).any()  # its caption
    assert (grid[78:, 128:] == 255).all()  # the tile that stays empty


def test_a_long_caption_stays_in_its_tile():
    grid = captioned_grid(torch.zeros(2, 3, 64, 64), ["a name that is much too long for it", ""])
    assert (grid[64:, :64] < 128).any()
    assert (grid[64:, 64:] == 255).all()


def test_large_images_are_not_made_smaller():
    assert captioned_grid(torch.zeros(1, 3, 100, 100), ["a"]).shape == (114, 100, 3)


@pytest.mark.parametrize(
    ("monitor", "values", "best"),
    [
        ("val/acc1", [0.5, 0.9, 0.9, 0.7], 2),
        ("val/acc1", [0.5, 0.9, 0.8, 0.7], 1),
        ("val/loss", [0.5, 0.2, 0.2, 0.3], 2),
    ],
)
def test_the_best_checkpoint_is_the_latest_of_the_best(tmp_path, monitor, values, best):
    checkpoint = BestCheckpoint(str(tmp_path), monitor=monitor)
    trainer = SimpleNamespace(strategy=SimpleNamespace(reduce_boolean_decision=lambda decision: decision))
    saved = []
    for epoch, value in enumerate(values):
        if checkpoint.check_monitor_top_k(trainer, torch.tensor(value)):
            saved.append(epoch)
            checkpoint.best_k_models = {"best.ckpt": torch.tensor(value)}
            checkpoint.kth_best_model_path = "best.ckpt"
    assert saved[-1] == best


class Module:
    def __init__(self):
        self.logged = {}

    def log(self, name, value, **_):
        self.logged.setdefault(name, []).append(value)


def test_speed_counts_images_and_the_share_of_waiting(monkeypatch):
    clock = iter([0.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr("cnnzoo.callbacks.speed.time.perf_counter", lambda: next(clock))
    loader = SimpleNamespace(wait_seconds=0.0)
    trainer, module, speed = SimpleNamespace(train_dataloader=loader, world_size=2), Module(), Speed(window=2)
    speed.on_train_epoch_start(trainer, module)
    for waited in (0.5, 0.25, 0.0):
        loader.wait_seconds += waited
        speed.on_train_batch_end(trainer, module, None, (None, [0] * 8), 0)
    assert module.logged["perf/images_per_second"] == [16.0, 16.0, 16.0]
    assert module.logged["perf/data_wait"] == [0.5, 0.375, 0.125]
    assert (speed.epoch_images_per_second, speed.epoch_data_wait) == (16.0, 0.25)


def test_speed_needs_a_window():
    with pytest.raises(UserError, match=r"callbacks\.speed\.window=0"):
        Speed(window=0)


def test_the_bar_shows_short_names(monkeypatch):
    metrics = {"train/loss": 0.51234, "train/acc1": 0.9, "perf/images_per_second": 12345.6, "perf/data_wait": 0.1}
    monkeypatch.setattr("pytorch_lightning.callbacks.RichProgressBar.get_metrics", lambda *_: metrics)
    assert ProgressBar().get_metrics(None, None) == {"loss": "0.512", "acc1": "0.900", "images/s": "12,346"}
