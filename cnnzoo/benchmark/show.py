"""Runs the benchmark, prints its results and writes the CSV file."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from cnnzoo.benchmark.data_benchmark import DataBenchmark
from cnnzoo.benchmark.measure import TrainerFactory
from cnnzoo.benchmark.tables import bottleneck_text, cache_hint, result_rows, results_table
from cnnzoo.checks import check_bool, check_int, check_number
from cnnzoo.data.datamodule import DataModule
from cnnzoo.describe.tables import check_csv, make_console, write_csv
from cnnzoo.errors import UserError, unknown
from cnnzoo.runtime.formatting import format_bytes
from cnnzoo.training.classifier import Classifier
from cnnzoo.training.run_summary import device_summary, log_table
from cnnzoo.training.train import IGNORED_WARNINGS

JOBS = ("data", "gpu")
DEFAULT_SECONDS = {"data": 2.0, "gpu": 8.0}
ONLY_FOR_GPU = ("json", "small")
GPU_KEYS = ("job", "seconds", "rounds", *ONLY_FOR_GPU, "seed", "trainer", "trainer.accelerator")
"""The keys that `job=gpu` reads."""
DURATION_FACTOR = 2
"""Duration of a measurement relative to its `seconds`, with start and warm-up, for the printed estimate."""

log = logging.getLogger(__name__)


def check_config(cfg: DictConfig, typed_keys: Sequence[str] = ()) -> None:
    """Check the job's own keys before anything is built, and set the default of `seconds`; raises `UserError`.

    typed_keys: the keys that the user has set; those that the job does not read are errors.
    """
    if cfg.job not in JOBS:
        raise unknown("job", str(cfg.job), JOBS)
    for key in typed_keys:
        if cfg.job == "gpu" and key not in GPU_KEYS and not key.startswith("hydra"):
            raise UserError(f"{key}: job=gpu does not read it; leave it out (its keys: {', '.join(GPU_KEYS)})")
        if cfg.job == "data" and key in ONLY_FOR_GPU:
            raise UserError(f"{key}: only job=gpu reads it; leave it out")
    if cfg.seconds is None:
        cfg.seconds = DEFAULT_SECONDS[cfg.job]
    check_number("seconds", cfg.seconds, above=0, maximum=3600, note="(per measurement)")
    for key in ("rounds", "images", "finalists"):
        check_int(key, cfg[key], minimum=1)
    if cfg.data.cache.persist is not None:
        raise UserError(f"data.cache.persist={cfg.data.cache.persist}: a benchmark writes no cache; leave it out")
    if cfg.csv is not None:
        check_csv(Path(cfg.csv))
    if cfg.job == "gpu":
        if cfg.small != "auto":
            check_bool("small", cfg.small, note="or auto (true without a CUDA GPU)")
        if cfg.json is not None:
            check_csv(Path(cfg.json), "json")


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
    if benchmark.train.paths is not None and benchmark.sample_size > cfg.images:
        sample += f" (images={cfg.images} are fewer than two batches)"
    log_table(
        {
            "model": f"{cfg.model.name}, {data.resolved_image_size} x {data.resolved_image_size} pixels, batches of "
            f"{data.batch_size}",
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
    console = make_console()
    console.print()
    console.print(results_table(measurements, headspace, best))
    legend = "* marks the setting to use."
    if benchmark.train.paths is not None:
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
        }
    )
