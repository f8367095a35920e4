"""`benchmark.py job=hardware`: the time of a training pass of the classic networks on the CPU, on the GPU, and on the
GPU without cuDNN, beside the times that cnn-benchmarks published in 2016 and 2017.

As there, a network is in training mode and in float32. The backward pass starts from random gradients of the logits and
computes the gradients of the parameters and of the images.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from omegaconf import DictConfig
from rich.table import Table
from torch import nn

from cnnzoo.benchmark.hardware_chart import draw_times
from cnnzoo.benchmark.published import (
    BATCH_SIZE,
    COLUMNS,
    CPU,
    GPU,
    GPU_WITHOUT_CUDNN,
    IMAGE_SIZE,
    PUBLISHED_DEVICES,
    PUBLISHED_NAMES,
    published_time,
)
from cnnzoo.benchmark.result_files import write_results
from cnnzoo.benchmark.timing import Timing, format_ms, progress, repeat, time_call, warm_up, with_smaller_batches
from cnnzoo.describe.tables import make_console
from cnnzoo.errors import UserError
from cnnzoo.models import create_model, info
from cnnzoo.models.input_spec import resolve_input
from cnnzoo.runtime.environment import processor_name
from cnnzoo.runtime.formatting import plural
from cnnzoo.sizes import Size, check_size, size_text
from cnnzoo.training.device_defaults import find_device
from cnnzoo.training.run_summary import log_table

RATIOS = {"GPU / CPU": (CPU, GPU), "cuDNN / plain CUDA": (GPU_WITHOUT_CUDNN, GPU)}
"""How many times as fast the second column is as the first."""

log = logging.getLogger(__name__)


@dataclass
class PassTimes:
    """The times of one network in one column of the table.

    batch_size: smaller than asked for if the memory was full.
    """

    network: str
    column: str
    batch_size: int = 0
    forward: Timing = field(default_factory=Timing)
    backward: Timing = field(default_factory=Timing)
    total: Timing = field(default_factory=Timing)

    @property
    def seconds_per_image(self) -> float:
        """Of both passes."""
        return self.total.seconds / self.batch_size


def run_hardware_benchmark(cfg: DictConfig) -> None:
    """Measure the networks of `cfg.models`, print the table and the ratios, and write the files.

    Raises `UserError` for an unknown network, and for an image size that a network does not accept.
    """
    names = list(cfg.models or PUBLISHED_NAMES)
    image_size = (IMAGE_SIZE, IMAGE_SIZE)
    if cfg.data.image_size is not None:
        image_size = check_size("data.image_size", cfg.data.image_size)
    for name in names:  # all of them before the first is measured
        resolve_channels(name, image_size)
    devices = find_columns(cfg.trainer.accelerator)
    cpu_name = f"{processor_name() or 'unknown'}, {plural(torch.get_num_threads(), 'thread')}"
    log_table(
        {
            "networks": f"{len(names)}, batches of {cfg.data.batch_size}, {size_text(image_size)}, float32",
            **({"CPU": cpu_name} if CPU in devices else {}),
            **{column: _gpu_text(column, device) for column, device in devices.items() if column != CPU},
            "plan": f"{cfg.rounds} x {cfg.seconds:g} s each; slow networks take longer, because each round is at least "
            "one pass",
        }
    )
    times: dict[tuple[str, str], PassTimes] = {}
    with progress("networks", len(names) * len(devices)) as next_step:
        for name in names:
            for column, device in devices.items():
                next_step(f"{name}, {column}")
                torch.manual_seed(cfg.seed)
                try:
                    times[name, column] = measure_passes(name, column, device, image_size, cfg)
                except UserError as error:  # out of memory; the other networks may fit
                    log.warning("%s", error)
    has_published = cfg.data.batch_size == BATCH_SIZE and image_size == (IMAGE_SIZE, IMAGE_SIZE)
    console = make_console()
    console.print()
    console.print(times_table(names, times, cfg.data.batch_size, has_published=has_published))
    cpu, gpu = PUBLISHED_DEVICES[CPU][0].removeprefix("CPU: "), PUBLISHED_DEVICES[GPU]
    if has_published:
        legend = f"Published: CPU {cpu}, GPU {gpu[0]} with cuDNN {gpu[1]} (cnn-benchmarks, 2016-17, Torch7)."
    else:
        legend = (
            f"Published times are for batches of {BATCH_SIZE} and {IMAGE_SIZE} pixels, and are therefore not shown."
        )
    console.print(f"\nMilliseconds. Spread: range of the rounds. {legend}", style="dim")
    log.info("")
    ratios = {name: ratios_of(columns, names, times) for name, columns in RATIOS.items()}
    results = {
        "settings": {
            "batch_size": cfg.data.batch_size,
            "image_size": list(image_size),
            "precision": "float32",
            "rounds": cfg.rounds,
            "seconds": cfg.seconds,
        },
        "results": [_to_dict(pass_times, has_published=has_published) for pass_times in times.values()],
        "ratios": ratios,
        "published": {"source": "https://github.com/jcjohnson/cnn-benchmarks", "devices": PUBLISHED_DEVICES},
    }
    rows = [(name, {column: times.get((name, column)) for column in COLUMNS}) for name in names]
    totals = {
        name: {column: 1000 * cell.total.seconds for column, cell in cells.items() if cell is not None}
        for name, cells in rows
    }
    files = write_results(
        cfg,
        results,
        lambda figure: draw_times(figure, totals, has_published=has_published),
        height=1.2 + 0.75 * len(names),
    )
    log_table({**{name: ratio_text(values, name) for name, values in ratios.items()}, **files})


def find_columns(accelerator: str) -> dict[str, torch.device]:
    """The columns that can be measured, with their devices.

    accelerator: `trainer.accelerator`; "auto" for the CPU and the GPU, if there is one.
    """
    columns = {CPU: torch.device("cpu")} if accelerator in ("auto", "cpu") else {}
    found = find_device(accelerator)
    if found.type != "cpu":
        columns[GPU] = torch.device(found.type, 0)
    if found.type == "cuda" and torch.backends.cudnn.is_available():
        columns[GPU_WITHOUT_CUDNN] = columns[GPU]
    return columns


def resolve_channels(name: str, image_size: Size) -> int:
    """The number of channels that a network takes; raises `UserError` if it does not accept the image size."""
    facts = info(name)
    return resolve_input(
        facts,
        proposed_size=image_size,
        proposed_channels=facts.in_channels,
        requested_size=image_size,
        stem="native",
    ).channels


def measure_passes(name: str, column: str, device: torch.device, image_size: Size, cfg: DictConfig) -> PassTimes:
    """Measure the passes of one network; raises `UserError` if one image is too much for the memory."""
    channels = resolve_channels(name, image_size)
    net = create_model(name, in_channels=channels).to(device).train()

    def measure(batch_size: int) -> PassTimes:
        times = PassTimes(name, column, batch_size)
        with cudnn_enabled(column != GPU_WITHOUT_CUDNN):
            passes = TrainingPass(net, device, (batch_size, channels, *image_size))
            warm_up(passes.run, cfg.seconds)
            for _ in range(cfg.rounds):
                results = repeat(passes.run, cfg.seconds)
                times.forward.rounds.append(median(forward for forward, _ in results))
                times.backward.rounds.append(median(backward for _, backward in results))
                times.total.rounds.append(median(sum(result) for result in results))
        return times

    return with_smaller_batches(measure, cfg.data.batch_size, f"{name}, {column}")[1]


class TrainingPass:
    """The forward and the backward pass of a network for random images of a shape (N, C, H, W)."""

    def __init__(self, net: nn.Module, device: torch.device, shape: Sequence[int]) -> None:
        self.net, self.device = net, device
        self.images = torch.randn(shape, device=device, requires_grad=True)
        self.logits = net(self.images)
        self.gradients = torch.randn_like(self.logits)

    def run(self) -> tuple[float, float]:
        """Compute both passes; returns the seconds of each."""
        self.net.zero_grad()
        self.images.grad = None
        return time_call(self._forward, self.device), time_call(self._backward, self.device)

    def _forward(self) -> None:
        self.logits = self.net(self.images)

    def _backward(self) -> None:
        self.logits.backward(self.gradients)


@contextmanager
def cudnn_enabled(enabled: bool) -> Iterator[None]:
    """Compute convolutions in float32, with cuDNN's fastest algorithms, or without cuDNN."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=enabled, benchmark=enabled, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def times_table(
    names: Sequence[str], times: Mapping[tuple[str, str], PassTimes], batch_size: int, *, has_published: bool
) -> Table:
    """One row for each network and column; cells are empty if they were not measured or not published.

    batch_size: that was asked for; smaller ones are shown.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    headers = ["network", "device", "for-\nward", "back-\nward", "total", "spread"]
    if has_published:
        headers += ["published:\nforward", "\nbackward", "\ntotal"]
    for header in headers:
        table.add_column(header, justify="left" if header in ("network", "device") else "right", no_wrap=True)
    for index, name in enumerate(names):
        if index:
            table.add_row()
        for column in COLUMNS:
            cells = ["", "", "", ""]
            device, measured = column, times.get((name, column))
            if measured is not None:
                timings = (measured.forward, measured.backward, measured.total)
                cells = [*(format_ms(1000 * timing.seconds) for timing in timings), f"{measured.total.spread:.0%}"]
                if measured.batch_size != batch_size:
                    device += f", batch {measured.batch_size}"
            if has_published:
                published = published_time(name, column)
                values = () if published is None else (published.forward_ms, published.backward_ms, published.total_ms)
                cells += [format_ms(value) for value in values]
            table.add_row(name if column == COLUMNS[0] else "", device, *cells)
    return table


def ratios_of(
    columns: tuple[str, str], names: Sequence[str], times: Mapping[tuple[str, str], PassTimes]
) -> dict[str, dict[str, float]]:
    """The ratios of the times of two columns, "measured" and "published", for each network that has both."""
    ratios: dict[str, dict[str, float]] = {"measured": {}, "published": {}}
    for name in names:
        here = [times.get((name, column)) for column in columns]
        if here[0] is not None and here[1] is not None:
            ratios["measured"][name] = here[0].seconds_per_image / here[1].seconds_per_image
        then = [published_time(name, column) for column in columns]
        if then[0] is not None and then[1] is not None:
            ratios["published"][name] = then[0].total_ms / then[1].total_ms
    return ratios


def ratio_text(ratios: Mapping[str, Mapping[str, float]], name: str) -> str:
    """`55 to 71 times as fast here; published: 65 to 77 times`."""
    measured, published = (_range_text(ratios[kind].values()) for kind in ("measured", "published"))
    here = f"{measured} times as fast here" if measured else "not measured here"
    return f"{here}; published: {published or 'none for these networks'}{' times' if published else ''}"


def _range_text(values: Any) -> str:
    """`2.4 to 3.7`, with whole numbers from 10; empty without values."""
    ends = [f"{value:.0f}" if value >= 10 else f"{value:.1f}" for value in (min(values), max(values))] if values else []
    return " to ".join(dict.fromkeys(ends))


def _gpu_text(column: str, device: torch.device) -> str:
    if device.type != "cuda":
        return device.type.upper()
    cudnn = f"cuDNN {torch.backends.cudnn.version()}" if column == GPU else "cuDNN off"
    return f"{torch.cuda.get_device_name(device)}, {cudnn}, without TF32"


def _to_dict(times: PassTimes, *, has_published: bool) -> dict[str, Any]:
    published = published_time(times.network, times.column) if has_published else None
    return {
        "network": times.network,
        "column": times.column,
        "batch_size": times.batch_size,
        **{name: getattr(times, name).to_dict() for name in ("forward", "backward", "total")},
        "published_total_ms": None if published is None else published.total_ms,
    }
