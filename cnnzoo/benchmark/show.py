"""What `benchmark.py` prints and writes."""

import logging
import warnings
from pathlib import Path

from omegaconf import DictConfig

from cnnzoo.benchmark.data_benchmark import DataBenchmark
from cnnzoo.benchmark.measure import TrainerFactory
from cnnzoo.benchmark.tables import bottleneck_text, cache_hint, result_rows, results_table
from cnnzoo.data.datamodule import DataModule
from cnnzoo.describe.tables import console, write_csv
from cnnzoo.errors import UserError, unknown
from cnnzoo.runtime.formatting import format_bytes
from cnnzoo.training.classifier import Classifier
from cnnzoo.training.run_summary import device_summary, log_table
from cnnzoo.training.train import IGNORED_WARNINGS

JOBS = ("data",)
TIME_OVERHEAD = 2
"""How much longer the measurements take than their clocks run: starting and warming up."""

log = logging.getLogger(__name__)


def check(cfg: DictConfig) -> None:
    """Raise UserError for values of the job's own keys that cannot be, before anything is built."""
    if cfg.job not in JOBS:
        raise unknown("job", str(cfg.job), JOBS)
    if isinstance(cfg.seconds, bool) or not isinstance(cfg.seconds, int | float) or not 0 < cfg.seconds <= 3600:
        raise UserError(f"seconds={cfg.seconds}: of each measurement, a number above 0 and at most 3600")
    for key in ("rounds", "images", "finalists"):
        if isinstance(cfg[key], bool) or not isinstance(cfg[key], int) or cfg[key] < 1:
            raise UserError(f"{key}={cfg[key]}: a whole number of 1 or more")
    if cfg.data.cache.persist is not None:
        raise UserError(f"data.cache.persist={cfg.data.cache.persist}: a measurement keeps nothing; leave it out")
    if cfg.csv is not None and not Path(cfg.csv).absolute().parent.is_dir():
        raise UserError(f"csv={cfg.csv} cannot be written: there is no directory {Path(cfg.csv).absolute().parent}")


def show_data(cfg: DictConfig, data: DataModule, classifier: Classifier, trainers: TrainerFactory) -> None:
    """Measure the ways of loading `data`, print them all, and which one to use.

    `classifier` is the network with its optimizer; `trainers` makes a trainer with the callbacks it is given. Raises
    UserError for what cannot be measured.
    """
    for pattern in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    trainer = trainers()
    if trainer.world_size > 1:
        raise UserError(
            f"trainer.devices={cfg.trainer.devices} and trainer.num_nodes={cfg.trainer.num_nodes}: one device is "
            "measured, as each of several needs as much; leave them out"
        )
    data.train_dataloader()  # so that what cannot be typed is said at once; it starts no worker
    bench = DataBenchmark(cfg, data, classifier, trainers)
    count, seconds = len(bench.measured) + cfg.finalists + 3, cfg.rounds * cfg.seconds * TIME_OVERHEAD
    part = f", {bench.images:,} of them measured" if bench.images < len(bench.train) else ""
    log_table(
        {
            "model": f"{cfg.model.name}, {data.resolved_image_size} x {data.resolved_image_size} pixels, batches of "
            f"{data.batch_size}",
            "data": f"{data.name}: {len(bench.train):,} training images{part}",
            "device": device_summary(trainer),
            "ways": f"{len(bench.measured)}, {cfg.rounds} times {cfg.seconds:g} s each: about "
            f"{max(1, round(count * seconds / 60))} min",
        }
    )
    bench.fill()
    bench.measure()
    if cfg.csv is not None:
        write_csv(Path(cfg.csv), result_rows(bench.measured, bench.headspace, bench.chosen))
    out = console()
    out.print()
    out.print(results_table(bench.measured, bench.headspace, bench.chosen))
    legend = "* is what to use."
    if bench.train.paths is not None:
        legend += (
            f" RAM and filling are of all {bench.cached:,} images trained and validated on; data.cache.budget="
            f"{data.cache.budget:g} allows {format_bytes(bench.budget)}."
        )
    out.print(f"\n{legend}", style="dim")
    log.info("")
    low, high = min(bench.heads), max(bench.heads)
    log_table(
        {
            "headspace": f"{bench.headspace:,.0f} images/s if data cost nothing (from {low:,.0f} to {high:,.0f})",
            "limit": bottleneck_text(bench.chosen, bench.headspace),
            "settings": bench.chosen.way.settings,
            **cache_hint(bench.measured, bench.chosen),
            **({} if cfg.csv is None else {"written": str(cfg.csv)}),
        }
    )
