"""The FFCV loader for loading.py, run by the Python of an environment with FFCV (its option `--ffcv PYTHON`).

    python ffcv_peer.py FOLDER raw|jpg WORKERS [SIDE]

Writes the images of the folder to a temporary FFCV file, as raw pixels or as JPEGs of quality 90, with the shorter side
resized to at most SIDE. Then it reads numbers of epochs from its standard input. For each number it loads that many
epochs and prints images per second: random-resized crop to 224, flip, shuffled, batches of 64 as uint8.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder
from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage
from ffcv.writer import DatasetWriter
from PIL import Image

BATCH, CROP = 64, 224


class ImageFiles:
    """The images of a folder, at any depth, with the label 0."""

    def __init__(self, folder: Path, side: int) -> None:
        self.paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        self.side = side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        factor = self.side / min(image.size)
        if self.side and factor < 1:
            width, height = image.size
            image = image.resize((round(width * factor), round(height * factor)), Image.Resampling.BILINEAR)
        return np.asarray(image), 0


def main() -> None:
    folder, mode, workers = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    side = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        beton = f"{work}/images.beton"
        field = RGBImageField(write_mode=mode, jpeg_quality=90)
        writer = DatasetWriter(beton, {"image": field, "label": IntField()}, num_workers=workers)
        writer.from_indexed_dataset(ImageFiles(folder, side))
        loader = Loader(
            beton,
            batch_size=BATCH,
            num_workers=workers,
            sampler=OrderOption.RANDOM,
            os_cache=True,
            drop_last=True,
            pipelines={
                "image": [
                    RandomResizedCropRGBImageDecoder((CROP, CROP)),
                    RandomHorizontalFlip(),
                    ToTensor(),
                    ToTorchImage(),
                ],
                "label": [IntDecoder(), ToTensor()],
            },
        )
        print("ready", flush=True)
        for line in sys.stdin:
            images, start = 0, time.perf_counter()
            for _ in range(int(line)):
                for batch, _ in loader:
                    images += len(batch)
            print(images / (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
