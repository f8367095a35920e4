"""Folders of images, made on the spot."""

from pathlib import Path

import pytest
from made_images import save


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
