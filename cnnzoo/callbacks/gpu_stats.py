"""GPU memory and utilization."""

import importlib.util
import logging
import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from cnnzoo.callbacks.steps import is_logging_step, log_step

log = logging.getLogger(__name__)

GIB = 1024**3
UTILIZATION_INTERVAL_SECONDS = 1.0
"""Seconds between two readings of the utilization: each takes about 1 ms, and the driver updates it about as often."""


class GpuStats(Callback):
    """Logs memory and utilization of rank 0's GPU at the logged steps; does nothing without a CUDA GPU.

    `perf/gpu_allocated` and `perf/gpu_reserved`: the peak memory in GiB that tensors used, and that PyTorch's allocator
    reserved. `perf/gpu_use`: the fraction, 0 to 1, of the driver's last sampling period (up to a second) in which the
    GPU ran a kernel. It needs the package nvidia-ml-py; a log line says so if that is missing.
    """

    def __init__(self) -> None:
        self.can_read_utilization = importlib.util.find_spec("pynvml") is not None
        self._last_reading = -UTILIZATION_INTERVAL_SECONDS

    def has_gpu(self, trainer: Trainer) -> bool:
        """Whether this rank trains on a CUDA GPU."""
        return trainer.strategy.root_device.type == "cuda"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.has_gpu(trainer) and not self.can_read_utilization and trainer.is_global_zero:
            log.info("GPU utilization is not logged; to log it: pip install nvidia-ml-py")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.has_gpu(trainer) or not trainer.is_global_zero or not is_logging_step(trainer):
            return
        device, now = trainer.strategy.root_device, time.perf_counter()
        values = {
            "perf/gpu_allocated": torch.cuda.max_memory_allocated(device) / GIB,
            "perf/gpu_reserved": torch.cuda.max_memory_reserved(device) / GIB,
        }
        if self.can_read_utilization and now - self._last_reading >= UTILIZATION_INTERVAL_SECONDS:
            self._last_reading = now
            try:
                values["perf/gpu_use"] = torch.cuda.utilization(device) / 100
            except Exception as error:  # NVML's own exception types, from a package that may be missing
                self.can_read_utilization = False
                log.info("GPU utilization is not logged: %s", str(error).splitlines()[0] if str(error) else repr(error))
        log_step(pl_module, values)
