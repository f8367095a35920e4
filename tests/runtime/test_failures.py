"""Full memory, however it is said, is one line with what to type."""

import errno
import threading
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.tensorboard import SummaryWriter

from cnnzoo.errors import UserError
from cnnzoo.runtime.failures import disk_errors_as_user_error, is_out_of_memory, oom_as_user_error


def config(batch_size=64, accumulate=1, precision=None):
    trainer = {"accumulate_grad_batches": accumulate, "precision": precision}
    return OmegaConf.create({"data": {"batch_size": batch_size}, "trainer": trainer})


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
def test_full_memory_says_what_to_type(error):
    assert is_out_of_memory(error)
    with pytest.raises(UserError) as caught, oom_as_user_error(config()):
        raise error
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith("out of memory with data.batch_size=64: type data.batch_size=32 ")
    assert "trainer.accumulate_grad_batches=2 or trainer.precision=bf16-mixed" in said
    assert said.count("Tried to allocate 20.00 MiB") == 0
    assert caught.value.__cause__ is error


def test_what_is_typed_already_is_not_advised():
    with pytest.raises(UserError) as caught, oom_as_user_error(config(2, 8, "bf16-mixed")):
        raise MemoryError
    assert "type data.batch_size=1 trainer.accumulate_grad_batches=16; what" in str(caught.value)
    with pytest.raises(UserError, match=r"type a smaller data.image_size"), oom_as_user_error(config(1, 1, "16-mixed")):
        raise MemoryError


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"shapes") as caught, oom_as_user_error(config()):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not isinstance(caught.value, UserError)


def test_a_run_out_of_memory_ends_in_one_line_and_its_checkpoints_stay(job, tmp_path, monkeypatch):
    from cnnzoo.training.classifier import Classifier

    step = Classifier.training_step

    def full(self, batch, batch_idx):
        if self.current_epoch == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", full)
    with pytest.raises(UserError, match=r"out of memory with data.batch_size=64: type data.batch_size=32"):
        job("model=lenet", "trainer.max_epochs=2", "trainer.limit_train_batches=2")
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert saved["cnnzoo"]["epochs"] == 1


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device", "run/events.out")


def test_a_disk_that_takes_no_more_is_one_line():
    said = r"^run/events\.out cannot be written: No space left on device\. .* resume='my run'$"
    with pytest.raises(UserError, match=said), disk_errors_as_user_error(Path("my run")):
        full()
    with pytest.raises(FileNotFoundError), disk_errors_as_user_error(Path("run")):
        raise FileNotFoundError(errno.ENOENT, "no such file")


def test_tensorboards_thread_says_nothing_and_the_next_figure_says_it(tmp_path, monkeypatch, capfd):
    def log():
        with disk_errors_as_user_error(tmp_path):
            for step in range(1000):
                writer.add_scalar("loss", 0.5, step)
                writer.flush()

    writer = SummaryWriter(str(tmp_path))
    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    with pytest.raises(UserError, match="cannot be written: No space left"):
        log()
    assert "Traceback" not in capfd.readouterr().err


def test_other_threads_say_what_went_wrong(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(threading, "excepthook", said.append)
    with disk_errors_as_user_error(tmp_path):
        thread = threading.Thread(target=full)
        thread.start()
        thread.join()
    assert [args.exc_type for args in said] == [OSError]
