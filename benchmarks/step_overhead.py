"""Measure what a training step costs beyond the network: a hand-written loop, Lightning alone, and `train.py`.

    python benchmarks/step_overhead.py                                        # a small network, batches of 8 images
    python benchmarks/step_overhead.py --loader model=lenet data.batch_size=64
    python benchmarks/step_overhead.py --device cuda model=resnet data.batch_size=512

All settings train the same network with the same optimizer, schedule and normalization, on images of 32 x 32 pixels:

- hand: a loop of forward, backward, optimizer.step() and scheduler.step(), on one batch that is held in memory
- barebones: `Trainer(barebones=True)` of Lightning with a module that only returns the loss, on the held batch
- minimal, default: the job `train` with `callbacks=minimal` and `callbacks=default`, on the held batch; with
  `--loader`, on the batches of its own loader

Each round runs every setting in a process of its own, every second round in reverse order, because the speed of
machines drifts. The time of a run is the median over blocks of ten steps, of which one is logged. The table shows
medians over the rounds; on a noisy machine the lowest values vary less.
"""

import argparse
import gc
import itertools
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import hydra
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional as F

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from cnnzoo import cli  # noqa: E402
from cnnzoo.data.loaders.torch_loader import TorchLoader  # noqa: E402
from cnnzoo.jobs import train as train_job  # noqa: E402
from cnnzoo.training import train  # noqa: E402
from cnnzoo.training.device_defaults import apply_device_defaults  # noqa: E402

PLAIN = ("hand", "barebones")
SETTINGS = (*PLAIN, "minimal", "default")
WARMUP_STEPS = 30
BLOCK = 10
"""Steps that are timed together; one of them is logged."""
DEFAULTS = ("model=lenet", "data.batch_size=8")


class HeldBatchLoader(TorchLoader):
    """A loader that yields its first batch again and again, as uint8 on the device."""

    def __len__(self) -> int:
        return num_steps()

    def __iter__(self) -> Any:
        images, labels = next(super().__iter__())
        return itertools.repeat((images.to(Clock.device), labels.to(Clock.device)), len(self))


class HeldBatch:
    """Yields a batch again and again."""

    def __init__(self, batch: tuple[Tensor, Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return num_steps()

    def __iter__(self) -> Any:
        return itertools.repeat(self.batch, len(self))


class Clock(pl.Callback):
    """Records the time after every `BLOCK` steps, after the first `WARMUP_STEPS`."""

    device: ClassVar[torch.device]
    steps: ClassVar[int]  # that are measured
    times: ClassVar[list[float]] = []  # class attributes, because Hydra builds the callback

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, idx: int) -> None:
        self.step(idx)

    @classmethod
    def step(cls, step: int) -> None:
        """Call this at the start of each step."""
        if step >= WARMUP_STEPS and step % BLOCK == 0:
            if cls.device.type == "cuda":
                torch.cuda.synchronize(cls.device)
            cls.times.append(time.perf_counter())

    @classmethod
    def milliseconds(cls) -> float:
        """Per step: the median over the blocks, which leaves out pauses of the machine."""
        return 1000 / BLOCK * median(after - before for before, after in itertools.pairwise(cls.times))


class PlainModule(pl.LightningModule):
    """Returns the loss, and nothing else."""

    def __init__(self, net: torch.nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
        super().__init__()
        self.net, self.optimizer, self.scheduler = net, optimizer, scheduler

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> Any:
        return {"optimizer": self.optimizer, "lr_scheduler": {"scheduler": self.scheduler, "interval": "step"}}


class PlainData(pl.LightningDataModule):
    """The held batch, normalized in every step."""

    def __init__(self, batch: tuple[Tensor, Tensor], scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.batch, self.scale, self.shift = batch, scale, shift

    def train_dataloader(self) -> Any:
        return HeldBatch(self.batch)

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        images, labels = batch
        return normalize(images, self.scale, self.shift), labels


def normalize(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return images.to(torch.float32, memory_format=torch.channels_last).mul_(scale).add_(shift)


def num_steps() -> int:
    """Steps of a run; the clock stops when the last one begins."""
    return WARMUP_STEPS + Clock.steps + 1


def compose(setting: str, run_dir: Path, args: argparse.Namespace) -> DictConfig:
    """The configuration of `train.py` for one setting."""
    argv = [
        *("data=synthetic", "augment=none", *args.overrides),
        *(f"trainer={'gpu' if args.device == 'cuda' else 'cpu'}", "trainer.max_epochs=1", "test=false"),
        *("trainer.limit_val_batches=0", "trainer.enable_progress_bar=false", f"run_dir={run_dir}"),
        *(f"callbacks={setting}", "callbacks.progress=null", f"+callbacks.clock._target_={__name__}.Clock"),
    ]
    batch_size = int(next(text for text in reversed(argv) if text.startswith("data.batch_size=")).split("=")[1])
    if args.loader:
        images = 3 * batch_size * num_steps() // 2  # of which 72 % are for training
        argv += [f"data.source.images={images}", f"trainer.limit_train_batches={num_steps()}"]
    else:
        argv += [f"data.source.images={max(2048, 2 * batch_size)}", f"loader._target_={__name__}.HeldBatchLoader"]
    prepared, _ = cli.prepare(argv, job="train", help_text="")
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        return hydra.compose("train", overrides=prepared)


def run_job(cfg: DictConfig) -> None:
    """Train as `train.py` does."""
    run_dir = Path(cfg.run_dir)
    (run_dir / ".hydra").mkdir(parents=True)
    (run_dir / ".hydra" / "overrides.yaml").write_text("[]")
    train_job.main(cfg)


def run_plain(setting: str, cfg: DictConfig) -> None:
    """Train the network of `cfg` on one batch, by hand or with a bare trainer."""
    apply_device_defaults(cfg)
    train.seed_everything(cfg.seed)
    data = cli.instantiate(cfg.data, "data")
    net, _ = train.build_network(cfg.model, data)
    net = net.to(Clock.device).to(memory_format=torch.channels_last)
    batch = next(iter(data.train_dataloader()))
    images, labels = (tensor.to(Clock.device) for tensor in batch)
    mean, std = (torch.tensor(stats).view(1, -1, 1, 1) for stats in (data.resolved_mean, data.resolved_std))
    scale, shift = (1 / (255 * std)).to(Clock.device), (-mean / std).to(Clock.device)
    weights = [p for p in net.parameters() if p.ndim > 1]
    groups = [{"params": weights}, {"params": [p for p in net.parameters() if p.ndim <= 1], "weight_decay": 0.0}]
    optimizer = cli.instantiate(cfg.optimizer, "optimizer")(groups)
    scheduler = cli.instantiate(cfg.scheduler, "scheduler")(
        optimizer, total_steps=num_steps(), steps_per_epoch=num_steps()
    )
    autocast = torch.autocast(Clock.device.type, torch.bfloat16, enabled=Clock.device.type == "cuda")
    if setting == "barebones":
        precision: Any = "bf16-mixed" if Clock.device.type == "cuda" else None
        trainer = pl.Trainer(
            accelerator=Clock.device.type, devices=1, barebones=True, max_epochs=1, precision=precision
        )
        clock = Clock()
        trainer.callbacks.append(clock)  # type: ignore[attr-defined]  # a bare trainer accepts none in its constructor
        trainer.fit(PlainModule(net, optimizer, scheduler), PlainData((images, labels), scale, shift))
        return
    net.train()
    for step in range(num_steps()):
        Clock.step(step)
        optimizer.zero_grad()
        inputs = normalize(images, scale, shift)
        with autocast:
            loss = F.cross_entropy(net(inputs), labels)
        loss.backward()
        optimizer.step()
        scheduler.step()


def run_setting(setting: str, args: argparse.Namespace) -> None:
    """Train with one setting in this process, and print the milliseconds per step."""
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)
    gc.freeze()  # as a job does, so that the collector does not visit what was imported
    with tempfile.TemporaryDirectory() as directory:
        cfg = compose("default" if setting in PLAIN else setting, Path(directory) / "run", args)
        run_plain(setting, cfg) if setting in PLAIN else run_job(cfg)
    print("MILLISECONDS", Clock.milliseconds(), flush=True)
    os._exit(0)  # without the bindings of triton reporting frozen objects


def measure(setting: str) -> float:
    """Milliseconds per step of one setting, in a new process."""
    command = [sys.executable, *sys.argv, "--run", setting]
    # Without these, the C library returns memory to the system after one step and asks for it again in the next one, in
    # some processes and not in others: the same loop then takes from 12 to 16 ms.
    malloc = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
    process = subprocess.run(command, env={**os.environ, **malloc}, capture_output=True, text=True)
    match = re.search(r"^MILLISECONDS (.*)$", process.stdout, re.MULTILINE)
    if match is None:
        sys.exit(process.stdout + process.stderr)
    return float(match[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=300, help="steps that are measured in each run, a multiple of ten")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on the CPU")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=SETTINGS)
    parser.add_argument("--loader", action="store_true", help="minimal and default use their own loader")
    parser.add_argument("--run", choices=SETTINGS, help=argparse.SUPPRESS)  # for the processes of the measurement
    args, overrides = parser.parse_known_args()
    typed = {override.partition("=")[0] for override in overrides}
    args.overrides = [text for text in DEFAULTS if text.partition("=")[0] not in typed] + overrides
    Clock.device, Clock.steps = torch.device(args.device), args.steps
    if args.run:
        run_setting(args.run, args)
    times: dict[str, list[float]] = {setting: [] for setting in SETTINGS if setting in args.settings}
    for number in range(args.rounds):
        for setting in times if number % 2 == 0 else reversed(times):
            times[setting].append(measure(setting))
        print(f"round {number + 1}: { ({s: round(t[-1], 3) for s, t in times.items()}) }", file=sys.stderr, flush=True)
    device_name = torch.cuda.get_device_name(0) if args.device == "cuda" else f"CPU, {args.threads} threads"
    print(f"{device_name}, torch {torch.__version__}, {' '.join(args.overrides)}, {args.rounds} rounds:\n")
    print("| setting | ms per step | lowest | over barebones | lowest over lowest | speed relative to hand |")
    print("|---|---|---|---|---|---|")
    for setting, values in times.items():
        cells = [f"{median(values):.3f}", f"{min(values):.3f}", "", "", ""]
        if base := times.get("barebones"):
            cells[2] = f"{median(a - b for a, b in zip(values, base, strict=True)):+.3f}"
            cells[3] = f"{min(values) - min(base):+.3f}"
        if hand := times.get("hand"):
            cells[4] = f"{median(b / a for a, b in zip(values, hand, strict=True)):.3f}"
        print(f"| {setting} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
