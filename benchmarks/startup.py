"""Measure the time from the command to the first training step, divided into phases.

    python benchmarks/startup.py model=resnet        # overrides for train.py; medians of five runs

Each run is a separate process that exits after its first step. A first run, which is not counted, fills the page cache.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

ROOT = Path(__file__).parent.parent
RUNS = 5
PHASES = {
    "check": "Python starts, the command line is checked, Hydra composes the configuration",
    "imports": "torch, Lightning and torchmetrics are imported",
    "build": "data, network, callbacks, loggers and trainer are built",
    "fit": "Lightning prepares the fit and validates two batches as a sanity check",
    "step": "the first training step, including the picture of the first batch",
}


class PhaseTimes(Callback):
    """Prints the end of each phase and exits the process after the first step."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.setup_time = time.time()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.first_batch_time = time.time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        print("TIMES", json.dumps([self.setup_time, self.first_batch_time, time.time()]), flush=True)
        os._exit(0)


def run_training(overrides: list[str]) -> dict[str, float]:
    """Seconds of each phase of one run."""
    with tempfile.TemporaryDirectory() as run_dir:
        command = [sys.executable, "-c", SCRIPT, *overrides, f"run_dir={run_dir}/run"]
        command.append("+callbacks.phase_times._target_=benchmarks.startup.PhaseTimes")
        start = time.time()
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = [line for line in process.stdout.splitlines() if line.startswith("TIMES")]
    if len(lines) != 2:
        sys.exit(process.stdout + process.stderr)
    times = [start, *(end for line in lines for end in json.loads(line.removeprefix("TIMES")))]
    return dict(zip(PHASES, (after - before for before, after in itertools.pairwise(times)), strict=True))


SCRIPT = """
import json, time, train
from cnnzoo import cli
def main(cfg):
    start = time.time()
    import cnnzoo.training.train
    print("TIMES", json.dumps([start, time.time()]), flush=True)
    return train.main(cfg)
main.__module__ = "train"
cli.run(main, config="train", help_text="")
"""


def report(overrides: list[str]) -> None:
    """Measure, and print the medians as a table."""
    run_training(overrides)
    runs = [run_training(overrides) for _ in range(RUNS)]
    print(f"`train.py {' '.join(overrides)}`, median of {RUNS} runs, seconds:\n")
    print("| phase | seconds |\n|---|---|")
    for phase, text in PHASES.items():
        print(f"| {text} | {statistics.median(run[phase] for run in runs):.1f} |")
    totals = sorted(sum(run.values()) for run in runs)
    print(f"| **from the command to the first step** | **{statistics.median(totals):.1f}** |")
    print(f"\nThe runs took from {totals[0]:.1f} to {totals[-1]:.1f} seconds.")


if __name__ == "__main__":
    report(sys.argv[1:])
