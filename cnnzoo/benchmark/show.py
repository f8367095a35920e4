"""Runs `job=data`, prints its results and writes its files."""

import logging
import warnings
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from cnnzoo.benchmark.data_benchmark import DataBenchmark
from cnnzoo.benchmark.measure import TrainerFactory
from cnnzoo.benchmark.result_files import write_results
from cnnzoo.benchmark.tables import bottleneck_text, cache_hint, draw_results, result_rows, results_table
from cnnzoo.data.datamodule import DataModule
from cnnzoo.describe.tables import make_console, write_csv
from cnnzoo.errors import UserError
from cnnzoo.runtime.formatting import format_bytes
from cnnzoo.sizes import size_text
from cnnzoo.training.classifier import Classifier
from cnnzoo.training.run_summary import device_summary, log_table
from cnnzoo.training.train import IGNORED_WARNINGS

DURATION_FACTOR = 2
"""Duration of a measurement relative to its `seconds`, with start and warm-up, for the printed estimate."""

log = logging.getLogger(__name__)


def run_data_benchmark(cfg: DictConfig, data: DataModule, classifier: Classifier, make_trainer: TrainerFactory) -> None:
    """Measure the loader settings for `data`, and print the results and the setting to use.

    classifier: the network with its optimizer.
    make_trainer: `make_trainer(*callbacks)` builds a trainer.

    Raises `UserError` if the configuration cannot be measured.
    """
    for pattern in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    trainer = make_trainer()
    if trainer.world_size > 1:
        raise UserError(
            f"trainer.devices={cfg.trainer.devices} and trainer.num_nodes={cfg.trainer.num_nodes}: the benchmark "
            "measures one device, because each of several devices needs the same; leave them out"
        )
    data.build_loader("train")  # raises now for settings that the loader does not accept; it starts no worker
    benchmark = DataBenchmark(cfg, data, classifier, make_trainer)
    num_settings = len(benchmark.measurements)
    seconds = (num_settings + cfg.finalists + 3) * cfg.rounds * cfg.seconds * DURATION_FACTOR
    sample = f", {benchmark.sample_size:,} of them measured" if benchmark.sample_size < len(benchmark.train) else ""
    if benchmark.train.has_files and benchmark.sample_size > cfg.images:
        sample += f" (images={cfg.images} are fewer than two batches)"
    log_table(
        {
            "model": f"{cfg.model.name}, {size_text(data.resolved_image_size)}, batches of {data.batch_size}",
            "data": f"{data.name}: {len(benchmark.train):,} training images{sample}",
            "device": device_summary(trainer, cfg),
            "plan": f"{num_settings} settings, {cfg.rounds} x {cfg.seconds:g} s each: about "
            f"{max(1, round(seconds / 60))} min",
        }
    )
    benchmark.fill_caches()
    benchmark.measure()
    measurements, headspace, best = benchmark.measurements, benchmark.headspace, benchmark.best
    if cfg.csv is not None:
        write_csv(Path(cfg.csv), result_rows(measurements, headspace, best))
    files = write_results(
        cfg,
        {
            "settings": {
                "model": cfg.model.name,
                "image_size": list(data.resolved_image_size),
                "batch_size": data.batch_size,
                "data": data.name,
                "rounds": cfg.rounds,
                "seconds": cfg.seconds,
            },
            "results": result_rows(measurements, headspace, best),
        },
        partial(draw_results, measurements=measurements, headspace=headspace),
        height=1.5 + 0.25 * num_settings,
    )
    console = make_console()
    console.print()
    console.print(results_table(measurements, headspace, best))
    legend = "* marks the setting to use."
    if benchmark.train.has_files:
        legend += (
            f" RAM and fill time are for all {benchmark.num_images:,} training and validation images; "
            f"data.cache.budget={data.cache.budget:g} allows {format_bytes(benchmark.budget_bytes)}."
        )
    console.print(f"\n{legend}", style="dim")
    log.info("")
    slowest, fastest = min(benchmark.headspace_rates), max(benchmark.headspace_rates)
    log_table(
        {
            "headspace": f"{headspace:,.0f} images/s without data loading (from {slowest:,.0f} to {fastest:,.0f})",
            "limit": bottleneck_text(best, headspace),
            "settings": best.setting.overrides_text,
            **cache_hint(measurements, best),
            **({} if cfg.csv is None else {"table": str(cfg.csv)}),
            **files,
        }
    )
