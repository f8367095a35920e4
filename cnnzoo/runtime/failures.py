"""Failures that no check can foresee, full memory and full disks, as one line that says what to type."""

import errno
import re
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from omegaconf import DictConfig

from cnnzoo.errors import UserError
from cnnzoo.runtime.command import job_command
from cnnzoo.runtime.files import display_path

OOM_MESSAGE = re.compile(
    r"out of memory|can't allocate memory|not enough memory|"
    r"CUBLAS_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)|CUDNN_STATUS_(ALLOC_FAILED|INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED)",
    re.IGNORECASE,
)
"""How torch, cuBLAS and cuDNN report full memory when they do not raise `torch.OutOfMemoryError`."""
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
PATH_ERRORS = (errno.ENOENT, errno.ENOTDIR)
"""Errors for a directory that cannot be created, such as one in /proc."""


@contextmanager
def failures_as_user_error(cfg: DictConfig) -> Iterator[None]:
    """Turn full memory and a disk that cannot be written into a `UserError`; put it around training and testing.

    TensorBoard writes in a thread, and raises its error again when the next value is logged. The thread's own traceback
    is therefore not printed.
    """
    excepthook = threading.excepthook

    def skip_tensorboard(args: threading.ExceptHookArgs) -> None:
        if type(args.thread).__name__ != "_AsyncWriterThread":
            excepthook(args)

    threading.excepthook = skip_tensorboard
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        user_error = oom_as_user_error(error, cfg) or disk_error_as_user_error(error, Path(cfg.run_dir))
        if user_error is None:
            raise
        raise user_error from error
    finally:
        threading.excepthook = excepthook


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the memory of the device or the CPU is full."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and OOM_MESSAGE.search(str(error)) is not None


def oom_as_user_error(error: BaseException, cfg: DictConfig) -> UserError | None:
    """The error to show for full memory, with settings that need less; None for other errors."""
    if not is_out_of_memory(error):
        return None
    batch_size, steps = cfg.data.batch_size, cfg.trainer.accumulate_grad_batches
    options = []
    if batch_size > 1:
        options.append(f"data.batch_size={batch_size // 2} trainer.accumulate_grad_batches={2 * steps}")
    if "16" not in str(cfg.trainer.precision):
        options.append("trainer.precision=bf16-mixed")
    advice = " or ".join(options) or "a smaller data.image_size, or a smaller network"
    reason = str(error).strip().splitlines()[0].split(". ")[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"out of memory with data.batch_size={batch_size}: type {advice}; earlier checkpoints are intact ({reason})"
    )


def disk_error_as_user_error(error: BaseException, run_dir: Path) -> UserError | None:
    """The error to show when a file of the run cannot be written; None for other errors."""
    if not isinstance(error, OSError):
        return None
    if error.errno not in DISK_ERRORS and not (error.filename and error.errno in PATH_ERRORS):
        return None
    message = f"{error.filename or run_dir}: cannot be written: {error.strerror}"
    if not any((run_dir / "checkpoints").glob("*.ckpt")):
        return UserError(f"{message}; free disk space, allow writing or choose another directory")
    return UserError(
        f"{message}; earlier checkpoints are intact. Free disk space or allow writing, then type: "
        f"{job_command('train')} resume={shlex.quote(display_path(run_dir))}"
    )
