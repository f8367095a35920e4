"""Images per second of the loader, compared with torch's DataLoader, DALI and FFCV on the same work and cores.

    python benchmarks/loading.py DIR                     # a folder of images, or of folders of images
    python benchmarks/loading.py DIR --workers 8 --rounds 5 --ffcv PYTHON

Photographs: random-resized crop to 224, flip, shuffled, batches of 64 as uint8. Busy loop: the same with Python code
that runs between two batches. Small images: 32 x 32, padded crop and flip, batches of 512. Then the filling of the
cache. Everything runs on the CPU. Each of the `--rounds` rounds measures all loaders: one epoch to warm up, then whole
epochs. The tables show medians. `--ffcv`: the Python of another environment with FFCV, which needs a compiler and
OpenCV; FFCV is measured in a process of that Python.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from cnnzoo.data import Augment, Cache, TorchLoader
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.split import Split

SIDE, BATCH = 224, 64
SMALL, SMALL_BATCH = 32, 512
BUSY_SECONDS = 0.005  # of Python code between two batches
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
PHOTO_TRANSFORMS = [transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
SMALL_TRANSFORMS = [
    transforms.RandomCrop(SMALL, padding=4),
    transforms.RandomHorizontalFlip(),
    transforms.PILToTensor(),
]
FLOAT_TRANSFORMS = [
    transforms.ConvertImageDtype(torch.float),
    transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
]
Peers = dict[str, Callable[[], float]]


class ImageDataset(Dataset[Any]):
    """Files read by Pillow, like torchvision's ImageFolder, or pixels in memory, like its CIFAR10."""

    def __init__(self, images: list[str] | np.ndarray, transform_list: list[Any]) -> None:
        self.images, self.transform = images, transforms.Compose(transform_list)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.images, np.ndarray):
            return self.transform(Image.fromarray(self.images[index])), 0
        with Image.open(self.images[index]) as image:
            return self.transform(image.convert("RGB")), 0


def torch_dataloader(
    images: list[str] | np.ndarray, transform_list: list[Any], batch: int, workers: int
) -> Callable[[], float]:
    """The measurement of torch's DataLoader with persistent workers."""
    data = ImageDataset(images, transform_list)
    loader = DataLoader(data, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0, drop_last=True)
    return lambda: rate(loader, 1)


def dali(paths: list[str], workers: int, *, on_gpu: bool = False) -> Callable[[], float] | None:
    """The measurement of DALI from files, as in its documentation; None if it is not installed."""
    try:
        from nvidia.dali import fn, pipeline_def, types
        from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy
    except ImportError:
        return None

    @pipeline_def(batch_size=BATCH, num_threads=workers, device_id=0 if on_gpu else None, seed=0)
    def pipeline() -> Any:
        files, labels = fn.readers.file(files=paths, random_shuffle=True, name="files")
        images = fn.decoders.image_random_crop(files, device="mixed" if on_gpu else "cpu", output_type=types.RGB)
        images = fn.resize(images, size=SIDE, interp_type=types.INTERP_LINEAR, antialias=True)
        return fn.flip(images, horizontal=fn.random.coin_flip()), labels

    iterator = DALIGenericIterator(
        pipeline(),
        ["images", "labels"],
        reader_name="files",
        last_batch_policy=LastBatchPolicy.PARTIAL,
        auto_reset=True,
    )
    return lambda: rate(iterator, 1)


def ffcv(python: str, folder: Path, mode: str, workers: int, side: int) -> Callable[[], float]:
    """The measurement of FFCV, in a process of another Python that measures on request."""
    script = str(Path(__file__).with_name("ffcv_peer.py"))
    command = [python, script, str(folder), mode, str(workers), str(side)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    requests, replies = process.stdin, process.stdout
    if replies.readline().strip() != "ready":
        raise SystemExit(f"{' '.join(command)}: failed to start; run the command alone to see why")

    def measure(epochs: int) -> float:
        requests.write(f"{epochs}\n")
        requests.flush()
        return float(replies.readline())

    measure(1)  # FFCV compiles its code
    return lambda: measure(3)


def our_loader(split: Split, batch: int, *, crop: Any, side: int, **options: Any) -> TorchLoader:
    return TorchLoader(
        split,
        EpochSampler(len(split), batch, seed=0, train=True),
        augment=Augment(crop=crop, flip=0.5),
        train=True,
        image_size=side,
        channels=3,
        seed=0,
        **options,
    )


def rate(batches: Iterable[Any], epochs: int, *, busy: float = 0.0) -> float:
    """Images per second over `epochs` epochs, after one to warm up, with `busy` seconds of Python after each batch."""
    images = 0
    for _ in batches:
        pass
    start = time.perf_counter()
    for _ in range(epochs):
        for batch in batches:
            images += len(batch[0]) if isinstance(batch, list | tuple) and torch.is_tensor(batch[0]) else BATCH
            end = time.perf_counter() + busy
            while time.perf_counter() < end:
                pass
    return images / (time.perf_counter() - start)


def report(title: str, peers: Peers, rounds: int, bases: dict[str, str]) -> None:
    """Measure all peers in each round, and print medians and their ratios to the medians of `bases`.

    bases: for each column of ratios its header and the name of the peer. Peers that are not in `peers` are left out.
    """
    results: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, measure in peers.items():
            results[name].append(measure())
    medians = {name: statistics.median(rates) for name, rates in results.items()}
    bases = {header: name for header, name in bases.items() if name in peers}
    print(f"\n{title}\n\n| | images/s | from - to |{''.join(f' x {header} |' for header in bases)}")
    print("|---|---|---|" + "---|" * len(bases))
    for name, rates in results.items():
        ratios = "".join(f" {medians[name] / medians[base]:.2f} |" for base in bases.values())
        print(f"| {name} | {medians[name]:,.0f} | {min(rates):,.0f} - {max(rates):,.0f} |{ratios}", flush=True)


def photographs(folder: Path, paths: list[str], workers: int, rounds: int, python: str | None) -> Split:
    """Measure image files with all settings. Returns the split with decoded pixels of shorter side 256 in RAM."""
    split = build_split(paths)
    uint8, floats = "torch DataLoader, Pillow, uint8", "torch DataLoader, Pillow, float, normalized"
    peers: Peers = {
        uint8: torch_dataloader(paths, PHOTO_TRANSFORMS, BATCH, workers),
        floats: torch_dataloader(paths, [*PHOTO_TRANSFORMS, *FLOAT_TRANSFORMS], BATCH, workers),
    }
    dali_peer = dali(paths, workers)
    if dali_peer is not None:
        peers["DALI, CPU, from files"] = dali_peer
    if python is not None:
        peers["FFCV, JPEG at 256"] = ffcv(python, folder, "jpg", workers, 256)
        peers["FFCV, raw at 256"] = ffcv(python, folder, "raw", workers, 256)
    cached = split
    for mode, resize, epochs in (
        ("none", None, 1),
        ("encoded", None, 1),
        ("encoded", 256, 2),
        ("decoded", None, 2),
        ("decoded", 256, 3),
    ):
        cache = Cache(mode=mode, resize=resize)  # type: ignore[arg-type]
        stores = cache.fill({"train": split}, channels=3, on_bad_file="error")
        cached = replace(split, store=stores.get("train"))
        for kind in ("threads", "processes"):
            name = f"ours, cache {mode}{f' at {resize}' if resize else ''}, {workers} {kind}"
            loader = our_loader(cached, BATCH, crop="random_resized", side=SIDE, workers=workers, kind=kind)
            peers[name] = lambda loader=loader, epochs=epochs: rate(loader, epochs)  # type: ignore[misc]
    bases = {"DataLoader uint8": uint8, "DataLoader float": floats, "DALI": "DALI, CPU, from files"}
    bases |= {"FFCV JPEG": "FFCV, JPEG at 256", "FFCV raw": "FFCV, raw at 256"}
    report(f"{len(paths):,} photographs, {workers} workers", peers, rounds, bases)
    return cached


def busy_loop(split: Split, workers: int, rounds: int) -> None:
    """Measure threads and processes with a loop that holds the interpreter lock between two batches."""
    peers: Peers = {}
    for kind in ("threads", "processes"):
        for busy in (0.0, BUSY_SECONDS):
            loader = our_loader(split, BATCH, crop="random_resized", side=SIDE, workers=workers, kind=kind)
            name = f"{workers} {kind}, {busy * 1000:.0f} ms of Python after each batch"
            peers[name] = lambda loader=loader, busy=busy: rate(loader, 3, busy=busy)  # type: ignore[misc]
    report("Pixels at 256 in RAM, with a busy loop", peers, rounds, {"threads": next(iter(peers))})


def small_images(workers: int, rounds: int) -> None:
    """Measure random images with the shape of CIFAR-10."""
    pixels = np.random.default_rng(0).integers(0, 255, (50_000, SMALL, SMALL, 3), dtype=np.uint8)
    split = Split(np.zeros(len(pixels), np.int64), pixels=pixels)
    uint8, floats = "torch DataLoader, uint8", "torch DataLoader, float, normalized"
    peers: Peers = {
        uint8: torch_dataloader(pixels, SMALL_TRANSFORMS, SMALL_BATCH, workers),
        floats: torch_dataloader(pixels, [*SMALL_TRANSFORMS, *FLOAT_TRANSFORMS], SMALL_BATCH, workers),
    }
    settings: dict[str, dict[str, Any]] = {
        "ours, main process": {"workers": 0},
        f"ours, {workers} threads": {"workers": workers, "kind": "threads"},
        f"ours, {workers} processes": {"workers": workers, "kind": "processes"},
    }
    for name, options in settings.items():
        loader = our_loader(split, SMALL_BATCH, crop="padded", side=SMALL, **options)
        peers[name] = lambda loader=loader: rate(loader, 5)  # type: ignore[misc]
    report("50,000 images of 32 x 32", peers, rounds, {"DataLoader uint8": uint8, "DataLoader float": floats})


def filling(paths: list[str], rounds: int) -> None:
    """Compare filling the encoded cache with threads that only read the same files."""

    def read(path: str) -> int:
        with open(path, "rb", buffering=0) as file:
            return len(file.read())

    def read_only(threads: int) -> float:
        start = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(read, paths, chunksize=32):
                pass
        return len(paths) / (time.perf_counter() - start)

    def read_and_hold(threads: int) -> float:
        start = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            files = list(pool.map(lambda path: Path(path).read_bytes(), paths, chunksize=32))
        return len(files) / (time.perf_counter() - start)

    def fill() -> float:
        start = time.perf_counter()
        stores = Cache(mode="encoded").fill({"train": build_split(paths)}, channels=3, on_bad_file="error")
        seconds = time.perf_counter() - start
        return stores["train"].num_cached / seconds  # `stores` is used here, so that freeing its memory is not timed

    def with_cold_page_cache(measure: Callable[[], float]) -> float:
        os.sync()
        DROP_CACHES.write_text("3")
        return measure()

    read_name, hold_name = "4 threads, read only", "4 threads, read and hold in memory"
    peers: Peers = {read_name: lambda: read_only(4), hold_name: lambda: read_and_hold(4), "ours": fill}
    bases = {"reading": read_name, "holding": hold_name}
    report("Filling the cache, with the files in the page cache", peers, 3 * rounds, bases)
    if os.access(DROP_CACHES, os.W_OK):
        peers = {name: lambda measure=measure: with_cold_page_cache(measure) for name, measure in peers.items()}  # type: ignore[misc]
        report("Filling the cache, from the disk", peers, 3 * rounds, bases)


def build_split(paths: list[str]) -> Split:
    """A split of files of one class."""
    return Split(np.zeros(len(paths), np.int64), paths=np.array([os.fsencode(path) for path in paths]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ffcv", metavar="PYTHON")
    args = parser.parse_args()
    paths = sorted(str(p) for p in args.folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if len(paths) < BATCH:
        sys.exit(f"{args.folder}: {len(paths)} images, expected at least {BATCH}")
    torch.set_num_threads(1)  # in the main process, which only receives batches
    cached = photographs(args.folder, paths, args.workers, args.rounds, args.ffcv)
    busy_loop(cached, args.workers, args.rounds)
    small_images(args.workers, args.rounds)
    filling(paths, args.rounds)


if __name__ == "__main__":
    main()
