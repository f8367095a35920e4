"""How long from the command to the first training step, and where the time goes.

    python benchmarks/startup.py model=resnet        # words for train.py; five runs, medians

Each run is a process of its own that ends itself after its first step. The first, unreported one fills the file cache.
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
    "check": "Python starts, the command line is checked, Hydra composes",
    "imports": "torch, Lightning and torchmetrics are imported",
    "build": "data, network, callbacks, loggers and trainer are built",
    "fit": "Lightning prepares the fit, two sanity batches are validated",
    "step": "the first training step, the picture of the first batch included",
}


class Marks(Callback):
    """Prints when each phase ended, and ends the process after the first step."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The trainer takes over: all is built."""
        self.built = time.time()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The first batch is on the device."""
        self.started = time.time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The first step is done."""
        print("MARKS", json.dumps([self.built, self.started, time.time()]), flush=True)
        os._exit(0)


def one_run(words: list[str]) -> dict[str, float]:
    """Seconds of each phase."""
    with tempfile.TemporaryDirectory() as run_dir:
        command = [sys.executable, "-c", MEASURED, *words, f"run_dir={run_dir}/run"]
        command.append("+callbacks.marks._target_=benchmarks.startup.Marks")
        started = time.time()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    marks = [line for line in done.stdout.splitlines() if line.startswith("MARKS")]
    if len(marks) != 2:
        sys.exit(done.stdout + done.stderr)
    times = [started, *json.loads(marks[0].removeprefix("MARKS")), *json.loads(marks[1].removeprefix("MARKS"))]
    return dict(zip(PHASES, (after - before for before, after in itertools.pairwise(times)), strict=True))


MEASURED = """
import json, time, train
from cnnzoo import cli
def main(cfg):
    begun = time.time()
    import cnnzoo.training.train
    print("MARKS", json.dumps([begun, time.time()]), flush=True)
    return train.main(cfg)
main.__module__ = "train"
cli.run(main, config="train")
"""


def report(words: list[str]) -> None:
    """Print the medians as a table."""
    one_run(words)
    runs = [one_run(words) for _ in range(RUNS)]
    print(f"`train.py {' '.join(words)}`, median of {RUNS} runs, seconds:\n")
    print("| phase | seconds |\n|---|---|")
    for phase, text in PHASES.items():
        print(f"| {text} | {statistics.median(run[phase] for run in runs):.1f} |")
    totals = sorted(sum(run.values()) for run in runs)
    print(f"| **from the command to the first step** | **{statistics.median(totals):.1f}** |")
    print(f"\nFrom {totals[0]:.1f} to {totals[-1]:.1f} seconds.")


if __name__ == "__main__":
    report(sys.argv[1:])
