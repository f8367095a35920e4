"""`benchmark.py job=graph`: a network as it is, compiled, and as a static graph in a file: speed, start-up and size."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from rich.table import Table
from torch import nn

from cnnzoo.benchmark.check_config import VARIANTS
from cnnzoo.benchmark.gpu_report import one_line
from cnnzoo.benchmark.graph_variants import Load, Variant, VariantFactory, Write, missing_package
from cnnzoo.benchmark.networks import BenchmarkNetwork, build_network
from cnnzoo.benchmark.result_files import write_results
from cnnzoo.benchmark.startup import measure_startup
from cnnzoo.benchmark.timing import format_ms, progress, repeat, time_call, warm_up, with_smaller_batches
from cnnzoo.describe.tables import make_console
from cnnzoo.errors import UserError
from cnnzoo.runtime.environment import processor_name
from cnnzoo.runtime.failures import is_out_of_memory
from cnnzoo.runtime.formatting import format_bytes, plural
from cnnzoo.training.device_defaults import find_device
from cnnzoo.training.run_summary import log_table
from cnnzoo.training.train import seed_everything

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_DIFFERENCE = 1e-2
"""Of the logits, as a fraction of the largest one; a warning names larger ones. TF32 on a GPU causes up to 1e-3."""

log = logging.getLogger(__name__)


def run_graph_benchmark(cfg: DictConfig, formats: Mapping[str, tuple[Write, Load]]) -> None:
    """Measure the variants of the network of `cfg.model`, print the table, and write the files.

    formats: how the files of "exported", "aoti" and "onnx" are written and loaded.

    Raises `UserError` for settings that do not fit the network, and for a variant that was asked for and cannot run.
    """
    device = torch.device(find_device(cfg.trainer.accelerator).type)
    names = find_variants(cfg.variants, device)
    seed_everything(cfg.seed)
    network = build_network(cfg)
    network.net.to(device)
    log_table(
        {
            "model": f"{network.text}, batches of {cfg.data.batch_size}, float32",
            "device": device_text(device),
            "plan": f"{', '.join(names)}: {cfg.rounds} x {cfg.seconds:g} s each, {cfg.rounds} x in a new process; "
            "compiling takes about a minute",
        }
    )
    with torch.no_grad():
        batch_size, variants = with_smaller_batches(
            lambda batch_size: measure_variants(cfg, network, names, formats, batch_size, device),
            cfg.data.batch_size,
            network.name,
        )
    if not variants:
        raise UserError(f"job=graph: none of {', '.join(names)} could be made; the lines above say why")
    console = make_console()
    console.print()
    console.print(variants_table(variants))
    console.print(
        "\nPrepare: to compile the network or to write the file, once. Start-up: from the start of a process to its "
        "first batch. Operators: before and after fusion. On disk: the weights with the compiler's cache, or the file.",
        style="dim",
    )
    log.info("")
    results = {
        "settings": {
            "model": dict(network.net.arguments),  # type: ignore[arg-type]
            "image_size": list(network.image_size),
            "batch_size": batch_size,
            "device": device.type,
            "rounds": cfg.rounds,
            "seconds": cfg.seconds,
        },
        "results": [_to_dict(variant, batch_size) for variant in variants],
    }
    files = write_results(cfg, results, partial(draw_variants, variants=variants), height=3.2)
    log_table({"fastest": fastest_text(variants, batch_size), **files})


def find_variants(requested: Sequence[str] | None, device: torch.device) -> list[str]:
    """The variants to measure: `requested`, else all that this machine can run; the others are logged.

    Raises `UserError` if one of `requested` cannot run.
    """
    found = []
    for name in requested or VARIANTS:
        problem = missing_package(name, device)
        if problem is None:
            found.append(name)
        elif requested is not None:
            raise UserError(f"variants={name}: {problem}, or leave it out")
        else:
            log.info("%s is left out: %s", name, problem)
    return found


def measure_variants(
    cfg: DictConfig,
    network: BenchmarkNetwork,
    names: Sequence[str],
    formats: Mapping[str, tuple[Write, Load]],
    batch_size: int,
    device: torch.device,
) -> list[Variant]:
    """Make the variants and measure all of them in each round. One that fails is logged, and the others are measured.

    The compiler starts with an empty cache.
    """
    from torch._inductor.utils import fresh_cache  # here: it imports the compiler

    images = torch.randn(network.shape(batch_size), device=device)
    variants: list[Variant] = []
    with (
        TemporaryDirectory(prefix="cnnzoo-benchmark-") as directory,
        fresh_cache(dir=directory, delete=False),
        progress("variants", len(names) * (1 + 2 * cfg.rounds)) as next_step,
    ):
        torch._dynamo.reset()
        cache_dir = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        factory = VariantFactory(network.net, images, formats, Path(directory), cache_dir)
        for name in names:
            next_step(f"{name}: prepare")
            variant = _attempt(name, lambda name=name: factory.make(name))  # type: ignore[misc]
            if variant is not None:
                warm_up(partial(variant.run, images), cfg.seconds)
                variants.append(variant)
                if not variant.difference <= MAX_DIFFERENCE:
                    log.warning("%s: its logits differ by %.1e of the largest one", name, variant.difference)
        for _ in range(cfg.rounds):
            for variant in variants:
                next_step(f"{variant.name}: speed")
                durations = repeat(partial(time_call, partial(variant.run, images), device), cfg.seconds)
                variant.timing.rounds.append(median(durations))
        for _ in range(cfg.rounds):
            for variant in variants:
                next_step(f"{variant.name}: start-up")
                settings = startup_settings(variant, network.net, images.shape, device)
                seconds = _attempt(
                    variant.name,
                    lambda: measure_startup(settings, **variant.environment),  # noqa: B023
                )
                variant.startup_seconds += [] if seconds is None else [seconds]
        for variant in variants:
            variant.size_bytes = variant.measure_size()
    return variants


def startup_settings(variant: Variant, net: nn.Module, shape: Sequence[int], device: torch.device) -> dict[str, Any]:
    """The arguments of `startup.main`."""
    return {
        "variant": variant.name,
        "file": str(variant.path),
        "shape": list(shape),
        "device": device.type,
        "arguments": dict(net.arguments),  # type: ignore[arg-type]
    }


def variants_table(variants: Sequence[Variant]) -> Table:
    """One row for each variant."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    headers = ("", "ms per\nbatch", "spread", "speed-\nup", "prepare", "start-\nup", "opera-\ntors", "after\nfusion")
    for header in (*headers, "on disk"):
        table.add_column(header, justify="right" if header else "left", no_wrap=True)
    for variant in variants:
        speedup = "" if variants[0].name != "eager" else f"{_speedup(variants, variant):.2f}"
        table.add_row(
            variant.name,
            format_ms(1000 * variant.timing.seconds),
            f"{variant.timing.spread:.0%}",
            speedup,
            "" if variant.prepare_seconds is None else f"{variant.prepare_seconds:.1f} s",
            f"{median(variant.startup_seconds):.1f} s" if variant.startup_seconds else "failed",
            "" if variant.operators is None else f"{variant.operators:,}",
            "" if variant.fused is None else f"{variant.fused:,}",
            format_bytes(variant.size_bytes),
        )
    return table


def draw_variants(figure: "Figure", *, variants: Sequence[Variant]) -> None:
    """Three panels of bars: time per batch, start-up and operators."""
    names = [variant.name for variant in variants]
    panels: dict[str, list[float]] = {
        "ms per batch": [1000 * variant.timing.seconds for variant in variants],
        "start-up, s": [median(variant.startup_seconds or [0.0]) for variant in variants],
        "operators or fused kernels": [float(variant.calls or 0) for variant in variants],
    }
    for axes, (title, values) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        bars = axes.barh(names, values, color=[f"C{number}" for number in range(len(names))])
        axes.bar_label(bars, [f"{value:,.4g}" if value else "" for value in values], padding=2, fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.margins(x=0.2)
        axes.grid(axis="x", alpha=0.25)
    axes.invert_yaxis()


def fastest_text(variants: Sequence[Variant], batch_size: int) -> str:
    """`compiled: 310 images/s, 1.24 times as fast as eager`."""
    best = min(variants, key=lambda variant: variant.timing.seconds)
    text = f"{best.name}: {batch_size / best.timing.seconds:,.0f} images/s"
    if variants[0].name != "eager" or best is variants[0]:
        return text
    return f"{text}, {_speedup(variants, best):.2f} times as fast as eager"


def device_text(device: torch.device) -> str:
    """The name of the device; of a CPU with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type.upper()
    return f"CPU ({processor_name() or 'unknown'}), {plural(torch.get_num_threads(), 'thread')}"


def _speedup(variants: Sequence[Variant], variant: Variant) -> float:
    """How many times as fast as the first one, the median of the rounds."""
    pairs = zip(variants[0].timing.rounds, variant.timing.rounds, strict=True)
    return median(first / seconds for first, seconds in pairs)


def _attempt(name: str, call: Callable[[], Any]) -> Any:
    """The result of a call; None, and a line in the log, if it fails other than for want of memory."""
    try:
        return call()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        log.warning("%s: failed: %s", name, one_line(error))
        return None


def _to_dict(variant: Variant, batch_size: int) -> dict[str, Any]:
    return {
        "variant": variant.name,
        "time": variant.timing.to_dict(),
        "images_per_second": batch_size / variant.timing.seconds,
        "prepare_seconds": variant.prepare_seconds,
        "startup_seconds": median(variant.startup_seconds) if variant.startup_seconds else None,
        "startup_seconds_of_rounds": variant.startup_seconds,
        "operators": variant.operators,
        "operators_after_fusion": variant.fused,
        "size_bytes": variant.size_bytes,
        "difference": variant.difference,
    }
