"""`benchmark.py job=gpu`: checks everything that was built for a GPU on one card, in less than ten minutes."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from omegaconf import DictConfig

from cnnzoo.benchmark import gpu_checks
from cnnzoo.benchmark.check_config import chart_path
from cnnzoo.benchmark.gpu_checks import GpuDatasetLoader
from cnnzoo.benchmark.gpu_facts import host_to_device_rate, machine_facts
from cnnzoo.benchmark.gpu_images import CLASSES, write_photographs
from cnnzoo.benchmark.gpu_report import Report, SkippedError, draw_shares
from cnnzoo.benchmark.gpu_run_checks import check_memory, check_synchronizations
from cnnzoo.benchmark.gpu_stress import WRONG_BATCHES, check_stress
from cnnzoo.benchmark.gpu_training import SHARE_BAR, BuildTraining, ShareBenchmark, Training
from cnnzoo.benchmark.measure import quiet_loggers
from cnnzoo.benchmark.result_files import save_chart, typed_command
from cnnzoo.data import Cache, DaliLoader, ImageFolder, TorchLoader
from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.split import Split
from cnnzoo.errors import UserError
from cnnzoo.models import info
from cnnzoo.runtime.formatting import plural
from cnnzoo.training.run_summary import log_table
from cnnzoo.training.train import IGNORED_WARNINGS

TIME_LIMIT_SECONDS = 570
"""Limit for the whole job. The training of the networks comes last and uses the remaining time."""
NETWORKS = ("alexnet", "squeezenet1_1", "resnet18", "googlenet", "resnet50", "vgg16", "densenet121")
SYNC_STEPS = 61
DALI_HARDWARE_LOADS = (0.0, 0.65)
"""Fractions of the JPEGs for the hardware decoder, which has written before queued work was done on some cards."""
ON_GPU, BY_WORKERS = "set on the GPU", "workers"
LOADERS: dict[str, Callable[..., Any]] = {
    ON_GPU: partial(GpuDatasetLoader, workers=0),
    BY_WORKERS: partial(TorchLoader, gpu_budget=0),
}
"""The paths from the cache in RAM to the GPU."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    sides: range of the sides of the generated images; resize: the shorter side in the decoded cache.
    check_images: images that are compared between the kernel or DALI and the CPU.
    stress_seconds: limit for each loader.
    memory_epochs, memory_batches: of the run whose memory is recorded.
    networks: whose training is measured; run_network: of the checks of whole runs.
    max_images, warmup_steps: of a measurement of training, see `ShareBenchmark`.
    """

    images: int
    sides: tuple[int, int]
    resize: int
    image_size: int
    batch_size: int
    check_images: int
    stress_batches: int
    stress_seconds: float
    memory_epochs: int
    memory_batches: int
    networks: tuple[str, ...]
    run_network: str
    max_images: int
    warmup_steps: int


FULL = Sizes(
    images=2000,
    sides=(256, 500),
    resize=256,
    image_size=224,
    batch_size=128,
    check_images=512,
    stress_batches=2000,
    stress_seconds=30.0,
    memory_epochs=40,
    memory_batches=15,
    networks=NETWORKS,
    run_network="resnet18",
    max_images=20_000,
    warmup_steps=16,
)
SMALL = Sizes(
    images=12,
    sides=(34, 48),
    resize=34,
    image_size=32,
    batch_size=2,
    check_images=6,
    stress_batches=8,
    stress_seconds=5.0,
    memory_epochs=8,
    memory_batches=1,
    networks=("lenet5", "squeezenet1_1"),
    run_network="lenet5",
    max_images=10,
    warmup_steps=2,
)


def run_gpu_benchmark(cfg: DictConfig, build: BuildTraining, device: torch.device) -> None:
    """Run all checks, log one line for each result, and write them to `cfg.json`.

    build: builds the training for overrides of `train.py`.
    device: a CUDA GPU, or the CPU, on which Triton's interpreter runs the kernel.

    Raises `UserError` after the last check if any has failed.
    """
    for pattern in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    on_gpu = device.type == "cuda"
    small = not on_gpu if cfg.small == "auto" else cfg.small
    sizes = SMALL if small else FULL
    facts = machine_facts(device)
    path = None if cfg.json is None else Path(cfg.json)
    report = Report(path, {**facts, "small": small, "command": typed_command()})
    log_table(
        {
            "device": f"{facts['device']}, {facts['cores']} cores",
            "images": f"{plural(sizes.images, 'generated JPEG')}, batches of {sizes.batch_size}, {sizes.image_size} x "
            f"{sizes.image_size} pixels",
            "plan": f"{'small sizes, to test the job itself' if small else 'less than 10 min'}"
            f"{'' if on_gpu else '; the CPU stands in for the GPU, so times say nothing'}",
        }
    )
    log.info("")
    report.log_header()
    with TemporaryDirectory(prefix="cnnzoo-benchmark-") as directory, quiet_loggers():
        GpuBenchmark(cfg, build, device, sizes, report, Path(directory)).run()
    log.info("")
    counts = report.to_dict()["counts"]
    log_table(
        {
            "result": ", ".join(f"{count} {status}" for status, count in counts.items()),
            "time": f"{report.seconds:.0f} s",
            **({} if path is None else {"results": str(path), **_draw_chart(report, path)}),
        }
    )
    if report.failed:
        first = report.failed[0]
        reason = f" ({first.reason})" if first.reason else ""
        more = f", and {len(report.failed) - 1} more" if len(report.failed) > 1 else ""
        raise UserError(f"job=gpu: {plural(len(report.failed), 'check')} failed: {first.check}{reason}{more}")


class GpuBenchmark:
    """The checks of `job=gpu` in the order in which `run` calls them."""

    def __init__(
        self,
        cfg: DictConfig,
        build: BuildTraining,
        device: torch.device,
        sizes: Sizes,
        report: Report,
        directory: Path,
    ) -> None:
        self.cfg, self.build, self.device, self.sizes = cfg, build, device, sizes
        self.report, self.directory = report, directory
        self.on_gpu = device.type == "cuda"
        self.has_time_bars = self.on_gpu and sizes is FULL
        splits = {"train": sizes.images, "val": max(CLASSES, sizes.batch_size)}  # each class has an image in both
        write_photographs(directory / "images", splits, *sizes.sides)
        train = ImageFolder(str(directory / "images")).split("train")
        assert train is not None
        self.files = train
        self.runs = 0

    def run(self) -> None:
        """Run all checks. One that raises is a failed line."""
        with self.report.checking("host to device"):
            self._check_copies()
        with self.report.checking("host time per batch"):
            gpu_checks.check_host_time(self.report)
        files = gpu_checks.first_images(self.files, self.sizes.check_images)
        shape = self.device, self.sizes.image_size, self.sizes.batch_size
        with self.report.checking("kernel"):
            gpu_checks.check_kernel(self.report, _cached(files, "decoded", self.sizes.resize), *shape)
        with self.report.checking("DALI"):
            gpu_checks.check_dali(self.report, files, *shape)
        for name, make_loaders in self._stress_loaders().items():
            with self.report.checking(f"{name}: {WRONG_BATCHES}"):
                loader, reference = make_loaders()
                check_stress(
                    self.report,
                    name,
                    loader,
                    self.device,
                    batches=self.sizes.stress_batches,
                    seconds=self.sizes.stress_seconds,
                    reference=reference,
                )
        for name, loader in LOADERS.items():
            with self.report.checking(f"{name}: synchronizations"):
                if not self.on_gpu:
                    raise SkippedError("no CUDA GPU")
                limits = {"max_epochs": 1, "limit_train_batches": SYNC_STEPS, "limit_val_batches": 1}
                training = self._training(**limits, log_every_n_steps=SYNC_STEPS // 6)
                check_synchronizations(self.report, name, *training, loader)
        for name, loader in LOADERS.items():
            with self.report.checking(f"{name}: growth of memory"):
                epochs, batches = self.sizes.memory_epochs, self.sizes.memory_batches
                limits = {"max_epochs": epochs, "limit_train_batches": batches, "limit_val_batches": 1}
                check_memory(self.report, name, *self._training(**limits, log_every_n_steps=1), loader)
        step_seconds = None
        with self.report.checking("training from RAM"):
            step_seconds = self._check_shares()
        with self.report.checking("kernel: time per batch"):
            split, repetitions = self._cached("decoded"), gpu_checks.KERNEL_REPETITIONS if self.on_gpu else 1
            seconds = gpu_checks.measure_kernel(split, *shape, repetitions=repetitions)
            gpu_checks.report_kernel_time(self.report, seconds, step_seconds, has_bar=self.has_time_bars)

    def _check_copies(self) -> None:
        check = "host to device, from pinned memory"
        if not self.on_gpu:
            self.report.skip(check, "no CUDA GPU")
            return
        rate = host_to_device_rate(self.device)
        self.report.measure(check, rate / 1e9, "GB/s")

    def _check_shares(self) -> float | None:
        """Compare training from RAM with a hand-written loop; returns the step of the fastest network in seconds."""
        shares = ShareBenchmark(
            lambda overrides: self.build([*self._overrides(), *overrides]),
            {name: _network_overrides(name) for name in self.sizes.networks},
            LOADERS,
            self.device,
            seconds=self.cfg.seconds,
            max_images=self.sizes.max_images,
            warmup_steps=self.sizes.warmup_steps,
        )
        log.info(
            "measuring training: %s, %s", plural(len(shares.networks), "network"), plural(self.cfg.rounds, "round")
        )
        for _ in range(self.cfg.rounds):
            if not shares.measure_round(lambda: TIME_LIMIT_SECONDS - self.report.seconds):
                break
        shares.report(self.report, bar=SHARE_BAR if self.has_time_bars else None, judged=ON_GPU)
        shares.data.teardown()
        return shares.step_seconds(gpu_checks.FASTEST_NETWORK)

    def _stress_loaders(self) -> dict[str, Callable[[], tuple[Any, Any]]]:
        """For each path to the GPU, a function that makes its loader, and another one of the expected batches."""
        augment, _ = gpu_checks.VARIANTS["random_resized"]
        batch_size, image_size = self.sizes.batch_size, self.sizes.image_size
        options: dict[str, Any] = {"augment": augment, "train": True, "image_size": image_size, "frozen": True}

        def dali(load: float) -> tuple[Any, Any]:
            gpu_checks.require_dali(self.device)
            if load and not self.on_gpu:
                raise SkippedError("no CUDA GPU")
            more = {**options, "device": self.device, "hw_decoder_load": load}
            return gpu_checks.make_loader(DaliLoader, self._cached("encoded"), batch_size, **more), None

        def torch_loader(name: str) -> tuple[Any, Any]:
            split = self._cached("decoded")
            loader = gpu_checks.make_loader(LOADERS[name], split, batch_size, **options, device=self.device)
            reference = gpu_checks.make_loader(TorchLoader, split, batch_size, **options) if name != ON_GPU else None
            return loader, reference

        return {
            **{f"DALI, hw_decoder_load={load:g}": lambda load=load: dali(load) for load in DALI_HARDWARE_LOADS},  # type: ignore[misc]
            **{name: lambda name=name: torch_loader(name) for name in LOADERS},  # type: ignore[misc]
        }

    def _cached(self, mode: str) -> Split:
        """All training images in a cache; decoded ones are resized."""
        return _cached(self.files, mode, self.sizes.resize if mode == "decoded" else None)

    def _training(self, **trainer: int) -> tuple[Training, DataModule]:
        """The training of a network with the default callbacks, and its data with a filled cache.

        trainer: values of keys of `trainer`.
        """
        overrides = [f"trainer.{key}={value}" for key, value in trainer.items()]
        overrides += [f"callbacks.{name}=null" for name in ("progress", "epoch_table", "bottleneck")]  # that print
        training = self.build([*self._overrides(), *_network_overrides(self.sizes.run_network), *overrides])
        training.data.setup("fit")
        return training, training.data

    def _overrides(self) -> list[str]:
        """What all trainings have in common."""
        self.runs += 1
        return [
            "data=folder",
            f"data.root='{self.directory / 'images'}'",
            f"data.image_size={self.sizes.image_size}",
            f"data.batch_size={self.sizes.batch_size}",
            "data.cache.mode=decoded",
            f"data.cache.resize={self.sizes.resize}",
            "augment=imagenet",
            "loader=torch",
            f"run_dir='{self.directory / f'run{self.runs}'}'",
            f"seed={self.cfg.seed}",
            f"trainer={'gpu' if self.on_gpu else 'cpu'}",
            "trainer.num_sanity_val_steps=0",
            "trainer.enable_progress_bar=false",
        ]


def _draw_chart(report: Report, path: Path) -> dict[str, str]:
    """Draw the chart of the results in `path` beside it. Returns what the final table says about it."""
    results = [result for result in report.results if "shares" in result.details]
    chart = chart_path(path)
    draw = partial(draw_shares, results=results, bar=SHARE_BAR)
    return {"chart": str(chart)} if results and save_chart(chart, draw, height=1.5 + 0.5 * len(results)) else {}


def _cached(files: Split, mode: str, resize: int | None) -> Split:
    """The split with a filled cache."""
    cache = Cache(mode=mode, resize=resize)  # type: ignore[arg-type]
    return replace(files, store=cache.fill({"train": files}, channels=3, on_bad_file="error")["train"])


def _network_overrides(name: str) -> list[str]:
    return [f"model={info(name).family}", f"model.name={name}"]
