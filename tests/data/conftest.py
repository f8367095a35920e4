"""Folders of images, made on the spot, and loaders of them."""

from pathlib import Path

import pytest

from cnnzoo.data.datasets.folder import ImageFolder
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.transforms.augment import Augment
from tests.helpers.images import save
from tests.helpers.loaders import LOADERS, loader_threads, wait_for_end


@pytest.fixture
def tree(tmp_path: Path):
    """A function: given {"train/cat": 3} it makes three PNG files in tmp_path/train/cat, and returns tmp_path."""

    def make(folders: dict[str, int], height: int = 20, width: int = 24) -> Path:
        for folder, count in folders.items():
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                save(tmp_path / folder / f"{number:03d}.png", height, width)
        return tmp_path

    return make


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Twenty images of five sizes, JPEGs but for some, as a split of files."""
    root = tmp_path_factory.mktemp("images")
    for number in range(20):
        name = f"{number}.{'jpg' if number % 3 else 'png'}"
        save(root / "train" / "ab"[number % 2] / name, 18 + 4 * (number % 5), 22)
        save(root / "val" / "ab"[number % 2] / f"{number}.png")
    return ImageFolder(str(root)).split("train")


@pytest.fixture
def loader_of():
    """A function that makes a loader; the loaders' workers end with the test."""
    made = []

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
        ranks=(0, 1),
        **options,
    ):
        sampler = EpochSampler(len(split), batch_size, seed=seed, train=train, rank=ranks[0], world_size=ranks[1])
        augment = augment or Augment(crop=crop, flip=0.5, eval_resize=1.0)
        made.append(
            LOADERS[loader](
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
        return made[-1]

    yield make
    for loader in made:
        loader.close()
    wait_for_end(loader_threads())
