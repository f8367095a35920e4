"""Fixtures: folders of generated images, and loaders."""

import contextlib
import time
from pathlib import Path

import pytest
import torch

from cnnzoo.data.datasets.folder import ImageFolder
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.transforms.augment import Augment
from tests.helpers.images import save_image
from tests.helpers.loaders import LOADERS, join_workers, loader_threads


@pytest.fixture
def tree(tmp_path: Path):
    """A function: `tree({"train/cat": 3})` saves three PNG files in tmp_path/train/cat and returns tmp_path."""

    def make(folders: dict[str, int], height: int = 20, width: int = 24) -> Path:
        for folder, count in folders.items():
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                save_image(tmp_path / folder / f"{number:03d}.png", height, width)
        return tmp_path

    return make


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A split of twenty image files, JPEGs and some PNGs, of five sizes."""
    root = tmp_path_factory.mktemp("images")
    for number in range(20):
        name = f"{number}.{'jpg' if number % 3 else 'png'}"
        save_image(root / "train" / "ab"[number % 2] / name, 18 + 4 * (number % 5), 22)
        save_image(root / "val" / "ab"[number % 2] / f"{number}.png")
    return ImageFolder(str(root)).split("train")


@pytest.fixture
def make_loader():
    """A function that makes a loader of a split. All loaders are closed after the test.

    works_ahead: the loader builds batches of the next epoch in advance, as one for a GPU does.
    may_fail: DALI may fail in this loader; in all others it must not.
    """
    loaders, reliable_loaders = [], []

    def make(
        split,
        batch_size=4,
        *,
        loader="torch",
        crop="random_resized",
        train=True,
        seed=0,
        image_size=16,
        channels=3,
        augment=None,
        rank=0,
        world_size=1,
        balance=False,
        works_ahead=False,
        may_fail=False,
        **options,
    ):
        labels = split.labels if balance else None
        sampler = EpochSampler(
            len(split), batch_size, seed=seed, train=train, rank=rank, world_size=world_size, labels=labels
        )
        augment = augment or Augment(crop=crop, flip=0.5, eval_resize=1.0)
        loader_class = LOADERS[loader]
        if works_ahead:
            loader_class = type(f"WorksAhead{loader_class.__name__}", (loader_class,), {"works_ahead": True})
        loaders.append(
            loader_class(
                split,
                sampler,
                augment=augment,
                train=train,
                image_size=image_size,
                channels=channels,
                seed=seed,
                **options,
            )
        )
        if not may_fail:
            reliable_loaders.append(loaders[-1])
        return loaders[-1]

    yield make
    for loader in loaders:
        loader.close()
    join_workers(loader_threads())
    assert not any(getattr(loader, "num_rebuilds", 0) for loader in reliable_loaders)


@pytest.fixture
def fake_cuda(monkeypatch):
    """Lets the CPU stand in for a GPU: streams do nothing, and pinned memory is ordinary memory.

    Returns the list of the streams that were created.
    """
    streams, empty_like = [], torch.empty_like

    class Stream:
        def __init__(self, device=None):
            streams.append(self)

        def record_event(self):
            return Event()

        def wait_event(self, event):
            assert isinstance(event, Event)

    class Event:
        def __init__(self, enable_timing=False):
            self.time = None

        def record(self, stream):
            self.time = time.perf_counter()

        def query(self):
            return True

        def elapsed_time(self, end):
            return (end.time - self.time) * 1000

    current_stream = Stream()
    streams.clear()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: current_stream)
    monkeypatch.setattr(torch, "empty_like", lambda tensor, pin_memory=False, **options: empty_like(tensor, **options))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    return streams
