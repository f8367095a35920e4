"""`benchmark.py job=train`: `train.py` on JPEGs from RAM, beside a hand-written loop on one batch, and beside timm."""

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from rich.table import Table
from torch import nn

from cnnzoo.benchmark.gpu_images import CLASSES, write_photographs
from cnnzoo.benchmark.gpu_training import Training, measure_hand_loop, with_loader
from cnnzoo.benchmark.measure import WARMUP_STEPS, measure_training, quiet_loggers
from cnnzoo.benchmark.networks import rebuild_network
from cnnzoo.benchmark.peak import measured_peak, training_flops
from cnnzoo.benchmark.result_files import write_results
from cnnzoo.benchmark.timing import progress, with_smaller_batches
from cnnzoo.data.loaders.workers import PREFETCH_FACTOR
from cnnzoo.describe.tables import make_console
from cnnzoo.errors import UserError
from cnnzoo.models.custom import is_custom
from cnnzoo.sizes import size_text
from cnnzoo.training.compilation import compile_network
from cnnzoo.training.run_summary import device_summary, log_table
from cnnzoo.training.train import IGNORED_WARNINGS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}
"""The values of `trainer.precision` that the hand-written loop has, and the types in which products are computed."""
IMAGE_SIDES = 256, 500
"""Range of the sides of the generated images, in pixels."""
CPU_BATCH_SIZE = 16
"""The default on a CPU, where a step takes seconds."""
TRAINER, HAND, TIMM = "train.py", "hand-written loop", "timm, same loop"

log = logging.getLogger(__name__)


@dataclass
class Speed:
    """The speed of one way of training.

    flops: floating-point operations per image.
    rates: images per second, one value per round.
    data_waits: fraction of the time, 0 to 1, spent waiting for batches.
    """

    name: str
    flops: float
    rates: list[float] = field(default_factory=list)
    data_waits: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Images per second, the median of the rounds."""
        return median(self.rates)

    @property
    def flops_per_second(self) -> float:
        """Floating-point operations per second."""
        return self.rate * self.flops

    def share(self, other: "Speed") -> float:
        """The speed as a fraction of another one, the median of the rounds."""
        return median(rate / reference for rate, reference in zip(self.rates, other.rates, strict=True))


def use_generated_images(cfg: DictConfig, directory: Path) -> None:
    """Write `cfg.images` JPEGs to a directory, and make them the data of the configuration."""
    splits = {"train": cfg.images, "val": max(CLASSES, cfg.data.batch_size)}  # each class has an image in both
    write_photographs(directory, splits, *IMAGE_SIDES)
    cfg.data.name, cfg.data.root = "generated JPEGs", str(directory)
    cfg.data.source._target_ = "cnnzoo.data.ImageFolder"


def run_train_benchmark(cfg: DictConfig, training: Training) -> None:
    """Measure the ways of training in turn, print the table, and write the files.

    training: what `train.py` would build, with a learning rate of 0.

    Raises `UserError` for a precision that the hand-written loop does not have.
    """
    for pattern in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    data, settings = training.data, training.cfg
    precision = "32-true" if settings.trainer.precision in (None, 32, "32") else str(settings.trainer.precision)
    if precision not in PRECISIONS:
        raise UserError(
            f"trainer.precision={precision}: job=train compares {' and '.join(PRECISIONS)}; type one of them"
        )
    trainer = training.make_trainer()
    if trainer.world_size > 1:
        raise UserError(f"trainer.devices={settings.trainer.devices}: the benchmark measures one device; leave it out")
    device = trainer.strategy.root_device
    data.trainer = trainer  # the loader depends on its device
    data.resolve_cache()
    loader = data.build_loader("train")  # raises for settings that it does not accept; starts no workers
    train = data.split("train")
    assert train is not None
    log_table(
        {
            "model": f"{settings.model.name}, {size_text(data.resolved_image_size)}, batches of {data.batch_size}",
            "data": f"{data.name}: {len(train):,} training images",
            "device": device_summary(trainer, settings),
            "loader": loader.describe(),
            "plan": f"{cfg.rounds} x {cfg.seconds:g} s each, and at least a few steps",
        }
    )
    data.setup("fit")
    image_shape = data.resolved_channels, *data.resolved_image_size
    arguments = dict(training.classifier.net.arguments)
    with_aux = bool(training.classifier.aux_weight)
    counted_on = "cpu" if is_custom(arguments) else "meta"
    flops = training_flops(partial(rebuild_network, arguments), image_shape, with_aux=with_aux, device=counted_on)
    speeds = [Speed(TRAINER, flops), Speed(HAND, flops)]
    build_timm = timm_network(
        str(settings.model.name), arguments.get("stem", "native"), data.num_classes, image_shape[0]
    )
    if build_timm is not None:
        speeds.append(Speed(TIMM, training_flops(build_timm, image_shape)))
    with quiet_loggers():
        peak = measured_peak(device, PRECISIONS[precision], cfg.seconds)
        batch_size, _ = with_smaller_batches(
            lambda batch_size: measure_speeds(
                cfg, training, speeds, device, batch_size, workers=loader.workers, build_timm=build_timm
            ),
            data.batch_size,
            str(settings.model.name),
        )
    data.teardown()
    console = make_console()
    console.print()
    console.print(speeds_table(speeds, peak))
    console.print(
        f"\nThe loops repeat one batch that stays on the device. Peak: {format_flops(peak)}, measured with "
        f"products of large matrices in {str(PRECISIONS[precision]).removeprefix('torch.')}.",
        style="dim",
    )
    log.info("")
    results = {
        "settings": {
            "model": arguments,
            "image_size": list(data.resolved_image_size),
            "batch_size": batch_size,
            "precision": precision,
            "device": device.type,
            "loader": loader.describe(),
            "data": data.name,
            "rounds": cfg.rounds,
            "seconds": cfg.seconds,
        },
        "peak_flops_per_second": peak,
        "results": [_to_dict(speed, speeds[1], peak) for speed in speeds],
    }
    files = write_results(cfg, results, partial(draw_speeds, speeds=speeds), height=2.4)
    share = f"{speeds[0].share(speeds[1]):.0%} of the speed of the hand-written loop"
    log_table({"train.py": f"{share}, {speeds[0].flops_per_second / peak:.0%} of the device's peak", **files})


def measure_speeds(
    cfg: DictConfig,
    training: Training,
    speeds: Sequence[Speed],
    device: torch.device,
    batch_size: int,
    *,
    workers: int,
    build_timm: Callable[[], nn.Module] | None,
) -> None:
    """Measure each of `speeds` once in every round.

    workers: of the loader; the clock starts after the batches that they build ahead.
    """
    data, classifier = training.data, training.classifier
    data.batch_size = batch_size
    timm_net = None if build_timm is None else build_timm()
    if timm_net is not None and training.cfg.compile:
        compile_network(timm_net, training.cfg.compile, data)
    for speed in speeds:
        speed.rates, speed.data_waits = [], []
    with progress("training", cfg.rounds * len(speeds)) as next_step:
        for _ in range(cfg.rounds):
            for speed in speeds:
                next_step(speed.name)
                if speed.name == TRAINER:
                    endless = with_loader(data, data.loader)
                    warmup_steps = WARMUP_STEPS + (PREFETCH_FACTOR + 1) * workers
                    rate, wait = measure_training(
                        endless, classifier, training.make_trainer, cfg.seconds, warmup_steps=warmup_steps
                    )
                    speed.data_waits.append(wait)
                else:
                    net = timm_net if speed.name == TIMM else None
                    rate = measure_hand_loop(training, data, device, seconds=cfg.seconds, net=net)
                speed.rates.append(rate)


def timm_network(name: str, stem: str, num_classes: int, channels: int) -> Callable[[], nn.Module] | None:
    """A function that builds timm's network of the same name; None, and a line in the log, if there is none."""
    if find_spec("timm") is None:
        log.info("timm is left out: it is not installed; type pip install timm")
        return None
    import timm  # here: no requirement of cnnzoo

    if not timm.is_model(name) or stem != "native":
        log.info(
            "timm is left out: it has no network named %s%s", name, "" if stem == "native" else f" with a {stem} stem"
        )
        return None
    return partial(timm.create_model, name, num_classes=num_classes, in_chans=channels)


def speeds_table(speeds: Sequence[Speed], peak: float) -> Table:
    """One row for each way of training. `peak` is the device's, in floating-point operations per second."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in ("", "images/s", "from - to", "of the\nloop", "operations", "of the\npeak", "data\nwait"):
        table.add_column(header, justify="right" if header else "left", no_wrap=True)
    for speed in speeds:
        table.add_row(
            speed.name,
            f"{speed.rate:,.1f}",
            f"{min(speed.rates):,.1f} - {max(speed.rates):,.1f}",
            f"{speed.share(speeds[1]):.0%}",
            format_flops(speed.flops_per_second),
            f"{speed.flops_per_second / peak:.0%}",
            f"{median(speed.data_waits):.0%}" if speed.data_waits else "",
        )
    return table


def format_flops(flops_per_second: float) -> str:
    """`312 TFLOP/s` or `98.5 GFLOP/s`."""
    unit, factor = ("TFLOP/s", 1e12) if flops_per_second >= 1e12 else ("GFLOP/s", 1e9)
    return f"{flops_per_second / factor:.3g} {unit}"


def draw_speeds(figure: "Figure", *, speeds: Sequence[Speed]) -> None:
    """Bars of the images per second, with the range of the rounds."""
    axes = figure.subplots()
    rates = [speed.rate for speed in speeds]
    below = [speed.rate - min(speed.rates) for speed in speeds]
    above = [max(speed.rates) - speed.rate for speed in speeds]
    names, colors = [speed.name for speed in speeds], [f"C{number}" for number in range(len(speeds))]
    bars = axes.barh(names, rates, color=colors, xerr=[below, above], capsize=3)
    axes.bar_label(bars, fmt="{:,.1f}", padding=6, fontsize=8)
    axes.set_xlabel("training, images per second")
    axes.margins(x=0.15)
    axes.grid(axis="x", alpha=0.25)
    axes.invert_yaxis()


def _to_dict(speed: Speed, loop: Speed, peak: float) -> dict[str, Any]:
    return {
        "name": speed.name,
        "images_per_second": speed.rate,
        "images_per_second_of_rounds": speed.rates,
        "share_of_loop": speed.share(loop),
        "flops_per_image": speed.flops,
        "share_of_peak": speed.flops_per_second / peak,
        "data_wait": median(speed.data_waits) if speed.data_waits else None,
    }
