"""Images per second of the DALI loader, compared with a DALI pipeline as in DALI's documentation.

    python benchmarks/dali_loading.py DIR                # a folder with JPEGs, at any depth
    python benchmarks/dali_loading.py DIR --device cuda  # decoded and augmented on the GPU
    python benchmarks/dali_loading.py DIR --workers 8 --rounds 5

Random-resized crop to 224, flip, shuffled, batches of 64 as uint8, the same number of threads for all. Each of the
`--rounds` rounds measures all of them: one epoch to warm up, in which our loader also checks every file, then whole
epochs. The table shows medians.
"""

import argparse
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loading import BATCH, Peers, report
from peers.loaders import Measure, dali
from peers.measure import SIDE, rate

from cnnzoo.data import Augment, Cache, TorchLoader
from cnnzoo.data.loaders.dali_loader import DaliLoader
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.split import Split

SECONDS = 2.0  # the least time of a measurement


def our_loader(loader_class: Any, split: Split, workers: int, device: torch.device | None) -> Measure:
    """The measurement of a loader of this project."""
    loader = loader_class(
        split,
        EpochSampler(len(split), BATCH, seed=0, train=True),
        augment=Augment(crop="random_resized", flip=0.5),
        train=True,
        image_size=SIDE,
        channels=3,
        seed=0,
        workers=workers,
        device=device,
    )
    return partial(rate, loader)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    device = torch.device("cuda", 0) if args.device == "cuda" else None
    paths = sorted(str(path) for path in args.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    split = Split(np.zeros(len(paths), np.int64), paths=np.array([os.fsencode(path) for path in paths]))
    torch.set_num_threads(1)  # in the main process, which only receives batches
    plain_dali = dali(paths, BATCH, args.workers, on_gpu=device is not None)
    if plain_dali is None:
        sys.exit("DALI is not installed: pip install nvidia-dali-cuda130")
    peers: Peers = {"plain DALI, from files": plain_dali}
    for mode in ("none", "encoded", "decoded"):
        stores = Cache(mode=mode).fill({"train": split}, channels=3, on_bad_file="error")
        cached = replace(split, store=stores.get("train"))
        for name, loader_class in (("dali", DaliLoader), ("torch", TorchLoader)):
            source = "from files" if mode == "none" else f"cache {mode}"
            peers[f"loader={name}, {source}"] = our_loader(loader_class, cached, args.workers, device)
    device_name = torch.cuda.get_device_name(0) if device else "CPU"
    bases = {"plain DALI": "plain DALI, from files", "ours from files": "loader=dali, from files"}
    report(f"{len(paths):,} photographs, {args.workers} workers, {device_name}", peers, args.rounds, SECONDS, bases)


if __name__ == "__main__":
    main()
