"""`Timing`, calls within a time, and smaller batches where the memory is full."""

import pytest
import torch

from cnnzoo.benchmark import timing
from cnnzoo.benchmark.timing import Timing, format_ms, repeat, time_call, warm_up, with_smaller_batches
from cnnzoo.errors import UserError

CPU = torch.device("cpu")


def test_timing_median_and_spread_are_of_the_rounds():
    result = Timing([0.3, 0.1, 0.2])
    assert result.seconds == 0.2
    assert result.spread == pytest.approx(1.0)
    assert result.to_dict() == {
        **{"median_ms": 200.0, "min_ms": 100.0, "max_ms": 300.0},
        "rounds_ms": [300.0, 100.0, 200.0],
    }


def test_slow_calls_are_made_once(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    calls = []
    warm_up(lambda: calls.append("warm-up"), seconds=1)
    assert repeat(lambda: calls.append("measured"), seconds=1) == [None]
    assert calls == ["warm-up", "measured"]


def test_fast_calls_are_repeated_until_the_time_has_passed(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    calls = []
    warm_up(lambda: calls.append(None), seconds=100)
    assert len(calls) == timing.WARMUP_CALLS
    assert len(repeat(lambda: None, seconds=5)) == 5


def test_time_call_waits_for_the_device_before_and_after(monkeypatch):
    events = []
    monkeypatch.setattr(timing, "synchronize", lambda device: events.append("wait"))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(len(events)))
    assert time_call(lambda: events.append("call"), CPU) == 2
    assert events == ["wait", "call", "wait"]


def test_full_memory_halves_the_batch_and_says_so(caplog):
    tried = []

    def measure(batch_size):
        tried.append(batch_size)
        if batch_size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return "result"

    with caplog.at_level("INFO"):
        assert with_smaller_batches(measure, 16, "vgg16") == (4, "result")
    assert tried == [16, 8, 4]
    assert caplog.messages == [
        "vgg16: out of memory with batches of 16; measuring batches of 8",
        "vgg16: out of memory with batches of 8; measuring batches of 4",
    ]


def test_memory_full_with_one_image_is_an_error():
    def measure(batch_size):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    with pytest.raises(UserError, match="vgg16: out of memory with one image"):
        with_smaller_batches(measure, 2, "vgg16")


def test_other_errors_do_not_change_the_batch():
    def measure(batch_size):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        with_smaller_batches(measure, 2, "vgg16")


@pytest.mark.parametrize(("value", "text"), [(8495.48, "8,495"), (128.62, "128.6"), (4.311, "4.31")])
def test_milliseconds_have_few_digits(value, text):
    assert format_ms(value) == text
