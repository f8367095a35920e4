"""`benchmark.py job=inference`: latency and images per second of a network by batch size, precision and compilation."""

import copy
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from rich.table import Table
from torch import Tensor, nn

from cnnzoo.benchmark.graph_benchmark import device_text
from cnnzoo.benchmark.graph_variants import missing_package
from cnnzoo.benchmark.networks import BenchmarkNetwork, build_network
from cnnzoo.benchmark.result_files import write_results
from cnnzoo.benchmark.timing import Timing, format_ms, progress, repeat, time_call, warm_up, with_smaller_batches
from cnnzoo.describe.tables import make_console
from cnnzoo.errors import UserError
from cnnzoo.training.device_defaults import find_device
from cnnzoo.training.run_summary import log_table
from cnnzoo.training.train import seed_everything

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DTYPES = {
    **dict.fromkeys(("32", "32-true"), torch.float32),
    **dict.fromkeys(("bf16", "bf16-mixed", "bf16-true"), torch.bfloat16),
    **dict.fromkeys(("16", "16-mixed", "16-true"), torch.float16),
}
"""Types of weights and images by `trainer.precision`."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InferenceSetting:
    """How a network computes.

    compile_mode: of torch.compile, or None for the network as it is.
    """

    dtype: torch.dtype
    channels_last: bool
    compile_mode: str | None

    @property
    def text(self) -> str:
        """`bfloat16, channels last, compiled`."""
        parts = [str(self.dtype).removeprefix("torch.")]
        parts += ["channels last"] if self.channels_last else []
        if self.compile_mode is not None:
            parts.append("compiled" if self.compile_mode == "default" else f"compiled ({self.compile_mode})")
        return ", ".join(parts)


@dataclass
class Latency:
    """The time of a batch with one setting."""

    setting: InferenceSetting
    batch_size: int
    timing: Timing = field(default_factory=Timing)

    @property
    def images_per_second(self) -> float:
        """When one batch follows another."""
        return self.batch_size / self.timing.seconds


def run_inference_benchmark(cfg: DictConfig, typed_keys: Collection[str]) -> None:
    """Measure the network of `cfg.model`, print the table, and write the files.

    typed_keys: the keys that the user has set; a precision, a compilation or a memory format among them is the only one
        that is measured.

    Raises `UserError` for settings that do not fit the network or the machine.
    """
    device = torch.device(find_device(cfg.trainer.accelerator).type)
    settings = inference_settings(cfg, typed_keys, device)
    seed_everything(cfg.seed)
    network = build_network(cfg)
    sizes = ", ".join(map(str, cfg.batch_sizes))
    log_table(
        {
            "model": f"{network.text}, batches of {sizes}",
            "device": device_text(device),
            "plan": f"{len(settings)} settings for each batch size, {cfg.rounds} x {cfg.seconds:g} s each",
        }
    )
    latencies: dict[int, list[Latency]] = {}
    steps = len(cfg.batch_sizes) * len(settings) * (1 + cfg.rounds)
    with torch.inference_mode(), progress("batch sizes", steps) as next_step:
        for size in cfg.batch_sizes:

            def measure(batch_size: int) -> list[Latency]:
                known = latencies.get(batch_size)
                return known or measure_batches(cfg, network, settings, batch_size, device, next_step)

            batch_size, results = with_smaller_batches(measure, size, network.name)
            latencies[batch_size] = results
            if batch_size < size:
                break
    console = make_console()
    console.print()
    console.print(latency_table(latencies))
    console.print("\nLatency: from a batch on the device to its logits. Speed-up: over the first line.", style="dim")
    log.info("")
    results = [latency for size in sorted(latencies) for latency in latencies[size]]
    contents = {
        "settings": {
            "model": dict(network.net.arguments),  # type: ignore[arg-type]
            "image_size": list(network.image_size),
            "device": device.type,
            "rounds": cfg.rounds,
            "seconds": cfg.seconds,
        },
        "results": [_to_dict(latency) for latency in results],
    }
    files = write_results(cfg, contents, partial(draw_rates, latencies=latencies), height=4.0)
    fastest = max(results, key=lambda latency: latency.images_per_second)
    quickest = min(results, key=lambda latency: latency.timing.seconds)
    log_table(
        {
            "most images": f"{fastest.images_per_second:,.0f} images/s: {fastest.setting.text}, batches of "
            f"{fastest.batch_size}",
            "lowest latency": f"{format_ms(1000 * quickest.timing.seconds)} ms: {quickest.setting.text}, batches of "
            f"{quickest.batch_size}",
            **files,
        }
    )


def inference_settings(cfg: DictConfig, typed_keys: Collection[str], device: torch.device) -> list[InferenceSetting]:
    """The settings to measure: float32 and bfloat16, as the network is and compiled, channels last.

    Contiguous tensors are only measured in the first precision without compilation, unless the user asks for them.
    """
    dtypes, modes, formats = [torch.float32, torch.bfloat16], [None, "default"], [False, True]
    if "trainer.precision" in typed_keys:
        precision = str(cfg.trainer.precision)
        if precision not in DTYPES:
            raise UserError(f"trainer.precision={precision}: job=inference measures 32-true, bf16-true or 16-true")
        dtypes = [DTYPES[precision]]
    if "compile" in typed_keys:
        modes = [("default" if cfg.compile is True else str(cfg.compile)) if cfg.compile else None]
    if "channels_last" in typed_keys and cfg.channels_last != "auto":
        formats = [bool(cfg.channels_last)]
    problem = missing_package("compiled", device)
    if problem is not None and modes != [None]:
        if "compile" in typed_keys:
            raise UserError(f"compile={cfg.compile}: {problem}; type compile=false")
        log.info("compiled networks are left out: %s", problem)
        modes = [None]
    return [
        InferenceSetting(dtype, channels_last, mode)
        for dtype, channels_last, mode in product(dtypes, formats, modes)
        if channels_last or len(formats) == 1 or (dtype, mode) == (dtypes[0], modes[0])
    ]


def measure_batches(
    cfg: DictConfig,
    network: BenchmarkNetwork,
    settings: Sequence[InferenceSetting],
    batch_size: int,
    device: torch.device,
    next_step: Callable[[str], None],
) -> list[Latency]:
    """Measure all settings in each round, for batches of one size."""
    torch._dynamo.reset()  # each size is compiled for itself
    images = torch.randn(network.shape(batch_size), device=device)
    calls: list[Callable[[], Tensor]] = []
    for setting in settings:
        next_step(f"{batch_size}: {setting.text}")
        calls.append(_prepare(network.net, images, setting))
        warm_up(calls[-1], cfg.seconds)
    results = [Latency(setting, batch_size) for setting in settings]
    for _ in range(cfg.rounds):
        for call, latency in zip(calls, results, strict=True):
            next_step(f"{batch_size}: {latency.setting.text}")
            durations = repeat(partial(time_call, call, device), cfg.seconds)
            latency.timing.rounds.append(median(durations))
    return results


def _prepare(net: nn.Module, images: Tensor, setting: InferenceSetting) -> Callable[[], Tensor]:
    """A copy of the network for a setting, which computes the logits of the images."""
    options: Any = {"memory_format": torch.channels_last if setting.channels_last else torch.contiguous_format}
    with torch.inference_mode(False), torch.no_grad():  # the compiler expects usual parameters
        own = copy.deepcopy(net).to(images.device, setting.dtype, **options)
    inputs = images.to(setting.dtype, **options)
    run: Any = own
    if setting.compile_mode is not None:
        run = torch.compile(own, mode=setting.compile_mode, dynamic=False)
    return lambda: run(inputs)


def latency_table(latencies: dict[int, list[Latency]]) -> Table:
    """One row for each setting, grouped by batch size."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in ("batch", "network", "latency,\nms", "spread", "images/s", "speed-\nup"):
        table.add_column(header, justify="left" if header == "network" else "right", no_wrap=True)
    for index, size in enumerate(sorted(latencies)):
        if index:
            table.add_row()
        first = latencies[size][0]
        for latency in latencies[size]:
            pairs = zip(first.timing.rounds, latency.timing.rounds, strict=True)
            table.add_row(
                str(size) if latency is first else "",
                latency.setting.text,
                format_ms(1000 * latency.timing.seconds),
                f"{latency.timing.spread:.0%}",
                f"{latency.images_per_second:,.0f}",
                f"{median(one / other for one, other in pairs):.2f}",
            )
    return table


def draw_rates(figure: "Figure", *, latencies: dict[int, list[Latency]]) -> None:
    """Images per second against the batch size, one line for each setting."""
    axes, sizes = figure.subplots(), sorted(latencies)
    for index, latency in enumerate(latencies[sizes[0]]):
        rates = [latencies[size][index].images_per_second for size in sizes]
        axes.plot(sizes, rates, marker="o", label=latency.setting.text)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, list(map(str, sizes)))
    axes.set_ylim(bottom=0)
    axes.set(xlabel="images per batch", ylabel="images per second")
    axes.grid(alpha=0.25)
    axes.legend()


def _to_dict(latency: Latency) -> dict[str, Any]:
    return {
        "batch_size": latency.batch_size,
        "precision": str(latency.setting.dtype).removeprefix("torch."),
        "channels_last": latency.setting.channels_last,
        "compile": latency.setting.compile_mode,
        "latency": latency.timing.to_dict(),
        "images_per_second": latency.images_per_second,
    }
