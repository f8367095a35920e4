"""Generated photographs for `benchmark.py job=gpu`, so that it needs no data set."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from cnnzoo.runtime.cpu import usable_cores

CLASSES = 10
OCTAVES = (2, 4, 8, 16, 32, 64, 128, 256)
"""Cells per side of the random grids that are added up; their contrast is inverse to it, as in photographs."""
SHAPES = 8  # ellipses with sharp edges
JPEG_QUALITY = 90


def write_photographs(root: Path, splits: dict[str, int], min_side: int, max_side: int) -> None:
    """Write JPEGs of mixed sizes to `root/<split>/<class>/`, the same for the same arguments.

    splits: the number of images of each split.
    min_side, max_side: range of the heights and widths, in pixels.
    """
    names = [(split, number) for split, count in splits.items() for number in range(count)]
    for split in splits:
        for label in range(CLASSES):
            (root / split / f"class{label}").mkdir(parents=True, exist_ok=True)

    def write(seed: int) -> None:
        split, number = names[seed]
        rng = np.random.default_rng(seed)
        height, width = rng.integers(min_side, max_side + 1, 2).tolist()
        jpeg = simplejpeg.encode_jpeg(make_photograph(rng, height, width), JPEG_QUALITY, colorsubsampling="420")
        (root / split / f"class{number % CLASSES}" / f"{number:05}.jpg").write_bytes(jpeg)

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(write, range(len(names))))


def make_photograph(rng: np.random.Generator, height: int, width: int) -> npt.NDArray[np.uint8]:
    """An RGB image (height, width, 3) with the frequencies of a photograph: smooth areas, texture, and sharp edges."""
    image = np.full((height, width, 3), 128, np.float32)
    for cells in OCTAVES:
        grid = rng.standard_normal((cells, cells, 1), np.float32) * 0.8
        grid = grid + rng.standard_normal((cells, cells, 3), np.float32) * 0.3  # less contrast in color than in light
        image += 90 / cells**0.6 * cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
    for _ in range(SHAPES):
        center, axes = rng.integers(0, (width, height)).tolist(), rng.integers(4, max(5, min(height, width) // 4), 2)
        color = rng.integers(0, 256, 3).tolist()
        cv2.ellipse(image, center, axes.tolist(), float(rng.uniform(0, 180)), 0, 360, color, -1)
    return image.clip(0, 255).astype(np.uint8)
