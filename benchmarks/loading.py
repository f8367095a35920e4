"""Images per second of the loader, beside torch's DataLoader, DALI and FFCV doing the same work on the same cores.

    python benchmarks/loading.py DIR                     # a folder of images, or of folders of images
    python benchmarks/loading.py DIR --workers 8 --rounds 5 --ffcv PYTHON

Photographs: random-resized crop to 224, flip, shuffled, batches of 64 as uint8. Small images: 32 x 32, padded crop and
flip, batches of 512. Then the filling of the cache, and a loop that keeps Python busy between two batches. All take
turns, `--rounds` times, on the CPU; an epoch to warm up, then whole epochs; medians. `--ffcv`: the Python of an
environment that has FFCV, which wants a compiler and OpenCV, and is therefore asked in a process of its own.
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
BUSY = 0.005  # seconds of Python between two batches
DROP = Path("/proc/sys/vm/drop_caches")
CROP = [transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
PADDED = [transforms.RandomCrop(SMALL, padding=4), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
FLOAT = [transforms.ConvertImageDtype(torch.float), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
Peers = dict[str, Callable[[], float]]


class Images(Dataset[Any]):
    """Files read by Pillow, as torchvision's ImageFolder does, or pixels in memory, as its CIFAR10 has them."""

    def __init__(self, images: list[str] | np.ndarray, steps: list[Any]) -> None:
        self.images, self.steps = images, transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.images, np.ndarray):
            return self.steps(Image.fromarray(self.images[index])), 0
        with Image.open(self.images[index]) as image:
            return self.steps(image.convert("RGB")), 0


def torch_loader(images: list[str] | np.ndarray, steps: list[Any], batch: int, workers: int) -> Callable[[], float]:
    """The peer: torch's own, its workers kept."""
    data = Images(images, steps)
    loader = DataLoader(data, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0, drop_last=True)
    return lambda: rate(loader, 1)


def dali(paths: list[str], workers: int, *, on_gpu: bool = False) -> Callable[[], float] | None:
    """The peer: DALI from files, as its documentation shows; None where it is not installed."""
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
    """The peer: FFCV, in a process of its own that measures when it is told to."""
    script = str(Path(__file__).with_name("ffcv_peer.py"))
    command = [python, script, str(folder), mode, str(workers), str(side)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    asked, said = process.stdin, process.stdout
    if said.readline().strip() != "ready":
        raise SystemExit(f"{' '.join(command)}: did not get ready; try it by itself")

    def measured(epochs: int) -> float:
        asked.write(f"{epochs}\n")
        asked.flush()
        return float(said.readline())

    measured(1)  # it compiles
    return lambda: measured(3)


def ours(split: Split, batch: int, *, crop: Any, side: int, **options: Any) -> TorchLoader:
    """The loader of this project."""
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
    """Images per second of some whole epochs, with so many seconds of Python after each batch."""
    images = 0
    for _ in batches:
        pass
    start = time.perf_counter()
    for _ in range(epochs):
        for batch in batches:
            images += len(batch[0]) if isinstance(batch, list | tuple) and torch.is_tensor(batch[0]) else BATCH
            until = time.perf_counter() + busy
            while time.perf_counter() < until:
                pass
    return images / (time.perf_counter() - start)


def report(title: str, peers: Peers, rounds: int, bases: dict[str, str]) -> None:
    """Let all take turns, and print medians beside those of `bases`: what a base is called in the table, and its peer.

    A peer that is there under no name of `peers` has no column.
    """
    seen: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, measure in peers.items():
            seen[name].append(measure())
    middle = {name: statistics.median(rates) for name, rates in seen.items()}
    bases = {called: name for called, name in bases.items() if name in peers}
    print(f"\n{title}\n\n| | images/s | from - to |{''.join(f' x {called} |' for called in bases)}")
    print("|---|---|---|" + "---|" * len(bases))
    for name, rates in seen.items():
        times = "".join(f" {middle[name] / middle[base]:.2f} |" for base in bases.values())
        print(f"| {name} | {middle[name]:,.0f} | {min(rates):,.0f} - {max(rates):,.0f} |{times}", flush=True)


def photographs(folder: Path, paths: list[str], workers: int, rounds: int, python: str | None) -> Split:
    """Real files, every way. Returns the split with its pixels, the shorter side at 256, in RAM."""
    split = split_of(paths)
    lean, usual = "torch DataLoader, Pillow, uint8", "torch DataLoader, Pillow, float, normalized"
    peers: Peers = {
        lean: torch_loader(paths, CROP, BATCH, workers),
        usual: torch_loader(paths, [*CROP, *FLOAT], BATCH, workers),
    }
    by_dali = dali(paths, workers)
    if by_dali is not None:
        peers["DALI, CPU, from files"] = by_dali
    if python is not None:
        peers["FFCV, JPEG at 256"] = ffcv(python, folder, "jpg", workers, 256)
        peers["FFCV, raw at 256"] = ffcv(python, folder, "raw", workers, 256)
    kept = split
    for mode, resize, epochs in (
        ("none", None, 1),
        ("encoded", None, 1),
        ("encoded", 256, 2),
        ("decoded", None, 2),
        ("decoded", 256, 3),
    ):
        cache = Cache(mode=mode, resize=resize)  # type: ignore[arg-type]
        stores = cache.fill({"train": split}, channels=3, on_bad_file="error")
        kept = replace(split, store=stores.get("train"))
        for kind in ("threads", "processes"):
            name = f"ours, cache {mode}{f' at {resize}' if resize else ''}, {workers} {kind}"
            loader = ours(kept, BATCH, crop="random_resized", side=SIDE, workers=workers, kind=kind)
            peers[name] = lambda loader=loader, epochs=epochs: rate(loader, epochs)  # type: ignore[misc]
    bases = {"DataLoader uint8": lean, "DataLoader float": usual, "DALI": "DALI, CPU, from files"}
    bases |= {"FFCV JPEG": "FFCV, JPEG at 256", "FFCV raw": "FFCV, raw at 256"}
    report(f"{len(paths):,} photographs, {workers} workers", peers, rounds, bases)
    return kept


def busy_loop(split: Split, workers: int, rounds: int) -> None:
    """Who keeps up with a loop that holds the interpreter between two batches."""
    peers: Peers = {}
    for kind in ("threads", "processes"):
        for busy in (0.0, BUSY):
            loader = ours(split, BATCH, crop="random_resized", side=SIDE, workers=workers, kind=kind)
            name = f"{workers} {kind}, {busy * 1000:.0f} ms of Python after each batch"
            peers[name] = lambda loader=loader, busy=busy: rate(loader, 3, busy=busy)  # type: ignore[misc]
    report("Pixels at 256 in RAM, beside a busy loop", peers, rounds, {"threads": next(iter(peers))})


def small_images(workers: int, rounds: int) -> None:
    """CIFAR-10's shape, made up."""
    pixels = np.random.default_rng(0).integers(0, 255, (50_000, SMALL, SMALL, 3), dtype=np.uint8)
    split = Split(np.zeros(len(pixels), np.int64), pixels=pixels)
    lean, usual = "torch DataLoader, uint8", "torch DataLoader, float, normalized"
    peers: Peers = {
        lean: torch_loader(pixels, PADDED, SMALL_BATCH, workers),
        usual: torch_loader(pixels, [*PADDED, *FLOAT], SMALL_BATCH, workers),
    }
    for name, options in {
        "ours, in the training process": {"workers": 0},
        f"ours, {workers} threads": {"workers": workers, "kind": "threads"},
        f"ours, {workers} processes": {"workers": workers, "kind": "processes"},
    }.items():
        loader = ours(split, SMALL_BATCH, crop="padded", side=SMALL, **options)
        peers[name] = lambda loader=loader: rate(loader, 5)  # type: ignore[misc]
    report("50,000 images of 32 x 32", peers, rounds, {"DataLoader uint8": lean, "DataLoader float": usual})


def filling(paths: list[str], rounds: int) -> None:
    """The encoded cache beside threads that read the same files and do nothing with them."""

    def read(path: str) -> int:
        with open(path, "rb", buffering=0) as file:
            return len(file.read())

    def bare(threads: int) -> float:
        start = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(read, paths, chunksize=32):
                pass
        return len(paths) / (time.perf_counter() - start)

    def kept(threads: int) -> float:
        start = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            files = list(pool.map(lambda path: Path(path).read_bytes(), paths, chunksize=32))
        return len(files) / (time.perf_counter() - start)

    def fill() -> float:
        start = time.perf_counter()
        stores = Cache(mode="encoded").fill({"train": split_of(paths)}, channels=3, on_bad_file="error")
        seconds = time.perf_counter() - start
        return stores["train"].held / seconds  # the memory is given back only now

    def cold(measure: Callable[[], float]) -> float:
        os.sync()
        DROP.write_text("3")
        return measure()

    reads, keeps = "4 threads read", "4 threads read, and keep what they read"
    peers: Peers = {reads: lambda: bare(4), keeps: lambda: kept(4), "ours": fill}
    bases = {"reading": reads, "keeping": keeps}
    report("Filling, the files in the page cache", peers, 3 * rounds, bases)
    if os.access(DROP, os.W_OK):
        peers = {name: lambda measure=measure: cold(measure) for name, measure in peers.items()}  # type: ignore[misc]
        report("Filling, from the disk", peers, 3 * rounds, bases)


def split_of(paths: list[str]) -> Split:
    """Files of one class."""
    return Split(np.zeros(len(paths), np.int64), paths=np.array([os.fsencode(path) for path in paths]))


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ffcv", metavar="PYTHON")
    args = parser.parse_args()
    paths = sorted(str(p) for p in args.folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if len(paths) < BATCH:
        sys.exit(f"{args.folder}: {len(paths)} images; at least {BATCH} are needed")
    torch.set_num_threads(1)  # in the training process, which does nothing here but take batches
    kept = photographs(args.folder, paths, args.workers, args.rounds, args.ffcv)
    busy_loop(kept, args.workers, args.rounds)
    small_images(args.workers, args.rounds)
    filling(paths, args.rounds)


if __name__ == "__main__":
    main()
