"""Measures how long training waits for batches. While a GPU still has work, its host's waiting costs nothing."""

import time
from collections import deque

import torch

MAX_PENDING_WAITS = 256  # waits kept until `seconds` is read; more than the steps that a GPU is behind its host


class WaitTimer:
    """Adds up the seconds between `start` and `stop`."""

    def __init__(self) -> None:
        self._seconds = self._start_time = 0.0

    def start(self) -> None:
        """Call this before the host waits for a batch."""
        self._start_time = time.perf_counter()

    def stop(self) -> None:
        """Call this when the batch has arrived."""
        self._seconds += time.perf_counter() - self._start_time

    @property
    def seconds(self) -> float:
        return self._seconds


class GpuWaitTimer(WaitTimer):
    """Adds up the seconds in which a GPU had done all earlier work of the current stream, but had no next batch.

    `start` and `stop` record a CUDA event each, and `seconds` reads those that the GPU has reached. Nothing waits for
    the GPU, so `seconds` leaves out the waits that the GPU has not come to yet.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._pending: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._unused: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def start(self) -> None:
        self._stream = torch.cuda.current_stream(self._device)
        self._events = self._unused.pop() if self._unused else (_timing_event(), _timing_event())
        self._events[0].record(self._stream)

    def stop(self) -> None:
        self._events[1].record(self._stream)
        self._pending.append(self._events)
        if len(self._pending) > MAX_PENDING_WAITS:
            self._read_events()

    @property
    def seconds(self) -> float:
        self._read_events()
        return self._seconds

    def _read_events(self) -> None:
        while self._pending and self._pending[0][1].query():
            start, stop = events = self._pending.popleft()
            self._seconds += start.elapsed_time(stop) / 1000
            self._unused.append(events)


def _timing_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)
