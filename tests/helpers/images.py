"""Images and image files made on the spot."""

import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def pixels_of(name: str, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Waves under noise, uint8 (H, W, C), others for each name: no crop of them looks like another."""
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
