"""Tests of `GpuStats` with a fake GPU."""

from types import SimpleNamespace

import pytest
import torch

from cnnzoo.callbacks import GpuStats


@pytest.fixture
def gpu(monkeypatch):
    """A fake trainer with a GPU, a clock, and a module that records what is logged."""
    monkeypatch.setattr("cnnzoo.callbacks.gpu_stats.is_logging_step", lambda trainer: trainer.is_logging_step)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: 3 * 2**30)
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda device: 4 * 2**30)
    clock = SimpleNamespace(perf_counter=lambda: clock.now, now=5.0)
    monkeypatch.setattr("cnnzoo.callbacks.gpu_stats.time", clock)
    logged = []
    module = SimpleNamespace(log_step=lambda values: logged.extend(values.items()))
    strategy = SimpleNamespace(root_device=torch.device("cuda", 0))
    trainer = SimpleNamespace(strategy=strategy, is_global_zero=True, is_logging_step=True)
    return SimpleNamespace(trainer=trainer, module=module, logged=logged, clock=clock)


def log_step(callback, gpu):
    """The metrics that the callback logs in one training step."""
    gpu.logged.clear()
    callback.on_train_batch_end(gpu.trainer, gpu.module, None, None, 0)
    return dict(gpu.logged)


def test_gpu_stats_log_memory_and_utilization(gpu, monkeypatch):
    monkeypatch.setattr("torch.cuda.utilization", lambda device: 80)
    callback = GpuStats()
    callback.can_read_utilization = True
    memory = {"perf/gpu_allocated": 3.0, "perf/gpu_reserved": 4.0}
    assert log_step(callback, gpu) == {**memory, "perf/gpu_use": 0.8}
    gpu.clock.now += 0.5
    assert log_step(callback, gpu) == memory  # the latest reading is half a second old
    gpu.clock.now += 0.5
    assert "perf/gpu_use" in log_step(callback, gpu)
    gpu.trainer.is_logging_step = False
    assert log_step(callback, gpu) == {}
    gpu.trainer.is_logging_step, gpu.trainer.is_global_zero = True, False
    assert log_step(callback, gpu) == {}


def test_gpu_stats_unreadable_utilization_logged_once(gpu, monkeypatch, caplog):
    caplog.set_level("INFO")

    def utilization(device):
        raise RuntimeError("Not Supported\nand more")

    monkeypatch.setattr("torch.cuda.utilization", utilization)
    callback = GpuStats()
    callback.can_read_utilization = True
    for _ in range(3):
        gpu.clock.now += 9
        assert list(log_step(callback, gpu)) == ["perf/gpu_allocated", "perf/gpu_reserved"]
    assert [record.getMessage() for record in caplog.records] == ["GPU utilization is not logged: Not Supported"]


def test_gpu_stats_without_pynvml_log_how_to_install(gpu, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    callback = GpuStats()
    callback.on_train_start(gpu.trainer, gpu.module)
    assert "perf/gpu_use" not in log_step(callback, gpu)
    assert [record.getMessage() for record in caplog.records] == [
        "GPU utilization is not logged; to log it: pip install nvidia-ml-py"
    ]


def test_gpu_stats_on_cpu_log_nothing(gpu):
    gpu.trainer.strategy.root_device = torch.device("cpu")
    assert log_step(GpuStats(), gpu) == {}
