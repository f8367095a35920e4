"""Measure the cost of the callbacks: steps per second of training with `callbacks=minimal`, `default` and `full`.

    python benchmarks/callbacks.py model=lenet      # overrides for train.py
    python benchmarks/callbacks.py --rounds 9 --epochs 12 model=resnet

Each run trains with the complete configuration of `train.py`, in a temporary directory. Every round runs all three
settings, every second round in reverse order, because the speed of machines drifts. The time is that of whole epochs
with validation, checkpoints and images. The first and the last epoch are left out, because they include one-time work
such as the graph and the last images; their additional time is shown in its own column. Ratios are medians over the
rounds.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import ClassVar

import hydra
from pytorch_lightning import Callback, LightningModule, Trainer

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from cnnzoo import cli  # noqa: E402
from cnnzoo.jobs import train  # noqa: E402

SETTINGS = ("minimal", "default", "full")


class Clock(Callback):
    """Records the start of training and the end of each epoch, after the other callbacks have finished the epoch."""

    times: ClassVar[list[float]] = []  # of the latest run; class attributes, because Hydra builds the callback
    steps: ClassVar[int] = 0  # per epoch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.times[:] = [time.perf_counter()]
        Clock.steps = int(trainer.num_training_batches)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step:  # the previous epoch, its validation and its checkpoints are done
            self.times.append(time.perf_counter())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.times.append(time.perf_counter())


def run_training(setting: str, overrides: list[str], epochs: int) -> tuple[float, float]:
    """Seconds per epoch without the first and the last one, and the additional seconds of these two."""
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory) / "run"
        argv = [
            *overrides,
            f"callbacks={setting}",
            "callbacks.progress=null",
            "trainer.enable_progress_bar=false",
            f"trainer.max_epochs={epochs}",
            "test=false",
            f"run_dir={run_dir}",
            f"+callbacks.clock._target_={__name__}.Clock",
        ]
        prepared, _ = cli.prepare(argv, job="train", help_text="")
        with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
            cfg = hydra.compose("train", overrides=prepared)
        (run_dir / ".hydra").mkdir(parents=True)
        (run_dir / ".hydra" / "overrides.yaml").write_text("[]")
        train.main(cfg)
    times = Clock.times
    epoch_seconds = (times[-2] - times[1]) / (len(times) - 3)
    return epoch_seconds, times[1] - times[0] + times[-1] - times[-2] - 2 * epoch_seconds


def report(overrides: list[str], rounds: int, epochs: int) -> None:
    """Measure and print the table."""
    run_training("full", overrides, 3)  # warm-up: libraries are loaded and choose their algorithms
    results: dict[str, list[tuple[float, float]]] = {setting: [] for setting in SETTINGS}
    for number in range(rounds):
        for setting in SETTINGS if number % 2 == 0 else SETTINGS[::-1]:
            results[setting].append(run_training(setting, overrides, epochs))
            print(
                f"round {number + 1} {setting}: {results[setting][-1][0]:.4f} s per epoch", file=sys.stderr, flush=True
            )
    steps = Clock.steps
    base = [seconds for seconds, _ in results["minimal"]]
    print(f"`train.py {' '.join(overrides)}`, {steps} steps per epoch, {epochs - 2} epochs, {rounds} rounds:\n")
    print("| callbacks | steps/s | from - to | x minimal | from - to | one-time, seconds |\n|---|---|---|---|---|---|")
    for setting, runs in results.items():
        speeds = sorted(steps / seconds for seconds, _ in runs)
        ratios = sorted(minimal / seconds for minimal, (seconds, _) in zip(base, runs, strict=True))
        print(
            f"| {setting} | {median(speeds):.2f} | {speeds[0]:.2f} - {speeds[-1]:.2f} | {median(ratios):.3f} | "
            f"{ratios[0]:.3f} - {ratios[-1]:.3f} | {median(one_time for _, one_time in runs):.2f} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8, help="epochs per run, at least 3")
    options, overrides = parser.parse_known_args()
    report(overrides, options.rounds, max(3, options.epochs))
