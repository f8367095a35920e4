"""Other loaders as peers of loading.py: torch's DataLoader, DALI, FFCV and SPDL.

torch's DataLoader and DALI run in cnnzoo's environment, because cnnzoo depends on the same packages: they get the same
torch, torchvision and Pillow, and nothing that cnnzoo installs makes them slower. FFCV and SPDL have environments of
their own, because they need other versions and system packages; each is measured in a process of its environment.
"""

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from peers.measure import SIDE, rate

VENVS = Path(__file__).with_name("venvs")
Measure = Callable[[float], float]
"""Takes the least number of seconds, and returns images per second."""


class ImageDataset(Dataset[Any]):
    """Files read by Pillow, like torchvision's ImageFolder, or pixels in memory, like its CIFAR10."""

    def __init__(self, images: list[str] | np.ndarray[Any, Any], transform_list: list[Any]) -> None:
        self.images, self.transform = images, transforms.Compose(transform_list)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.images, np.ndarray):
            return self.transform(Image.fromarray(self.images[index])), 0
        with Image.open(self.images[index]) as image:
            return self.transform(image.convert("RGB")), 0


def torch_dataloader(
    images: list[str] | np.ndarray[Any, Any], transform_list: list[Any], batch_size: int, workers: int
) -> Measure:
    """The measurement of torch's DataLoader with persistent workers."""
    loader = DataLoader(
        ImageDataset(images, transform_list),
        batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        drop_last=True,
    )
    return partial(rate, loader)


def dali(paths: list[str], batch_size: int, workers: int, *, on_gpu: bool = False) -> Measure | None:
    """The measurement of DALI from files, as in its documentation; None if it is not installed."""
    try:
        from nvidia.dali import fn, pipeline_def, types
        from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy
    except ImportError:
        return None

    def pipeline() -> Any:
        files, labels = fn.readers.file(files=paths, random_shuffle=True, name="files")
        images = fn.decoders.image_random_crop(files, device="mixed" if on_gpu else "cpu", output_type=types.RGB)
        images = fn.resize(images, size=SIDE, interp_type=types.INTERP_LINEAR, antialias=True)
        return fn.flip(images, horizontal=fn.random.coin_flip()), labels

    options = {"batch_size": batch_size, "num_threads": workers, "device_id": 0 if on_gpu else None, "seed": 0}
    iterator = DALIGenericIterator(
        pipeline_def(pipeline)(**options),
        ["images", "labels"],
        reader_name="files",
        last_batch_policy=LastBatchPolicy.PARTIAL,
        auto_reset=True,
    )
    return partial(rate, iterator)


class LoaderProcess:
    """A loader in a process of another environment; call it to measure.

    name: of the environment and of the script `NAME_loader.py`.
    arguments: of the script.

    Raises `FileNotFoundError` if the environment is missing, and `RuntimeError` if the script fails.
    """

    def __init__(self, name: str, *arguments: object) -> None:
        python = VENVS / name / "bin/python"
        if not python.exists():
            raise FileNotFoundError(f"{name} is left out: run benchmarks/peers/setup.sh {name} to measure it")
        command = [str(python), "-m", f"peers.{name}_loader", *map(str, arguments)]
        self.command = " ".join(command)
        self.process = subprocess.Popen(
            command,
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.versions: dict[str, str] = json.loads(self._read_line())
        self(0.0)  # FFCV compiles its code

    def __call__(self, seconds: float) -> float:
        """Images per second in whole epochs until `seconds` have passed, after one epoch to warm up."""
        assert self.process.stdin is not None
        print(seconds, file=self.process.stdin, flush=True)
        return float(self._read_line())

    def _read_line(self) -> str:
        """The next line of JSON or the next number; some packages print lines of their own."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line[0] in "{0123456789":
                return line
        raise RuntimeError(f"{self.command}: failed; run it alone in benchmarks/ to see why")

    def close(self) -> None:
        """End the process, which removes its temporary files."""
        self.process.communicate()
