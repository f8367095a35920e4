"""Measure the time from the command to the first training step, and what each imported package takes of it.

    python benchmarks/startup.py model=resnet               # overrides for train.py; medians of five runs
    python benchmarks/startup.py model=resnet --against DIR # the same for the checkout in DIR, run in turns
    python benchmarks/startup.py model=resnet --imports     # the packages, and which one imports each of them first

Each run is a separate process that exits after its first step. A first run, which is not counted, fills the page cache.
CPU seconds vary less than seconds on a machine that does other things. They are those of all threads of the process.
"""

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

ROOT = Path(__file__).resolve().parent.parent
PHASES = {
    "check": "Python starts, the command line is checked, Hydra composes the configuration",
    "imports": "torch, Lightning and torchmetrics are imported",
    "build": "data, network, callbacks, loggers and trainer are built",
    "fit": "Lightning prepares the fit and validates two batches as a sanity check",
    "step": "the first training step, including the picture of the first batch",
}
PARTS = ("torch._dynamo", "torch._inductor", "torch.distributed")  # packages of torch that have a row of their own
SMALL_SHARE = 0.01  # packages that take less than this share of all imports have one row together

SCRIPT = """
import time
from omegaconf import OmegaConf
from cnnzoo import cli
from cnnzoo.jobs import train
marks = []
def mark():
    marks.append((time.time(), time.process_time()))
def main(cfg):
    mark()
    OmegaConf.update(cfg, "callbacks.phase_times._target_", "startup.PhaseTimes", force_add=True)
    return train.main(cfg)
check_accelerator = train.check_accelerator  # the first call after the imports
def check(cfg):
    mark()
    check_accelerator(cfg)
train.check_accelerator = check
cli.run(main, job="train", help_text="")
"""


class PhaseTimes(Callback):
    """Prints the end of each phase and exits the process after the first step."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        _script().mark()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        _script().mark()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        _script().mark()
        print("TIMES", json.dumps(_script().marks), flush=True)
        os._exit(0)


def _script() -> Any:
    return sys.modules["__main__"]


def run_training(checkout: Path, overrides: list[str], *options: str) -> tuple[dict[str, tuple[float, float]], str]:
    """Seconds and CPU seconds of each phase of one run of the code in `checkout`, and what the run wrote to stderr."""
    with tempfile.TemporaryDirectory() as run_dir:
        command = [sys.executable, *options, "-c", SCRIPT, *overrides, f"run_dir={run_dir}/run"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")}
        start = time.time()
        process = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    lines = [line for line in process.stdout.splitlines() if line.startswith("TIMES")]
    if len(lines) != 1:
        sys.exit(process.stdout + process.stderr)
    ends = [(start, 0.0), *json.loads(lines[0].removeprefix("TIMES"))]
    spans = [(wall - before, cpu - cpu_before) for (before, cpu_before), (wall, cpu) in itertools.pairwise(ends)]
    return dict(zip(PHASES, spans, strict=True)), process.stderr


def package_of(module: str) -> str:
    """The row of the table of imports that a module belongs to."""
    return next((part for part in PARTS if f"{module}.".startswith(f"{part}.")), module.partition(".")[0])


def imported_modules(importtime: str) -> Iterator[tuple[str, float, list[str]]]:
    """Each module in the output of `-X importtime`, its own seconds, and the packages that import it, innermost last.

    A module is printed after those that it imports, which are indented by two more spaces. They are therefore read
    from the last to the first. A module that is imported by `importlib.import_module` is not printed, and what it
    imports counts as imported by the caller: `lightning_fabric` imports torch and torchmetrics in this way.
    """
    parents: list[str] = []
    for line in reversed(importtime.splitlines()):
        if match := re.fullmatch(r"import time: +(\d+) \| +\d+ \| ((?:  )*)(\S+)", line):
            del parents[len(match[2]) // 2 :]
            yield match[3], int(match[1]) / 1e6, list(parents)
            parents.append(package_of(match[3]))


def import_rows(importtime: str) -> dict[str, tuple[float, float, str]]:
    """For each package: its own seconds, also those of the packages that it imports first, and what imports it first.

    The importer is the package that is charged with most of the seconds.
    """
    own: dict[str, float] = defaultdict(float)
    total: dict[str, float] = defaultdict(float)
    importers: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for module, seconds, parents in imported_modules(importtime):
        chain = [*parents, package_of(module)]
        own[chain[-1]] += seconds
        for package in set(chain):
            total[package] += seconds
            first = chain.index(package)
            importers[package][chain[first - 1] if first else "the command"] += seconds
    return {name: (own[name], total[name], max(importers[name], key=importers[name].__getitem__)) for name in own}


def print_phases(runs: dict[Path, list[dict[str, tuple[float, float]]]]) -> None:
    """The medians of the phases as a table: seconds and CPU seconds of each checkout."""
    print("| phase |" + "".join(f" {checkout.name}, s | CPU s |" for checkout in runs))
    print("|---|" + "---|---|" * len(runs))
    for phase, text in PHASES.items():
        cells = [f"{statistics.median(run[phase][i] for run in runs[root]):.2f}" for root in runs for i in (0, 1)]
        print(f"| {text} | {' | '.join(cells)} |")
    totals = [sorted(sum(span[i] for span in run.values()) for run in runs[root]) for root in runs for i in (0, 1)]
    print(f"| **to the first step** | {' | '.join(f'**{statistics.median(total):.2f}**' for total in totals)} |")
    print(f"| range | {' | '.join(f'{total[0]:.2f} - {total[-1]:.2f}' for total in totals)} |")


def print_imports(checkout: Path, outputs: list[str]) -> None:
    """The medians of the packages as a table, the slowest first."""
    samples = [import_rows(output) for output in outputs]
    rows: dict[str, tuple[float, float, str]] = {}
    for name, (_, _, importer) in samples[0].items():
        found = [sample[name] for sample in samples if name in sample]
        own, total = statistics.median(row[0] for row in found), statistics.median(row[1] for row in found)
        rows[name] = (own, total, importer)
    seconds = sum(own for own, _, _ in rows.values())
    shown = sorted((name for name in rows if rows[name][0] >= SMALL_SHARE * seconds), key=lambda name: -rows[name][0])
    rest = [rows[name][0] for name in rows if name not in shown]
    print(f"Imports of {checkout.name}, seconds:\n\n| package | own | with its imports | imported first by |")
    print("|---|---|---|---|")
    for name in shown:
        own, total, importer = rows[name]
        print(f"| {name} | {own:.2f} | {total:.2f} | {importer} |")
    print(f"| {len(rest)} others | {sum(rest):.2f} | | |")
    print(f"| **all** | **{seconds:.2f}** | | |\n")


def main() -> None:
    """Measure, and print the medians as tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="overrides for train.py")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout, measured in turns with this one")
    parser.add_argument(
        "--imports", action="store_true", help="the packages (runs with -X importtime, which is slower)"
    )
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    checkouts = [ROOT] if args.against is None else [args.against.resolve(), ROOT]
    options = ("-X", "importtime") if args.imports else ()
    results = [
        {checkout: run_training(checkout, args.overrides, *options) for checkout in checkouts}
        for _ in range(args.runs + 1)
    ][1:]
    print(f"`train.py {' '.join(args.overrides)}`, median of {args.runs} runs:\n")
    if args.imports:
        for checkout in checkouts:
            print_imports(checkout, [result[checkout][1] for result in results])
    else:
        print_phases({checkout: [result[checkout][0] for result in results] for checkout in checkouts})


if __name__ == "__main__":
    main()
