"""Images and image files for tests."""

import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from cnnzoo.data.split import Split


def make_pixels(name: str, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Waves plus noise, uint8 (H, W, C), seeded by `name`, so that all crops of all images differ."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(2, 9) + y / rng.uniform(2, 9) + rng.uniform(0, 6)) for _ in range(channels)]
    noise = rng.normal(0, 12, (height, width, channels))
    return (127 + 90 * np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8)


def save_image(path: Path, height: int = 20, width: int = 24) -> Path:
    """Save an image seeded by the file's name, and create missing folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(make_pixels(path.name, height, width)).save(path)
    return path


def make_split(paths: Iterable[Path | str]) -> Split:
    """A split of image files, whose labels are their positions."""
    names = np.array([os.fsencode(path) for path in paths])
    return Split(np.arange(len(names)), paths=names)
