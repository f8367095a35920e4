"""Image files made on the spot."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def pixels_of(name: str, height: int, width: int, channels: int = 3) -> np.ndarray:
    """A smooth image with some noise, uint8 (H, W, C), its own for each name: nothing that a wrong crop would leave alike."""
    chance = np.random.default_rng(zlib.crc32(name.encode()))
    y, x = np.mgrid[:height, :width]
    waves = [
        np.sin(x / chance.uniform(2, 9) + y / chance.uniform(2, 9) + chance.uniform(0, 6)) for _ in range(channels)
    ]
    noise = chance.normal(0, 12, (height, width, channels))
    return (127 + 90 * np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8)


def save(path: Path, height: int = 20, width: int = 24) -> Path:
    """An image file of that name, in folders made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_of(path.name, height, width)).save(path)
    return path


@pytest.fixture
def tree(tmp_path: Path):
    """tree({"train/cat": 3}) makes three PNG files in tmp_path/train/cat, and returns tmp_path."""

    def make(folders: dict[str, int], height: int = 20, width: int = 24) -> Path:
        for folder, count in folders.items():
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                save(tmp_path / folder / f"{number:03d}.png", height, width)
        return tmp_path

    return make
