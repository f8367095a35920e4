"""Images per second of the loader, beside torch's DataLoader and DALI doing the same work on the same cores.

    python benchmarks/loading.py DIR                 # a folder with one folder of images per class, or of images
    python benchmarks/loading.py DIR --workers 8 --rounds 5

Photographs: random-resized crop to 224, flip, shuffled, batches of 64 as uint8. Small images: 32 x 32, padded crop and
flip, batches of 512. All take turns, `--rounds` times, on the CPU; an epoch to warm up, then whole epochs; medians.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from cnnzoo.data import Augment, Cache, TorchLoader
from cnnzoo.data.order import Order
from cnnzoo.data.split import Split

SIDE, BATCH = 224, 64
SMALL, SMALL_BATCH = 32, 512
CROP = transforms.Compose(
    [
        transforms.RandomResizedCrop(SIDE),
        transforms.RandomHorizontalFlip(),
        transforms.PILToTensor(),
    ]
)
PADDED = transforms.Compose(
    [
        transforms.RandomCrop(SMALL, padding=4),
        transforms.RandomHorizontalFlip(),
        transforms.PILToTensor(),
    ]
)


class Files(Dataset[Any]):
    """Files read by Pillow, as torchvision's ImageFolder does."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        with Image.open(self.paths[index]) as image:
            return CROP(image.convert("RGB")), 0


class Arrays(Dataset[Any]):
    """Pixels in memory, as torchvision's CIFAR10 does."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Any:
        return PADDED(Image.fromarray(self.pixels[index])), 0


def torch_loader(data: Dataset[Any], batch: int, workers: int) -> Callable[[], Iterable[Any]]:
    """The peer: torch's own, its workers kept."""
    loader = DataLoader(data, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0, drop_last=True)
    return lambda: loader


def dali(paths: list[str], workers: int) -> Callable[[], Iterable[Any]] | None:
    """The peer: DALI on the CPU, from files, as its documentation shows; None where it is not installed."""
    try:
        from nvidia.dali import fn, pipeline_def, types
        from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy
    except ImportError:
        return None

    @pipeline_def(batch_size=BATCH, num_threads=workers, device_id=None, seed=0)
    def pipeline() -> Any:
        files, labels = fn.readers.file(files=paths, random_shuffle=True, name="files")
        images = fn.decoders.image_random_crop(files, device="cpu", output_type=types.RGB)
        images = fn.resize(images, size=SIDE, interp_type=types.INTERP_LINEAR, antialias=True)
        return fn.flip(images, horizontal=fn.random.coin_flip()), labels

    iterator = DALIGenericIterator(
        pipeline(),
        ["images", "labels"],
        reader_name="files",
        last_batch_policy=LastBatchPolicy.PARTIAL,
        auto_reset=True,
    )
    return lambda: iterator


def ours(split: Split, batch: int, *, crop: Any, side: int, **options: Any) -> Callable[[], Iterable[Any]]:
    """The loader of this project."""
    loader = TorchLoader(
        split,
        Order(len(split), batch, seed=0, train=True),
        augment=Augment(crop=crop, flip=0.5),
        train=True,
        image_size=side,
        channels=3,
        seed=0,
        **options,
    )
    return lambda: loader


def rate(epoch: Callable[[], Iterable[Any]], epochs: int) -> float:
    """Images per second of some whole epochs, after one to warm up."""
    images = 0
    for _ in epoch():
        pass
    start = time.perf_counter()
    for _ in range(epochs):
        for batch in epoch():
            images += len(batch[0]) if isinstance(batch, list | tuple) and torch.is_tensor(batch[0]) else BATCH
    return images / (time.perf_counter() - start)


def report(title: str, peers: dict[str, tuple[Callable[[], Iterable[Any]], int]], rounds: int, base: str) -> None:
    """Let all take turns, and print medians beside `base`."""
    seen: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, (epoch, epochs) in peers.items():
            seen[name].append(rate(epoch, epochs))
    middle = {name: statistics.median(rates) for name, rates in seen.items()}
    print(f"\n{title}\n\n| | images/s | from - to | x |\n|---|---|---|---|")
    for name, rates in seen.items():
        span = f"{min(rates):,.0f} - {max(rates):,.0f}"
        print(f"| {name} | {middle[name]:,.0f} | {span} | {middle[name] / middle[base]:.1f} |")


def photographs(paths: list[str], workers: int, rounds: int) -> None:
    """Real files, every way."""
    split = Split(np.zeros(len(paths), np.int64), paths=np.array([os.fsencode(path) for path in paths]))
    peers: dict[str, tuple[Callable[[], Iterable[Any]], int]] = {
        "torch DataLoader, Pillow": (torch_loader(Files(paths), BATCH, workers), 1)
    }
    by_dali = dali(paths, workers)
    if by_dali is not None:
        peers["DALI, CPU, from files"] = by_dali, 1
    for mode, resize, epochs in (
        ("none", None, 1),
        ("encoded", None, 1),
        ("encoded", 256, 3),
        ("decoded", None, 3),
        ("decoded", 256, 5),
    ):
        cache = Cache(mode=mode, resize=resize)  # type: ignore[arg-type]
        stores = cache.fill({"train": split}, channels=3, on_bad_file="error")
        kept = replace(split, store=stores.get("train"))
        for kind in ("threads", "processes"):
            name = f"ours, cache {mode}{f' at {resize}' if resize else ''}, {workers} {kind}"
            loader = ours(kept, BATCH, crop="random_resized", side=SIDE, workers=workers, kind=kind)
            peers[name] = loader, epochs
    report(f"{len(paths):,} photographs, {workers} workers", peers, rounds, "torch DataLoader, Pillow")


def small_images(workers: int, rounds: int) -> None:
    """CIFAR-10's shape, made up."""
    pixels = np.random.default_rng(0).integers(0, 255, (50_000, SMALL, SMALL, 3), dtype=np.uint8)
    split = Split(np.zeros(len(pixels), np.int64), pixels=pixels)
    options = {"crop": "padded", "side": SMALL}
    report(
        "50,000 images of 32 x 32",
        {
            f"torch DataLoader, {workers} workers": (torch_loader(Arrays(pixels), SMALL_BATCH, workers), 1),
            "ours, in the training process": (ours(split, SMALL_BATCH, workers=0, **options), 5),
            f"ours, {workers} threads": (ours(split, SMALL_BATCH, workers=workers, **options), 5),
        },
        rounds,
        f"torch DataLoader, {workers} workers",
    )


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    paths = sorted(str(p) for p in args.folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    torch.set_num_threads(1)  # in the training process, which does nothing here but take batches
    photographs(paths, args.workers, args.rounds)
    small_images(args.workers, args.rounds)


if __name__ == "__main__":
    main()
