"""SPDL's loader as a peer of loading.py, which runs it with the Python of benchmarks/peers/venvs/spdl.

    python -m peers.spdl_loader FOLDER BATCH WORKERS            # in benchmarks/

`spdl.dataloader.DataLoader` as in its docstring: threads read and decode each file, others copy the frames to a buffer.
FFmpeg's filters augment before the conversion to RGB, as SPDL's documentation advises ("Using filters for
augmentation"). It measures on request: random-resized crop to 224, flip, shuffled, as uint8.
"""

import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import spdl.io
import torch
from spdl.dataloader import DataLoader
from torch import Tensor

from peers.measure import SIDE, find_images, serve_rates

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
ATTEMPTS = 10


class ShuffledFiles:
    """The paths of a folder's images, in another order in each iteration."""

    def __init__(self, folder: Path) -> None:
        self.paths = find_images(folder)

    def __iter__(self) -> Iterator[str]:
        return iter(random.sample(self.paths, len(self.paths)))


def sample_crop(width: int, height: int) -> tuple[int, int, int, int]:
    """Width, height, left and top of a random crop, sampled as torchvision's `RandomResizedCrop` does."""
    for _ in range(ATTEMPTS):
        area = width * height * random.uniform(*SCALE)
        ratio = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left, top = random.randint(0, width - crop_width), random.randint(0, height - crop_height)
            return crop_width, crop_height, left, top
    crop_width = min(width, round(height * RATIO[1]))
    crop_height = min(height, round(width / RATIO[0]))
    return crop_width, crop_height, (width - crop_width) // 2, (height - crop_height) // 2


def decode(path: str) -> spdl.io.ImageFrames:
    """Read, decode and augment one image."""
    packets = spdl.io.demux_image(path)
    width, height, left, top = sample_crop(packets.codec.width, packets.codec.height)
    filters = f"crop={width}:{height}:{left}:{top},scale={SIDE}:{SIDE}:flags=bilinear"
    if random.random() < 0.5:
        filters += ",hflip"
    description = spdl.io.get_video_filter_desc(filter_desc=filters, pix_fmt="rgb24")
    return spdl.io.decode_packets(packets, filter_desc=description)


def build_batch(frames: list[spdl.io.ImageFrames]) -> Tensor:
    """Copy the frames to one tensor, (N, C, H, W)."""
    return spdl.io.to_torch(spdl.io.convert_frames(frames)).permute(0, 3, 1, 2)


def main() -> None:
    folder, batch_size, workers = sys.argv[1:]
    torch.set_num_threads(1)
    loader = DataLoader(
        ShuffledFiles(Path(folder)),
        preprocessor=decode,
        batch_size=int(batch_size),
        drop_last=True,
        aggregator=build_batch,
        num_threads=int(workers),
    )
    serve_rates(loader, ("spdl", "spdl-io", "torch"))


if __name__ == "__main__":
    main()
