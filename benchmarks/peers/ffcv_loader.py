"""FFCV's loader as a peer of loading.py, which runs it with the Python of benchmarks/peers/venvs/ffcv.

    python -m peers.ffcv_loader FOLDER BATCH WORKERS raw|jpg    # in benchmarks/

Writes the images of the folder to a temporary FFCV file, as raw pixels or as JPEGs of quality 90, with the shorter side
resized to at most 256. Then it measures on request: random-resized crop to 224, flip, shuffled, as uint8.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder
from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage
from ffcv.writer import DatasetWriter
from PIL import Image

from peers.measure import SIDE, find_images, serve_rates

SHORTER_SIDE = 256


class ImageFiles:
    """The images of a folder, at any depth, with the label 0."""

    def __init__(self, folder: Path) -> None:
        self.paths = find_images(folder)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray[Any, Any], int]:
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        factor = SHORTER_SIDE / min(image.size)
        if factor < 1:
            width, height = image.size
            image = image.resize((round(width * factor), round(height * factor)), Image.Resampling.BILINEAR)
        return np.asarray(image), 0


def main() -> None:
    folder, batch_size, workers, mode = sys.argv[1:]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        beton = f"{work}/images.beton"
        field = RGBImageField(write_mode=mode, jpeg_quality=90)
        writer = DatasetWriter(beton, {"image": field, "label": IntField()}, num_workers=int(workers))
        writer.from_indexed_dataset(ImageFiles(Path(folder)))
        loader = Loader(
            beton,
            batch_size=int(batch_size),
            num_workers=int(workers),
            order=OrderOption.RANDOM,
            os_cache=True,
            drop_last=True,
            pipelines={
                "image": [
                    RandomResizedCropRGBImageDecoder((SIDE, SIDE)),
                    RandomHorizontalFlip(),
                    ToTensor(),
                    ToTorchImage(),
                ],
                "label": [IntDecoder(), ToTensor()],
            },
        )
        serve_rates(loader, ("ffcv", "torch", "numba", "numpy"))


if __name__ == "__main__":
    main()
