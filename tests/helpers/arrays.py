"""Images that are not 8-bit grey or RGB: TIFF, PNG and NumPy files."""

import zlib

import cv2
import numpy as np
import tifffile


def make_array(name: str, height: int, width: int, channels: int, dtype=np.uint16) -> np.ndarray:
    """Waves plus noise over the full range of `dtype`, (H, W, C), seeded by `name`."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(3, 9) + y / rng.uniform(3, 9) + rng.uniform(0, 6)) for _ in range(channels)]
    values = 0.5 + 0.4 * np.stack(waves, -1) + rng.normal(0, 0.03, (height, width, channels))
    return (values.clip(0, 1) * np.iinfo(dtype).max).astype(dtype)


def save_array(path, pixels, **options):
    """Save pixels (H, W, C) in the format of the path's extension; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".png":
        order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
        cv2.imwrite(str(path), pixels[..., order])
    else:
        options = {"photometric": "minisblack", "planarconfig": "contig", **options}
        tifffile.imwrite(path, pixels[..., 0] if pixels.shape[-1] == 1 else pixels, **options)
    return path
