"""Kill training runs at random moments, resume them, and compare them with runs that were not interrupted.

    python benchmarks/kills.py                  # twenty trials, which cycle through the settings below
    python benchmarks/kills.py --trials 6 --seed 1
    python benchmarks/kills.py --everything     # all options that depend on the step or the epoch, in one run

A trial fails if the weights or metrics.csv differ, or if the resumed run started from the beginning. A trial is
repeated if the run ended before it was killed. The exit code is 1 if any trial failed.
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

import cnnzoo

ROOT = Path(__file__).parent.parent
COMMON = ("trainer=cpu", "trainer.max_epochs=3", "model=alexnet", "callbacks.checkpoint.every_n_seconds=1")
SETTINGS = [
    (f"loader={loader}", *workers, *ema)
    for ema in ((), ("ema=0.99",))
    for loader, workers in (
        ("torch", ("loader.workers=0",)),
        ("torch", ("loader.workers=2",)),
        ("dali", ()),
    )
]
"""Overrides of each setting. The data set is digits; alexnet uses random numbers for dropout."""
EVERYTHING = (
    *("model.weights={weights}", "freeze_epochs=1", "mixup=0.2", "cutmix=1.0", "ema=0.99", "data.balance=true"),
    *("data.image_size=40", "data.start_size=30", "augment.random_erase=0.5", "trainer.accumulate_grad_batches=2"),
)
"""The overrides of `--everything`; the weights are of a network for five classes, whose head is replaced."""


def train_command(*overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *overrides]


def run_uninterrupted(setting: tuple[str, ...], run_dir: Path) -> float:
    """Train without interruption; returns the seconds from the first checkpoint to the end."""
    process = subprocess.Popen(
        train_command(*COMMON, *setting, f"run_dir={run_dir}"), cwd=ROOT, stdout=subprocess.DEVNULL
    )
    start = wait_for_checkpoint(process, run_dir)
    if process.wait() or start is None:
        sys.exit(f"the uninterrupted run failed: {' '.join(setting)}")
    return time.monotonic() - start


def wait_for_checkpoint(process: subprocess.Popen[Any], run_dir: Path) -> float | None:
    """Wait for the first checkpoint and return the time; None if the process ends before."""
    while process.poll() is None:
        if (run_dir / "checkpoints/last.ckpt").exists():
            return time.monotonic()
        time.sleep(0.02)
    return None


def run_and_kill(setting: tuple[str, ...], run_dir: Path, seconds: float) -> bool:
    """Kill a run `seconds` after its first checkpoint; returns False if it ended before."""
    process = subprocess.Popen(
        train_command(*COMMON, *setting, f"run_dir={run_dir}"), cwd=ROOT, stdout=subprocess.DEVNULL
    )
    if wait_for_checkpoint(process, run_dir) is None:
        return False
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL and not (run_dir / "metrics.json").exists()


def find_differences(run_dir: Path, expected_dir: Path) -> list[str]:
    """Names of the files and entries that differ between two runs; speeds are not compared."""
    differences = []
    for name in ("best", "last"):
        checkpoint, expected = (
            torch.load(directory / f"checkpoints/{name}.ckpt", weights_only=True)
            for directory in (run_dir, expected_dir)
        )
        for key in ("state_dict", "raw_state_dict"):
            a, b = checkpoint.get(key, {}), expected.get(key, {})
            if a.keys() != b.keys() or not all(torch.equal(a[parameter], b[parameter]) for parameter in a):
                differences.append(f"{name}.ckpt {key}")
    if metric_rows(run_dir) != metric_rows(expected_dir):
        differences.append("metrics.csv")
    return differences


def metric_rows(run_dir: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without the columns of speeds."""
    with (run_dir / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in csv.DictReader(file)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--everything", action="store_true")
    args = parser.parse_args()
    rng, failed, done = random.Random(args.seed), 0, 0
    with tempfile.TemporaryDirectory() as directory:
        settings = SETTINGS
        if args.everything:
            weights = Path(directory) / "weights.pth"
            net = cnnzoo.create_model("alexnet", num_classes=5, in_channels=1, stem="small")
            torch.save(net.state_dict(), weights)
            everything = tuple(override.format(weights=weights) for override in EVERYTHING)
            settings = [(f"loader={loader}", *everything) for loader in ("torch", "dali")]
        uninterrupted: dict[tuple[str, ...], tuple[Path, float]] = {}
        while done < args.trials:
            setting = settings[done % len(settings)]
            if setting not in uninterrupted:
                path = Path(directory) / f"uninterrupted{len(uninterrupted)}"
                uninterrupted[setting] = path, run_uninterrupted(setting, path)
            expected_dir, seconds = uninterrupted[setting]
            run_dir = Path(directory) / f"trial{done}-{rng.random()}"
            kill_after = rng.uniform(0, seconds)
            if not run_and_kill(setting, run_dir, kill_after):
                continue
            resumed = subprocess.run(train_command(f"resume={run_dir}"), cwd=ROOT, capture_output=True, text=True)
            if resumed.returncode:
                print(resumed.stdout[-500:], resumed.stderr[-2000:])
                differences = [f"exit code {resumed.returncode}"]
                step = 0
            else:
                (entry,) = yaml.safe_load((run_dir / "resumes.yaml").read_text())
                step = entry["step"]
                differences = find_differences(run_dir, expected_dir)
                if not step:
                    differences.append("the resumed run started from the beginning")
            done, failed = done + 1, failed + bool(differences)
            print(
                f"{done:3} {' '.join(setting):45} killed after {kill_after:5.1f} s, resumed at step {step:3}: "
                f"{differences or 'same'}",
                flush=True,
            )
    print(f"{done - failed} of {done} resumed runs equal the uninterrupted run")
    sys.exit(bool(failed))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
