"""How much of the GPU is used: its memory and its time."""

import importlib.util
import logging
import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from cnnzoo.callbacks.steps import is_logging_step

log = logging.getLogger(__name__)

GIB = 1024**3
UTILIZATION_INTERVAL_SECONDS = 1.0
"""Seconds between two readings of the use, which take about a millisecond; the driver's own are as far apart."""


class GpuStats(Callback):
    """Logs, of the first rank's GPU, at the steps that are logged; nothing without a GPU of CUDA's kind.

    `perf/gpu_allocated` and `perf/gpu_reserved`: the most memory, in GiB, that tensors took so far, and that torch held
    for them. `perf/gpu_use`: the share of the last second or less, 0 to 1, in which the GPU did anything at all; it
    needs the package nvidia-ml-py, and one line says so where that is missing.
    """

    def __init__(self) -> None:
        self.can_read_utilization = importlib.util.find_spec("pynvml") is not None
        self._read = -UTILIZATION_INTERVAL_SECONDS

    def present(self, trainer: Trainer) -> bool:
        """Whether there is anything to log."""
        return trainer.strategy.root_device.type == "cuda"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what cannot be logged."""
        if self.present(trainer) and not self.can_read_utilization and trainer.is_global_zero:
            log.info("the GPU's use is not logged: pip install nvidia-ml-py")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what is there."""
        if not self.present(trainer) or not trainer.is_global_zero or not is_logging_step(trainer):
            return
        device, now = trainer.strategy.root_device, time.perf_counter()
        pl_module.log("perf/gpu_allocated", torch.cuda.max_memory_allocated(device) / GIB, rank_zero_only=True)
        pl_module.log("perf/gpu_reserved", torch.cuda.max_memory_reserved(device) / GIB, rank_zero_only=True)
        if self.can_read_utilization and now - self._read >= UTILIZATION_INTERVAL_SECONDS:
            self._read = now
            try:
                use = torch.cuda.utilization(device) / 100
            except Exception as error:  # NVML's own kinds, of a package that may be missing
                self.can_read_utilization = False
                log.info("the GPU's use is not logged: %s", str(error).splitlines()[0] if str(error) else repr(error))
            else:
                pl_module.log("perf/gpu_use", use, rank_zero_only=True)
