"""Measure what a training step costs beyond the network: a hand-written loop, Lightning alone, and `train.py`.

    python benchmarks/step_overhead.py                                        # a small network, batches of 8 images
    python benchmarks/step_overhead.py --loader model=lenet data.batch_size=64
    python benchmarks/step_overhead.py --device cuda model=resnet data.batch_size=512

All settings train the same network with the same optimizer, schedule and normalization, on images of 32 x 32 pixels:

- hand: a loop of forward, backward, optimizer.step() and scheduler.step(), on one batch that is held in memory
- barebones: `Trainer(barebones=True)` of Lightning with a module that only returns the loss, on the held batch
- minimal, default: the job `train` with `callbacks=minimal` and `callbacks=default`, on the held batch; with
  `--loader`, on the batches of its own loader

The four train in the same process, by turns of ten steps, in changing order, because the speed of machines drifts. One
step of each turn is logged. The result of a round is the median over its turns; the table shows the medians over the
rounds of the time per step, of the difference to barebones and of the speed relative to hand.
"""

import argparse
import atexit
import gc
import itertools
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
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
from cnnzoo.training.lightning_internals import REPLACED  # noqa: E402

PLAIN = ("hand", "barebones")
SETTINGS = (*PLAIN, "minimal", "default")
WARMUP_STEPS = 30
BLOCK = 10
"""Steps of a turn; one of them is logged."""


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


class Turns:
    """Lets the settings, each in a thread of its own, train by turns of `BLOCK` steps, and measures each turn."""

    def __init__(self, settings: Sequence[str], num_turns: int) -> None:
        turns = [list(settings) if turn % 2 == 0 else list(settings)[::-1] for turn in range(num_turns + 2)]
        self.schedule = [setting for turn in turns for setting in turn]  # the first and the last turn are longer
        self.milliseconds: dict[str, list[float]] = {setting: [] for setting in settings}  # per step, of each turn
        self.failed = False
        self._position, self._changed = 0, threading.Condition()
        self._start = 0.0

    def wait(self, setting: str) -> None:
        """Return when it is the turn of `setting`."""
        with self._changed:
            self._changed.wait_for(lambda: self.failed or self.schedule[self._position] == setting)
        if self.failed:
            sys.exit(1)
        self._start = time.perf_counter()

    def end(self, *, failed: bool = False) -> None:
        """End the present turn."""
        with self._changed:
            self._position, self.failed = self._position + 1, self.failed or failed
            self._changed.notify_all()

    def next_step(self, step: int) -> None:
        """At the start of a step: measure the turn if it is over, and wait for the next one."""
        if step < WARMUP_STEPS or step % BLOCK:
            return
        setting = threading.current_thread().name
        if Clock.device.type == "cuda":
            torch.cuda.synchronize(Clock.device)
        if step > WARMUP_STEPS:
            self.milliseconds[setting].append(1000 * (time.perf_counter() - self._start) / BLOCK)
        functions = [getattr(module, name) for module, name in REPLACED]  # which differ between the settings
        self.end()
        self.wait(setting)
        for (module, name), function in zip(REPLACED, functions, strict=True):
            setattr(module, name, function)
        self._start = time.perf_counter()


class Clock(pl.Callback):
    """Measures the steps of a trainer."""

    device: ClassVar[torch.device]
    turns: ClassVar[Turns]  # class attributes, because Hydra builds the callback
    num_turns: ClassVar[int]

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, idx: int) -> None:
        Clock.turns.next_step(idx)


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
    """Steps of a run; the last turn ends when the last step begins."""
    return WARMUP_STEPS + BLOCK * Clock.num_turns + 1


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
        Clock.turns.next_step(step)
        optimizer.zero_grad()
        inputs = normalize(images, scale, shift)
        with autocast:
            loss = F.cross_entropy(net(inputs), labels)
        loss.backward()
        optimizer.step()
        scheduler.step()


def run_setting(setting: str, cfg: DictConfig) -> None:
    """Train with one setting, by turns with the others."""
    Clock.turns.wait(setting)
    failed = True
    try:
        run_plain(setting, cfg) if setting in PLAIN else run_job(cfg)
        failed = False
    finally:
        Clock.turns.end(failed=failed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--turns", type=int, default=20, help="turns of ten steps in each round")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on the CPU")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=SETTINGS, help="hand is always measured")
    parser.add_argument("--loader", action="store_true", help="minimal and default use their own loader")
    args, overrides = parser.parse_known_args()
    defaults = ("model=lenet", "data.batch_size=8")
    args.overrides = [
        text for text in defaults if not any(o.startswith(text.partition("=")[0] + "=") for o in overrides)
    ]
    args.overrides += overrides
    torch.set_num_threads(args.threads)
    gc.freeze()  # as a job does, so that the collector does not visit what was imported
    atexit.register(gc.unfreeze)
    logging.disable(logging.WARNING)
    Clock.device, Clock.num_turns = torch.device(args.device), args.rounds * args.turns
    settings = [setting for setting in SETTINGS if setting in {"hand", *args.settings}]
    Clock.turns = Turns(settings, Clock.num_turns)
    with tempfile.TemporaryDirectory() as directory:
        threads = []
        for setting in settings:
            cfg = compose("default" if setting in PLAIN else setting, Path(directory) / setting, args)
            threads.append(threading.Thread(target=run_setting, name=setting, args=(setting, cfg)))
            threads[-1].start()
        for thread in threads:
            thread.join()
    if Clock.turns.failed:
        sys.exit(1)
    device_name = torch.cuda.get_device_name(0) if args.device == "cuda" else f"CPU, {args.threads} threads"
    print(f"{device_name}, torch {torch.__version__}, {' '.join(args.overrides)}:\n")
    print("| setting | ms per step | over barebones, ms | from - to | speed relative to hand | from - to |")
    print("|---|---|---|---|---|---|")
    times = {
        setting: [median(turns[start : start + args.turns]) for start in range(0, len(turns), args.turns)]
        for setting, turns in Clock.turns.milliseconds.items()
    }
    for setting in settings:
        over = sorted(a - b for a, b in zip(times[setting], times.get("barebones", times["hand"]), strict=True))
        shares = sorted(b / a for a, b in zip(times[setting], times["hand"], strict=True))
        cells = [f"{median(over):+.3f} | {over[0]:+.3f} - {over[-1]:+.3f}" if "barebones" in settings else " | "]
        cells.append(f"{median(shares):.3f} | {shares[0]:.3f} - {shares[-1]:.3f}")
        print(f"| {setting} | {median(times[setting]):.3f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
