"""The stress test: batches that are made while the GPU is busy must equal those that were made while it was idle.

A copy or a kernel that does not wait for the work before it, or memory that is used again too early, gives right images
on an idle GPU and wrong ones on a busy one.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cnnzoo.benchmark.gpu_report import Report
from cnnzoo.benchmark.measure import synchronize

WRONG_BATCHES = "wrong batches"
MATRIX_SIDE = {"cuda": 4096, "cpu": 64}
CPU_PAUSE_SECONDS = 0.001  # between two multiplications on a CPU, where others need the cores
QUEUED_MULTIPLICATIONS = 8
"""Multiplications that the other stream has in its queue at a time."""


def check_stress(
    report: Report, name: str, loader: Any, device: torch.device, *, batches: int, seconds: float, reference: Any = None
) -> None:
    """Compare `batches` batches of the loader, made while the GPU is busy, with those of the same epoch, made before.

    loader: with a frozen sampler, so that every epoch is the same and batches of the next one are made ahead.
    seconds: stop after this time with fewer batches.
    reference: a loader of the expected batches; None: the loader itself, while the GPU is idle.
    """
    try:
        expected = _idle_epoch(reference or loader, device)
        num_differing, largest_mean, compared = _compare(loader, expected, device, batches, seconds)
        rebuilds = getattr(loader, "num_rebuilds", None)
    finally:
        loader.close()
    note = "" if compared >= batches else f"no more in {seconds:.0f} s"
    details = {"compared": compared, "largest_mean_difference": largest_mean}
    report.judge(f"{name}: {WRONG_BATCHES}", num_differing, f"of {compared:,}", "<=", 0, note=note, **details)
    if rebuilds is not None:
        report.judge(f"{name}: pipelines built again", rebuilds, "", "<=", 0)


@contextmanager
def busy_device(device: torch.device) -> Iterator[Tensor]:
    """Multiply matrices on another stream until the block ends. Yields a matrix to multiply on the current stream."""
    stop = threading.Event()
    side = MATRIX_SIDE[device.type]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    matrix = torch.ones((side, side), dtype=dtype, device=device)
    synchronize(device)

    def multiply() -> None:
        if device.type != "cuda":
            while not stop.wait(CPU_PAUSE_SECONDS):
                torch.mm(matrix, matrix)
            return
        stream = torch.cuda.Stream(device)
        with torch.cuda.stream(stream):
            result, events = torch.empty_like(matrix), []
            while not stop.is_set():
                torch.mm(matrix, matrix, out=result)
                events.append(stream.record_event())
                if len(events) > QUEUED_MULTIPLICATIONS:
                    events.pop(0).synchronize()
            stream.synchronize()

    thread = threading.Thread(target=multiply, name="cnnzoo-benchmark-busy", daemon=True)
    thread.start()
    try:
        yield matrix
    finally:
        stop.set()
        thread.join()


def _idle_epoch(loader: Any, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Copies of the batches of an epoch on the device, each made before the next one is asked for."""
    epoch = []
    for images, labels in loader:
        epoch.append((images.to(device, copy=True), labels.to(device, copy=True)))
        synchronize(device)
    return epoch


def _compare(
    loader: Any, expected: list[tuple[Tensor, Tensor]], device: torch.device, batches: int, seconds: float
) -> tuple[int, float, int]:
    """Return (number of differing batches, largest mean difference of an image, number of compared batches).

    Nothing here waits for the device before the end.
    """
    num_differing = torch.zeros((), dtype=torch.int64, device=device)
    largest_mean = torch.zeros((), device=device)
    compared, start = 0, time.perf_counter()
    with busy_device(device) as matrix:
        while compared < batches and time.perf_counter() - start < seconds:
            for (images, labels), (right_images, right_labels) in zip(loader, expected, strict=False):
                torch.mm(matrix, matrix)  # delays the reads below, so that a buffer that is used again too early shows
                difference = torch.maximum(images, right_images) - torch.minimum(images, right_images)
                num_differing += (difference > 0).any() | (labels != right_labels).any()
                largest_mean = torch.maximum(largest_mean, difference.float().mean((1, 2, 3)).max())
                compared += 1
                if compared >= batches or time.perf_counter() - start >= seconds:
                    break
        synchronize(device)
    return int(num_differing), float(largest_mean), compared
