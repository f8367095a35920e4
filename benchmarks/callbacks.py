"""What the callbacks cost: steps per second of training with `callbacks=minimal`, `default` and `full`.

    python benchmarks/callbacks.py model=lenet      # words for train.py
    python benchmarks/callbacks.py --rounds 9 --epochs 12 model=resnet

Each way trains as `train.py` does, on the whole of its configuration, in a directory that is removed; all in turn, in
each round, every second round in reverse, as machines drift. Time is that of whole epochs, validation, checkpoints and
pictures included, but for the first and the last: those have what is done once, such as the graph and the last
pictures, and how much longer they took is shown apart. A ratio is the median of the rounds' ratios.
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

import train  # noqa: E402
from cnnzoo import cli  # noqa: E402

WAYS = ("minimal", "default", "full")


class Clock(Callback):
    """Notes when training begins and when each epoch has ended, whatever the other callbacks do at its end."""

    marks: ClassVar[list[float]] = []  # of the latest run; Hydra builds the callback
    steps: ClassVar[int] = 0  # in an epoch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training begins."""
        self.marks[:] = [time.perf_counter()]
        Clock.steps = int(trainer.num_training_batches)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch before is over, with its validation and its checkpoints."""
        if trainer.global_step:
            self.marks.append(time.perf_counter())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """So is the last one."""
        self.marks.append(time.perf_counter())


def one_run(way: str, words: list[str], epochs: int) -> tuple[float, float]:
    """Seconds of an epoch between the first and the last, and how many more those two took."""
    with tempfile.TemporaryDirectory() as place:
        run_dir = Path(place) / "run"
        argv = [
            *words,
            f"callbacks={way}",
            "callbacks.progress=null",
            "trainer.enable_progress_bar=false",
            f"trainer.max_epochs={epochs}",
            "test=false",
            f"run_dir={run_dir}",
            f"+callbacks.clock._target_={__name__}.Clock",
        ]
        prepared, _ = cli.prepare(argv, config="train", help_text="")
        with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
            cfg = hydra.compose("train", overrides=prepared)
        (run_dir / ".hydra").mkdir(parents=True)
        (run_dir / ".hydra" / "overrides.yaml").write_text("[]")
        train.main(cfg)
    marks = Clock.marks
    between = (marks[-2] - marks[1]) / (len(marks) - 3)
    return between, marks[1] - marks[0] + marks[-1] - marks[-2] - 2 * between


def report(words: list[str], rounds: int, epochs: int) -> None:
    """Measure, and print the table."""
    one_run("full", words, 3)  # libraries load and choose their algorithms
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way in WAYS if number % 2 == 0 else WAYS[::-1]:
            taken[way].append(one_run(way, words, epochs))
            print(f"round {number + 1} {way}: {taken[way][-1][0]:.4f} s an epoch", file=sys.stderr, flush=True)
    steps = Clock.steps
    base = [seconds for seconds, _ in taken["minimal"]]
    print(f"`train.py {' '.join(words)}`, {steps} steps an epoch, {epochs - 2} epochs, {rounds} rounds:\n")
    print("| callbacks | steps/s | from - to | x minimal | from - to | once, seconds |\n|---|---|---|---|---|---|")
    for way, runs in taken.items():
        speeds = sorted(steps / seconds for seconds, _ in runs)
        ratios = sorted(before / seconds for before, (seconds, _) in zip(base, runs, strict=True))
        print(
            f"| {way} | {median(speeds):.2f} | {speeds[0]:.2f} - {speeds[-1]:.2f} | {median(ratios):.3f} | "
            f"{ratios[0]:.3f} - {ratios[-1]:.3f} | {median(once for _, once in runs):.2f} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8, help="of each run, at least 3")
    options, words = parser.parse_known_args()
    report(words, options.rounds, max(3, options.epochs))
