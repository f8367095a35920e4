"""Kills training runs at random moments, resumes each, and compares it with the run that was never killed.

    python benchmarks/kills.py                  # twenty trials, over the ways below, each in turn
    python benchmarks/kills.py --trials 6 --seed 1

A trial fails where weights or metrics.csv differ, and where the resume in fact began from the start. A trial that was
over before it was killed, or not yet saved, is repeated. Exit code 1 where any failed.
"""

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

ROOT = Path(__file__).parent.parent
COMMON = ("trainer=cpu", "trainer.max_epochs=3", "model=alexnet", "callbacks.checkpoint.every_minutes=0.02")
WAYS = [
    (f"loader={loader}", *workers, *ema)
    for ema in ((), ("ema=0.99",))
    for loader, workers in (
        ("torch", ("loader.workers=0",)),
        ("torch", ("loader.workers=2",)),
        ("dali", ()),
    )
]
"""alexnet has dropout; the data is the digits."""


def command(*words: str) -> list[str]:
    """`python train.py`."""
    return [sys.executable, str(ROOT / "train.py"), *words]


def whole(way: tuple[str, ...], run: Path) -> float:
    """The run that is never killed; how many seconds it trained after its first checkpoint."""
    process = subprocess.Popen(command(*COMMON, *way, f"run_dir={run}"), cwd=ROOT, stdout=subprocess.DEVNULL)
    begun = wait_for_checkpoint(process, run)
    if process.wait() or begun is None:
        sys.exit(f"the run that is never killed failed: {' '.join(way)}")
    return time.monotonic() - begun


def wait_for_checkpoint(process: subprocess.Popen[Any], run: Path) -> float | None:
    """When the first checkpoint is there; None where the process ends first."""
    while process.poll() is None:
        if (run / "checkpoints/last.ckpt").exists():
            return time.monotonic()
        time.sleep(0.02)
    return None


def killed(way: tuple[str, ...], run: Path, seconds: float) -> bool:
    """Whether a run was killed that many seconds after its first checkpoint."""
    process = subprocess.Popen(command(*COMMON, *way, f"run_dir={run}"), cwd=ROOT, stdout=subprocess.DEVNULL)
    if wait_for_checkpoint(process, run) is None:
        return False
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL and not (run / "metrics.json").exists()


def differences(run: Path, expected: Path) -> list[str]:
    """What is not the same in both, figures of time aside."""
    found = []
    for name in ("best", "last"):
        ours, theirs = (torch.load(each / f"checkpoints/{name}.ckpt", weights_only=True) for each in (run, expected))
        for key in ("state_dict", "raw_state_dict"):
            a, b = ours.get(key, {}), theirs.get(key, {})
            if a.keys() != b.keys() or not all(torch.equal(a[part], b[part]) for part in a):
                found.append(f"{name}.ckpt {key}")
    if rows(run) != rows(expected):
        found.append("metrics.csv")
    return found


def rows(run: Path) -> list[dict[str, str]]:
    """Of metrics.csv, without speeds."""
    with (run / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in csv.DictReader(file)]


def main() -> None:
    """Read the command line, run the trials, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance, failed, done = random.Random(args.seed), 0, 0
    with tempfile.TemporaryDirectory() as top:
        wholes: dict[tuple[str, ...], tuple[Path, float]] = {}
        while done < args.trials:
            way = WAYS[done % len(WAYS)]
            if way not in wholes:
                path = Path(top) / f"whole{len(wholes)}"
                wholes[way] = path, whole(way, path)
            expected, length = wholes[way]
            run = Path(top) / f"trial{done}-{chance.random()}"
            after = chance.uniform(0, length)
            if not killed(way, run, after):
                continue
            outcome = subprocess.run(command(f"resume={run}"), cwd=ROOT, capture_output=True, text=True)
            if outcome.returncode:
                print(outcome.stdout[-500:], outcome.stderr[-2000:])
                wrong = [f"exit code {outcome.returncode}"]
                step = 0
            else:
                (entry,) = yaml.safe_load((run / "resumes.yaml").read_text())
                step = entry["step"]
                wrong = differences(run, expected) + ([] if step else ["the resume began from the start"])
            done, failed = done + 1, failed + bool(wrong)
            words = " ".join(way)
            print(
                f"{done:3} {words:45} killed {after:5.1f} s in, went on at step {step:3}: {wrong or 'same'}", flush=True
            )
    print(f"{done - failed} of {done} ended as if they had never been killed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
