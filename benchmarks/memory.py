"""Measure the memory of the cache: that of all processes of a training run with the cache, minus without it.

    python benchmarks/memory.py data=folder data.root=DIR                      # 4 workers
    python benchmarks/memory.py --workers 2 --ranks 2 data=folder data.root=DIR

Runs train.py twice on the CPU, with LeNet at 32 pixels and the given overrides. Every two seconds it adds up the
proportional set sizes of the processes (PSS: of a page that three processes share, each has a third). Linux only.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9}
TRAIN = Path(__file__).parent.parent / "train.py"


def process_tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    pids = [pid]
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            pids += process_tree(int(name))
    return pids


def pss_bytes(pid: int) -> int:
    """Proportional set size in bytes; 0 for a process that has ended."""
    try:
        return int(re.findall(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[0]) * 1024
    except (OSError, IndexError):
        return 0


def steady_size(sizes: list[int]) -> float:
    """The median of the second half, in which every page has been used."""
    return statistics.median(sizes[len(sizes) // 2 :])


def run(mode: str, args: argparse.Namespace, overrides: list[str]) -> tuple[list[int], int]:
    """Train once. Returns the PSS over time, while all processes were running, and the bytes of the cache."""
    with tempfile.TemporaryDirectory() as work:
        command = [
            *(sys.executable, str(TRAIN), f"run_dir={work}/run", "model=lenet", "data.image_size=32", "test=false"),
            *("augment=imagenet", "logger=csv", "callbacks=minimal", "trainer.accelerator=cpu"),
            *(f"trainer.devices={args.ranks}", f"loader.workers={args.workers}", f"data.cache.mode={mode}"),
            *(f"trainer.max_epochs={args.epochs}", *overrides),
            *(["trainer.strategy=ddp"] if args.ranks > 1 else []),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        samples: list[tuple[int, int]] = []
        while process.poll() is None:
            time.sleep(2)
            pids = process_tree(process.pid)
            samples.append((len(pids), sum(map(pss_bytes, pids))))
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
        match = re.search(r"in RAM, ([\d.]+) (kB|MB|GB),", Path(f"{work}/run/train.log").read_text())
    cache_bytes = int(float(match[1]) * UNITS[match[2]]) if match else 0
    max_count = max(count for count, _ in samples)
    return [size for count, size in samples if count == max_count], cache_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--mode", default="decoded")
    args, overrides = parser.parse_known_args()
    with_cache, cache_bytes = run(args.mode, args, overrides)
    without, _ = run("none", args, overrides)
    difference = steady_size(with_cache) - steady_size(without)
    print(json.dumps({"MiB over time": [round(size / 2**20) for size in with_cache]}))
    print(json.dumps({"MiB over time, no cache": [round(size / 2**20) for size in without]}))
    print(
        f"{args.ranks} ranks, {args.workers} workers each: cache {cache_bytes / 1e6:,.0f} MB, "
        f"PSS {difference / 1e6:,.0f} MB larger than without cache"
    )
    print(f"ratio {difference / cache_bytes:.2f}")


if __name__ == "__main__":
    main()
