"""Measure how long training waits for a checkpoint, with and without a thread that writes the file.

    python benchmarks/checkpoints.py                            # resnet20, resnet18 and resnet50
    python benchmarks/checkpoints.py --dir DIR --rounds 9 vgg16

A checkpoint has the weights and the momentum of SGD. It is written to a temporary directory in DIR, whose disk counts.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

import cnnzoo
from cnnzoo.callbacks.checkpoint_io import AtomicCheckpointIO, BackgroundCheckpointIO

NETWORKS = ("resnet20", "resnet18", "resnet50")


def make_checkpoint(name: str) -> dict[str, Any]:
    """The tensors of a checkpoint of the network."""
    weights = cnnzoo.create_model(name).state_dict()
    return {"state_dict": weights, "optimizer_states": {key: torch.randn_like(weights[key].float()) for key in weights}}


def time_save(io: AtomicCheckpointIO, checkpoint: dict[str, Any], path: Path) -> float:
    """Seconds until the call returns."""
    start = time.perf_counter()
    io.save_checkpoint(checkpoint, path)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--dir", type=Path, help="a directory of the disk to write to; by default the temporary one")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print("| network | file, MB | `background=false`, ms | `background=true`, ms |\n|---|---|---|---|")
    background = BackgroundCheckpointIO()
    for name in args.networks:
        checkpoint = make_checkpoint(name)
        with tempfile.TemporaryDirectory(dir=args.dir) as directory:
            path = Path(directory) / "last.ckpt"
            waits: dict[AtomicCheckpointIO, list[float]] = {AtomicCheckpointIO(): [], background: []}
            for _ in range(args.rounds + 1):
                for io, seconds in waits.items():
                    seconds.append(time_save(io, checkpoint, path))
                    background.wait()
            size = path.stat().st_size / 1e6
        medians = [1000 * median(seconds[1:]) for seconds in waits.values()]  # the first round allocates memory
        print(f"| {name} | {size:.0f} | {medians[0]:.0f} | {medians[1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
