"""Time calls on a device: warm-up, rounds and their medians; smaller batches where the memory is full."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeVar

import torch

from cnnzoo.benchmark.gpu_report import free_memory
from cnnzoo.benchmark.measure import synchronize
from cnnzoo.errors import UserError
from cnnzoo.runtime.console import TimeLeftEstimator, live_bar
from cnnzoo.runtime.failures import is_out_of_memory

WARMUP_CALLS = 3
"""Calls before the clock starts, in which libraries choose their algorithms; fewer if they take long."""

Result = TypeVar("Result")

log = logging.getLogger(__name__)


@dataclass
class Timing:
    """How long a call takes: for each round, the median of its calls, in seconds."""

    rounds: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The median of the rounds."""
        return median(self.rounds)

    @property
    def spread(self) -> float:
        """The range of the rounds as a fraction of their median."""
        return (max(self.rounds) - min(self.rounds)) / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Median, range and rounds in milliseconds, for JSON."""
        rounds = [1000 * seconds for seconds in self.rounds]
        return {"median_ms": 1000 * self.seconds, "min_ms": min(rounds), "max_ms": max(rounds), "rounds_ms": rounds}


def time_call(call: Callable[[], object], device: torch.device) -> float:
    """Seconds that one call takes, until the device has finished its work."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def warm_up(call: Callable[[], object], seconds: float) -> None:
    """Call once, and again until `seconds` have passed, at most `WARMUP_CALLS` times."""
    start = time.perf_counter()
    for _ in range(WARMUP_CALLS):
        call()
        if time.perf_counter() - start >= seconds:
            break


def repeat(call: Callable[[], Result], seconds: float) -> list[Result]:
    """Call once, and again until `seconds` have passed; returns all results."""
    start = time.perf_counter()
    results = [call()]
    while time.perf_counter() - start < seconds:
        results.append(call())
    return results


def with_smaller_batches(measure: Callable[[int], Result], batch_size: int, name: str) -> tuple[int, Result]:
    """`measure(batch_size)`, with half as many images as long as the memory is full, which is logged.

    Returns the batch size and the result. Raises `UserError` if one image is too much.

    name: of what is measured, for messages.
    """
    while True:
        try:
            return batch_size, measure(batch_size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        free_memory()  # after the exception, which refers to the tensors
        if batch_size == 1:
            raise UserError(f"{name}: out of memory with one image; type a smaller network or data.image_size")
        log.info("%s: out of memory with batches of %d; measuring batches of %d", name, batch_size, batch_size // 2)
        batch_size //= 2


@contextmanager
def progress(text: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show a progress bar on a terminal, and log one line elsewhere.

    Yields a function to call before each of `total` measurements with the name of the measurement.
    """
    done, time_left = -1, TimeLeftEstimator()
    with live_bar() as bar:
        if bar is None:
            log.info("measuring %s", text)

        def next_step(name: str) -> None:
            nonlocal done
            done += 1
            if bar is not None:
                seconds_left, count = time_left.estimate(done, total), f"{done}/{total}"
                bar.show(f"measuring {text}", done, total, seconds_left=seconds_left, count=count, details=name)

        yield next_step


def format_ms(milliseconds: float) -> str:
    """`8,495`, `128.6` or `4.31`."""
    digits = 0 if milliseconds >= 1000 else 1 if milliseconds >= 100 else 2
    return f"{milliseconds:,.{digits}f}"
