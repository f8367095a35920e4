"""What the cache costs: the memory of all processes of a training run, with a cache and without, by the kernel's count.

    python benchmarks/memory.py data=folder data.root=DIR                      # 4 workers
    python benchmarks/memory.py --workers 2 --ranks 2 data=folder data.root=DIR

Runs train.py twice, on the CPU, with LeNet at 32 pixels and whatever overrides are given, and adds up the proportional
set sizes (PSS: a page that three processes share counts a third in each) of its processes every two seconds. Linux.
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


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found += family(int(name))
    return found


def pss(pid: int) -> int:
    """Bytes; 0 for a process that has ended."""
    try:
        return int(re.findall(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[0]) * 1024
    except (OSError, IndexError):
        return 0


def settled(sizes: list[int]) -> float:
    """The median of the second half, when every page has been touched."""
    return statistics.median(sizes[len(sizes) // 2 :])


def run(mode: str, args: argparse.Namespace, rest: list[str]) -> tuple[list[int], int]:
    """(PSS of all processes over time while all were there, bytes of the cache)."""
    with tempfile.TemporaryDirectory() as work:
        command = [
            *(sys.executable, str(TRAIN), f"run_dir={work}/run", "model=lenet", "data.image_size=32", "test=false"),
            *("augment=imagenet", "logger=csv", "callbacks=minimal", "trainer.accelerator=cpu"),
            *(f"trainer.devices={args.ranks}", f"loader.workers={args.workers}", f"data.cache.mode={mode}"),
            *(f"trainer.max_epochs={args.epochs}", *rest),
            *(["trainer.strategy=ddp"] if args.ranks > 1 else []),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        seen: list[tuple[int, int]] = []
        while process.poll() is None:
            time.sleep(2)
            them = family(process.pid)
            seen.append((len(them), sum(map(pss, them))))
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}")
        said = re.search(r"in RAM, ([\d.]+) (kB|MB|GB),", Path(f"{work}/run/train.log").read_text())
    most = max(count for count, _ in seen)
    return [size for count, size in seen if count == most], int(float(said[1]) * UNITS[said[2]]) if said else 0


def main() -> None:
    """Read the command line, run twice, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--mode", default="decoded")
    args, rest = parser.parse_known_args()
    with_cache, size = run(args.mode, args, rest)
    without, _ = run("none", args, rest)
    more = settled(with_cache) - settled(without)
    print(json.dumps({"MiB over time": [round(each / 2**20) for each in with_cache]}))
    print(json.dumps({"MiB over time, no cache": [round(each / 2**20) for each in without]}))
    print(f"{args.ranks} ranks, {args.workers} workers each: cache {size / 1e6:,.0f} MB, PSS {more / 1e6:,.0f} MB more")
    print(f"ratio {more / size:.2f}")


if __name__ == "__main__":
    main()
