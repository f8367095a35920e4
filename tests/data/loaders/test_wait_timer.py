"""The time that training waits for batches: on a GPU, only what its queued work does not cover."""

import pytest
import torch

from cnnzoo.data.loaders import wait_timer
from cnnzoo.data.loaders.wait_timer import GpuWaitTimer

CPU = torch.device("cpu")


class FakeGpu:
    """A GPU that works through its queue: `host_time` and `busy_until` are in milliseconds."""

    def __init__(self, monkeypatch):
        self.host_time = self.busy_until = 0.0
        gpu = self

        class Event:
            def __init__(self, enable_timing=False):
                assert enable_timing
                gpu.num_events += 1

            def record(self, stream):
                self.time = gpu.busy_until = max(gpu.host_time, gpu.busy_until)

            def query(self):
                return gpu.host_time >= self.time

            def elapsed_time(self, end):
                assert self.query()
                assert end.query()  # otherwise torch raises
                return end.time - self.time

        self.num_events = 0
        monkeypatch.setattr(torch.cuda, "Event", Event)

    def queue(self, milliseconds):
        """Queue work of this duration."""
        self.busy_until = max(self.host_time, self.busy_until) + milliseconds


@pytest.fixture
def gpu(fake_cuda, monkeypatch):
    return FakeGpu(monkeypatch)


def wait(gpu, timer, milliseconds):
    timer.start()
    gpu.host_time += milliseconds
    timer.stop()


@pytest.mark.parametrize(("work", "waited", "idle"), [(10, 4, 0), (10, 10, 0), (10, 15, 5), (0, 7, 7)])
def test_gpu_wait_timer_leaves_out_busy_time(gpu, work, waited, idle):
    timer = GpuWaitTimer(CPU)
    gpu.queue(work)
    wait(gpu, timer, waited)
    gpu.host_time += 100
    assert timer.seconds == pytest.approx(idle / 1000)


def test_gpu_wait_timer_counts_late_copies(gpu):
    """The host has the batch, but the GPU's stream has to wait for its copy."""
    timer = GpuWaitTimer(CPU)
    timer.start()
    gpu.queue(3)
    timer.stop()
    gpu.host_time = 100
    assert timer.seconds == pytest.approx(0.003)


def test_gpu_wait_timer_reads_only_completed_waits(gpu):
    timer = GpuWaitTimer(CPU)
    for _ in range(3):
        wait(gpu, timer, 5)
        gpu.queue(20)  # the host does not wait for this work
    assert timer.seconds == pytest.approx(0.005)
    gpu.host_time = 100
    assert timer.seconds == pytest.approx(0.005)  # the other two waits were covered by the first two steps


def test_gpu_wait_timer_reuses_events(gpu):
    timer = GpuWaitTimer(CPU)
    for _ in range(100):
        wait(gpu, timer, 1)
        assert timer.seconds >= 0
    assert timer.seconds == pytest.approx(0.1)
    assert gpu.num_events == 2


def test_gpu_wait_timer_unread_keeps_few_events(gpu):
    timer = GpuWaitTimer(CPU)
    for _ in range(1000):
        wait(gpu, timer, 1)
    assert gpu.num_events <= 2 * (wait_timer.MAX_PENDING_WAITS + 1)
    assert timer.seconds == pytest.approx(1)


def test_loader_on_gpu_counts_idle_time_only(gpu, make_loader, files, monkeypatch):
    """Each batch takes the host 4 ms; the GPU works on a batch for 3 ms, or on the last three for 10 ms."""
    loader = make_loader(files, workers=0, works_ahead=True)
    monkeypatch.setattr(type(loader), "device", property(lambda _: CPU, lambda *_: None))
    batches = iter(range(5))

    def wait_for_batch(loader, requests):
        for number in batches:
            gpu.host_time += 4
            yield number

    monkeypatch.setattr(type(loader), "_iter_batches", wait_for_batch)
    monkeypatch.setattr(type(loader), "_handle_bad_files", lambda _, batch: batch)
    for number in loader:
        gpu.queue(3 if number < 2 else 10)
    gpu.host_time = 100
    assert loader.wait_seconds == pytest.approx((4 + 1 + 1 + 0 + 0) / 1000)
