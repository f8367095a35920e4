"""Images per second of the loader, compared with torch's DataLoader, DALI, FFCV and SPDL on the same work and cores.

    python benchmarks/loading.py DIR                     # a folder of images, or of folders of images
    python benchmarks/loading.py DIR --workers 8 --rounds 5
    python benchmarks/loading.py DIR --json loading.json # also with the versions and the machine

Photographs: random-resized crop to 224, flip, shuffled, batches of 64 as uint8. Busy loop: the same with Python code
that runs between two batches. Small images: 32 x 32, padded crop and flip, batches of 512. Then the filling of the
cache. Everything runs on the CPU. Each of the `--rounds` rounds measures all loaders: one epoch to warm up, then whole
epochs for at least `--seconds`. The tables show medians. FFCV and SPDL are measured if `benchmarks/peers/setup.sh ffcv`
and `benchmarks/peers/setup.sh spdl` have made their environments.
"""

import argparse
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers.loaders import LoaderProcess, Measure, dali, torch_dataloader
from peers.measure import SIDE, find_images, rate
from torchvision import transforms

from cnnzoo.data import Augment, Cache, TorchLoader
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.split import Split
from cnnzoo.runtime.environment import describe_environment
from cnnzoo.runtime.files import write_json

BATCH = 64
SMALL, SMALL_BATCH, SMALL_IMAGES = 32, 512, 50_000
PEER_ROWS = {  # the name of the environment, further arguments of its script, and the name of the row
    "FFCV, JPEG at 256": ("ffcv", "jpg"),
    "FFCV, raw at 256": ("ffcv", "raw"),
    "SPDL, from files": ("spdl",),
}
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
Peers = dict[str, Measure]


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


def report(title: str, peers: Peers, rounds: int, seconds: float, bases: dict[str, str]) -> dict[str, Any]:
    """Measure all peers in each round, and print medians and their ratios to the medians of `bases`.

    bases: for each column of ratios its header and the name of the peer. Peers that are not in `peers` are left out.

    Returns the table for the JSON file.
    """
    results: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, measure in peers.items():
            results[name].append(measure(seconds))
    medians = {name: statistics.median(rates) for name, rates in results.items()}
    bases = {header: name for header, name in bases.items() if name in peers}
    print(f"\n{title}\n\n| | images/s | from - to |{''.join(f' x {header} |' for header in bases)}")
    print("|---|---|---|" + "---|" * len(bases))
    for name, rates in results.items():
        ratios = "".join(f" {medians[name] / medians[base]:.2f} |" for base in bases.values())
        print(f"| {name} | {medians[name]:,.0f} | {min(rates):,.0f} - {max(rates):,.0f} |{ratios}", flush=True)
    rows = [{"name": name, "images_per_second": medians[name], "rounds": rates} for name, rates in results.items()]
    return {"title": title, "rows": rows}


def start_peers(folder: Path, batch_size: int, workers: int) -> dict[str, LoaderProcess]:
    """The loaders of other environments by the names of their rows. Prints a line for each missing environment."""
    processes: dict[str, LoaderProcess] = {}
    missing: dict[str, None] = {}
    for row, (name, *arguments) in PEER_ROWS.items():
        try:
            processes[row] = LoaderProcess(name, folder.resolve(), batch_size, workers, *arguments)
        except FileNotFoundError as error:
            missing[str(error)] = None
    print(*missing, sep="\n", end="\n" if missing else "", flush=True)
    return processes


def photographs(paths: list[str], others: Peers, args: argparse.Namespace) -> tuple[Split, dict[str, Any]]:
    """Measure image files with all settings.

    others: peers that run in other environments.

    Returns the split with decoded pixels of shorter side 256 in RAM, and the table.
    """
    split = build_split(paths)
    uint8, floats = "torch DataLoader, Pillow, uint8", "torch DataLoader, Pillow, float, normalized"
    peers: Peers = {
        uint8: torch_dataloader(paths, PHOTO_TRANSFORMS, args.batch, args.workers),
        floats: torch_dataloader(paths, [*PHOTO_TRANSFORMS, *FLOAT_TRANSFORMS], args.batch, args.workers),
    }
    dali_peer = dali(paths, args.batch, args.workers)
    if dali_peer is None:
        print('DALI is left out: type pip install "cnnzoo[dali]"')
    else:
        peers["DALI, CPU, from files"] = dali_peer
    peers |= others
    cached = split
    for mode, resize in (("none", None), ("encoded", None), ("encoded", 256), ("decoded", None), ("decoded", 256)):
        cache = Cache(mode=mode, resize=resize)  # type: ignore[arg-type]
        stores = cache.fill({"train": split}, channels=3, on_bad_file="error")
        cached = replace(split, store=stores.get("train"))
        for kind in ("threads", "processes"):
            name = f"ours, cache {mode}{f' at {resize}' if resize else ''}, {args.workers} {kind}"
            loader = our_loader(cached, args.batch, crop="random_resized", side=SIDE, workers=args.workers, kind=kind)
            peers[name] = partial(rate, loader)
    bases = {"DataLoader uint8": uint8, "DataLoader float": floats, "DALI": "DALI, CPU, from files"}
    bases |= {"FFCV JPEG": "FFCV, JPEG at 256", "FFCV raw": "FFCV, raw at 256", "SPDL": "SPDL, from files"}
    title = f"{len(paths):,} photographs, {args.workers} workers"
    return cached, report(title, peers, args.rounds, args.seconds, bases)


def busy_loop(split: Split, args: argparse.Namespace) -> dict[str, Any]:
    """Measure threads and processes with a loop that holds the interpreter lock between two batches."""
    peers: Peers = {}
    for kind in ("threads", "processes"):
        for busy in (0.0, BUSY_SECONDS):
            loader = our_loader(split, args.batch, crop="random_resized", side=SIDE, workers=args.workers, kind=kind)
            name = f"{args.workers} {kind}, {busy * 1000:.0f} ms of Python after each batch"
            peers[name] = partial(rate, loader, busy=busy)
    bases = {"threads": next(iter(peers))}
    return report("Pixels at 256 in RAM, with a busy loop", peers, args.rounds, args.seconds, bases)


def small_images(args: argparse.Namespace) -> dict[str, Any]:
    """Measure random images with the shape of CIFAR-10."""
    pixels = np.random.default_rng(0).integers(0, 255, (SMALL_IMAGES, SMALL, SMALL, 3), dtype=np.uint8)
    split = Split(np.zeros(len(pixels), np.int64), pixels=pixels)
    uint8, floats = "torch DataLoader, uint8", "torch DataLoader, float, normalized"
    peers: Peers = {
        uint8: torch_dataloader(pixels, SMALL_TRANSFORMS, SMALL_BATCH, args.workers),
        floats: torch_dataloader(pixels, [*SMALL_TRANSFORMS, *FLOAT_TRANSFORMS], SMALL_BATCH, args.workers),
    }
    settings: dict[str, dict[str, Any]] = {
        "ours, in the training process": {"workers": 0},
        f"ours, {args.workers} threads": {"workers": args.workers, "kind": "threads"},
        f"ours, {args.workers} processes": {"workers": args.workers, "kind": "processes"},
    }
    for name, options in settings.items():
        peers[name] = partial(rate, our_loader(split, SMALL_BATCH, crop="padded", side=SMALL, **options))
    bases = {"DataLoader uint8": uint8, "DataLoader float": floats}
    return report(f"{len(pixels):,} images of 32 x 32", peers, args.rounds, args.seconds, bases)


def filling(paths: list[str], rounds: int) -> list[dict[str, Any]]:
    """Compare filling the encoded cache with threads that only read the same files."""

    def read(path: str) -> int:
        with open(path, "rb", buffering=0) as file:
            return len(file.read())

    def read_only() -> float:
        start = time.perf_counter()
        with ThreadPoolExecutor(4) as pool:
            for _ in pool.map(read, paths, chunksize=32):
                pass
        return len(paths) / (time.perf_counter() - start)

    def read_and_hold() -> float:
        start = time.perf_counter()
        with ThreadPoolExecutor(4) as pool:
            files = list(pool.map(lambda path: Path(path).read_bytes(), paths, chunksize=32))
        return len(files) / (time.perf_counter() - start)

    def fill() -> float:
        start = time.perf_counter()
        stores = Cache(mode="encoded").fill({"train": build_split(paths)}, channels=3, on_bad_file="error")
        seconds = time.perf_counter() - start
        return stores["train"].num_cached / seconds  # `stores` is used here, so that freeing its memory is not timed

    def once(measure: Callable[[], float], *, from_disk: bool) -> Measure:
        """The measurement of one pass, however many seconds it takes."""

        def measure_pass(seconds: float) -> float:
            if from_disk:
                os.sync()
                DROP_CACHES.write_text("3")
            return measure()

        return measure_pass

    read_name, hold_name = "4 threads, read only", "4 threads, read and hold in memory"
    measures = {read_name: read_only, hold_name: read_and_hold, "ours": fill}
    bases = {"reading": read_name, "holding": hold_name}
    tables = []
    for place, from_disk in (("with the files in the page cache", False), ("from the disk", True)):
        if from_disk and not os.access(DROP_CACHES, os.W_OK):
            continue
        peers = {name: once(measure, from_disk=from_disk) for name, measure in measures.items()}
        tables.append(report(f"Filling the cache, {place}", peers, 3 * rounds, 0.0, bases))
    return tables


def build_split(paths: list[str]) -> Split:
    """A split of files of one class."""
    return Split(np.zeros(len(paths), np.int64), paths=np.array([os.fsencode(path) for path in paths]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch", type=int, default=BATCH, help="photographs in a batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="the least time of a measurement")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to a new file")
    args = parser.parse_args()
    if args.json is not None and args.json.exists():
        parser.error(f"--json {args.json}: the file exists; type another name")
    paths = find_images(args.folder)
    if len(paths) < args.batch:
        sys.exit(f"{args.folder}: {len(paths)} images, expected at least {args.batch}")
    torch.set_num_threads(1)  # in the main process, which only receives batches
    processes = start_peers(args.folder, args.batch, args.workers)
    cached, table = photographs(paths, dict(processes), args)
    for process in processes.values():
        process.close()
    tables = [table, busy_loop(cached, args), small_images(args), *filling(paths, args.rounds)]
    if args.json is not None:
        memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        write_json(
            args.json,
            {
                "command": shlex.join(["python", "benchmarks/loading.py", *sys.argv[1:]]),
                "machine": {**describe_environment(), "memory_bytes": memory_bytes},
                "peers": {name: process.versions for name, process in processes.items()},
                "tables": tables,
            },
        )


if __name__ == "__main__":
    main()
