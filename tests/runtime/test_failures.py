"""Full memory and full disks: one line that says what to type."""

import errno
import threading
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.tensorboard import SummaryWriter

from cnnzoo.errors import UserError
from cnnzoo.runtime.failures import failures_as_user_error, is_out_of_memory


def config(batch_size=64, accumulate=1, precision=None, run_dir="run"):
    trainer = {"accumulate_grad_batches": accumulate, "precision": precision}
    return OmegaConf.create({"data": {"batch_size": batch_size}, "trainer": trainer, "run_dir": str(run_dir)})


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has ..."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        MemoryError(),
    ],
)
def test_oom_message_suggests_smaller_settings(error):
    assert is_out_of_memory(error)
    with pytest.raises(UserError) as caught, failures_as_user_error(config()):
        raise error
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("out of memory with data.batch_size=64: type data.batch_size=32 ")
    assert "trainer.accumulate_grad_batches=2 or trainer.precision=bf16-mixed" in message
    assert message.count("Tried to allocate 20.00 MiB") == 0
    assert caught.value.__cause__ is error


def test_oom_message_omits_settings_already_used():
    with pytest.raises(UserError) as caught, failures_as_user_error(config(2, 8, "bf16-mixed")):
        raise MemoryError
    assert "type data.batch_size=1 trainer.accumulate_grad_batches=16; earlier" in str(caught.value)
    with (
        pytest.raises(UserError, match=r"type a smaller data.image_size"),
        failures_as_user_error(config(1, 1, "16-mixed")),
    ):
        raise MemoryError


def test_other_errors_are_passed_on():
    with pytest.raises(RuntimeError, match=r"shapes") as caught, failures_as_user_error(config()):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not isinstance(caught.value, UserError)


def test_run_out_of_memory_keeps_its_checkpoints(job, tmp_path, monkeypatch):
    from cnnzoo.training.classifier import Classifier

    step = Classifier.training_step

    def fail_in_second_epoch(self, batch, batch_idx):
        if self.current_epoch == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", fail_in_second_epoch)
    with pytest.raises(UserError, match=r"out of memory with data.batch_size=64: type data.batch_size=32"):
        job("model=lenet", "trainer.max_epochs=2", "trainer.limit_train_batches=2")
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert saved["cnnzoo"]["epochs"] == 1


def raise_disk_full(*_):
    raise OSError(errno.ENOSPC, "No space left on device", "run/events.out")


def test_disk_full_is_one_line_with_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = r"^run/events\.out: cannot be written: No space left on device; "
    cfg = config(run_dir="my run")
    with pytest.raises(UserError, match=f"{message}free disk space"), failures_as_user_error(cfg):
        raise_disk_full()
    (tmp_path / "my run/checkpoints").mkdir(parents=True)
    (tmp_path / "my run/checkpoints/last.ckpt").touch()
    with (
        pytest.raises(UserError, match=f"{message}.* resume='my run'$"),
        failures_as_user_error(config(run_dir="my run")),
    ):
        raise_disk_full()
    with pytest.raises(UserError, match=r"^/proc/x: cannot be written: "), failures_as_user_error(config()):
        Path("/proc/x").mkdir()
    with pytest.raises(FileNotFoundError), failures_as_user_error(config()):
        raise FileNotFoundError(errno.ENOENT, "no such file")


def test_tensorboard_thread_error_is_shown_once(tmp_path, monkeypatch, capfd):
    def log():
        with failures_as_user_error(config(run_dir=tmp_path)):
            for step in range(1000):
                writer.add_scalar("loss", 0.5, step)
                writer.flush()

    writer = SummaryWriter(str(tmp_path))
    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", raise_disk_full)
    with pytest.raises(UserError, match="cannot be written: No space left"):
        log()
    assert "Traceback" not in capfd.readouterr().err


def test_other_threads_still_report_errors(tmp_path, monkeypatch):
    reports = []
    monkeypatch.setattr(threading, "excepthook", reports.append)
    with failures_as_user_error(config(run_dir=tmp_path)):
        thread = threading.Thread(target=raise_disk_full)
        thread.start()
        thread.join()
    assert [report.exc_type for report in reports] == [OSError]
