"""Images per second of the DALI loader beside a DALI pipeline written straight from DALI's documentation.

    python benchmarks/dali_loading.py DIR                # a folder with JPEGs, at any depth
    python benchmarks/dali_loading.py DIR --device cuda  # decoded and augmented on the GPU
    python benchmarks/dali_loading.py DIR --workers 8 --rounds 5

Random-resized crop to 224, flip, shuffled, batches of 64 as uint8, as many threads for each. All take turns, `--rounds`
times: an epoch each to warm up, in which ours also looks at every file once, then whole epochs; medians.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loading import BATCH, SIDE, Peers, dali, rate, report

from cnnzoo.data import Augment, Cache, TorchLoader
from cnnzoo.data.loaders.dali_loader import DaliLoader
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.split import Split


def ours(kind: Any, split: Split, workers: int, device: torch.device | None) -> Callable[[], float]:
    """A loader of this project."""
    loader = kind(
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
    return lambda: rate(loader, 1)


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    device = torch.device("cuda", 0) if args.device == "cuda" else None
    paths = sorted(str(path) for path in args.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    split = Split(np.zeros(len(paths), np.int64), paths=np.array([os.fsencode(path) for path in paths]))
    torch.set_num_threads(1)  # in the training process, which does nothing here but take batches
    bare = dali(paths, args.workers, on_gpu=device is not None)
    if bare is None:
        sys.exit("DALI is not installed: pip install nvidia-dali-cuda130")
    peers: Peers = {"bare DALI, from files": bare}
    for mode in ("none", "encoded", "decoded"):
        stores = Cache(mode=mode).fill({"train": split}, channels=3, on_bad_file="error")  # type: ignore[arg-type]
        kept = replace(split, store=stores.get("train"))
        for name, kind in (("dali", DaliLoader), ("torch", TorchLoader)):
            what = "from files" if mode == "none" else f"cache {mode}"
            peers[f"loader={name}, {what}"] = ours(kind, kept, args.workers, device)
    where = torch.cuda.get_device_name(0) if device else "CPU"
    bases = {"bare DALI": "bare DALI, from files", "ours from files": "loader=dali, from files"}
    report(f"{len(paths):,} photographs, {args.workers} workers, {where}", peers, args.rounds, bases)


if __name__ == "__main__":
    main()
