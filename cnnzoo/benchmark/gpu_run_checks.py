"""Checks of whole training runs: synchronizations with the GPU in each step, and memory over many epochs."""

import itertools
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from cnnzoo.benchmark.gpu_report import Report
from cnnzoo.benchmark.gpu_training import Training, with_loader
from cnnzoo.callbacks.steps import is_logged_step
from cnnzoo.data.datamodule import DataModule
from cnnzoo.runtime.interrupts import is_interrupt
from cnnzoo.training.lightning_internals import direct_hook_calls

SYNC_WARNING = "synchronizing CUDA operation"
"""Part of the warning that torch gives in its debug mode for synchronizations."""
FIRST_STEPS = 20
"""Steps that are not counted: the first batch and the graph are written to TensorBoard, and batches are made ahead."""
FIRST_EPOCH = 3
"""The epoch after which the memory must not grow any more."""
RESERVED_BAR, RSS_BAR = 0.01, 0.05
"""Growth of the memory, relative to that after the first epochs."""


class SyncCounter(pl.Callback):
    """Counts the recorded warnings about synchronizations of each training step, until the next one starts.

    recorded: the list of `warnings.catch_warnings(record=True)`.
    """

    def __init__(self, recorded: list[warnings.WarningMessage]) -> None:
        self.recorded = recorded
        self.starts: list[int] = []  # length of `recorded` at the start of each step
        self.is_logged: list[bool] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.starts.append(len(self.recorded))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.is_logged.append(is_logged_step(trainer))

    def steps(self, *, logged: bool) -> list[list[str]]:
        """The places in the code that synchronized, for each step of the kind, without the first steps."""
        bounds = itertools.pairwise(self.starts[FIRST_STEPS:])
        steps = zip(bounds, self.is_logged[FIRST_STEPS:], strict=False)
        return [
            [
                f"{os.path.join(*Path(warning.filename).parts[-2:])}:{warning.lineno}"
                for warning in self.recorded[start:end]
                if SYNC_WARNING in str(warning.message)
            ]
            for (start, end), is_logged in steps
            if is_logged == logged
        ]


class MemoryRecorder(pl.Callback):
    """Records the memory in bytes after each epoch: of the GPU if there is one, and of this process (Linux)."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, int]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        device, memory = trainer.strategy.root_device, {}
        if device.type == "cuda":
            memory["allocated"] = torch.cuda.memory_allocated(device)
            memory["reserved"] = torch.cuda.memory_reserved(device)
        if os.path.exists("/proc/self/status"):
            memory["process"] = anonymous_memory()
        self.epochs.append(memory)

    def growth(self, name: str) -> float:
        """Growth from the epoch `FIRST_EPOCH` to the last one, as a fraction."""
        first, last = self.epochs[FIRST_EPOCH - 1][name], self.epochs[-1][name]
        return last / max(first, 1) - 1


def anonymous_memory() -> int:
    """Bytes of this process's memory that belong to it alone (Linux).

    Without the buffers that it shares with workers: they grow by a batch each time that one is used for the first time,
    which takes many short epochs, up to their fixed number.
    """
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(fields["RssAnon"].split()[0])


def check_synchronizations(
    report: Report, name: str, training: Training, data: DataModule, loader: Callable[..., Any]
) -> None:
    """Count the synchronizations in steps between logged ones (none is allowed) and in logged ones (one is allowed).

    name: of the loader, for the report.
    training: with at least `FIRST_STEPS` + 2 * `trainer.log_every_n_steps` steps, on a CUDA GPU.
    """
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        counter = SyncCounter(recorded)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            fit(training, with_loader(data, loader), counter)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for kind, logged, bar in (("between logs", False, 0), ("in a logged step", True, 1)):
        steps = counter.steps(logged=logged)
        most = max(steps, key=len)
        places = ", ".join(dict.fromkeys(most)) if len(most) > bar else ""
        check = f"{name}: synchronizations {kind}"
        report.judge(check, len(most), "", "<=", bar, note=places, steps=len(steps))


def check_memory(report: Report, name: str, training: Training, data: DataModule, loader: Callable[..., Any]) -> None:
    """Compare the memory after the last epoch with that after the first ones.

    training: with many epochs of few batches.
    """
    recorder = MemoryRecorder()
    fit(training, with_loader(data, loader, endless=False), recorder)
    note = f"epochs {FIRST_EPOCH} to {len(recorder.epochs)}"
    bars = {"allocated": RESERVED_BAR, "reserved": RESERVED_BAR, "process": RSS_BAR}
    for kind, bar in bars.items():
        check = f"{name}: growth of {'process' if kind == 'process' else f'{kind} GPU'} memory"
        if kind not in recorder.epochs[0]:
            report.skip(check, "not Linux" if kind == "process" else "no CUDA GPU")
            continue
        sizes = [epoch[kind] for epoch in recorder.epochs]
        report.judge(check, 100 * recorder.growth(kind), "%", "<", 100 * bar, note=note, bytes=sizes)


def fit(training: Training, data: DataModule, *callbacks: pl.Callback) -> None:
    """Train as `train.py` does, with these callbacks in addition."""
    trainer = training.make_trainer(*callbacks)
    try:
        with direct_hook_calls(trainer):
            trainer.fit(training.classifier, datamodule=data)
    except SystemExit as error:  # Lightning's reaction to Ctrl-C
        if is_interrupt(error):
            raise KeyboardInterrupt from None
        raise
    finally:
        data.teardown()
