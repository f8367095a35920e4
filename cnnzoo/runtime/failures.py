"""What goes wrong while a network trains and no check could foresee, in one line with the way out."""

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

OOM_MESSAGE = re.compile(
    r"out of memory|can't allocate memory|not enough memory|"
    r"CUBLAS_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)|CUDNN_STATUS_(ALLOC_FAILED|INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED)",
    re.IGNORECASE,
)
"""How torch, cuBLAS and cuDNN say that a device's memory is full, where it is no `torch.OutOfMemoryError`."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the device's memory, or the CPU's, is full."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and OOM_MESSAGE.search(str(error)) is not None


@contextmanager
def oom_as_user_error(cfg: DictConfig) -> Iterator[None]:
    """Around training and testing: a device whose memory is full becomes a UserError with what to type."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        size, steps = cfg.data.batch_size, cfg.trainer.accumulate_grad_batches
        smaller = f"data.batch_size={size // 2} trainer.accumulate_grad_batches={2 * steps}" if size > 1 else ""
        half = "" if "16" in str(cfg.trainer.precision) else "trainer.precision=bf16-mixed"
        ways = " or ".join(way for way in (smaller, half) if way) or "a smaller data.image_size, or a smaller network"
        reason = str(error).strip().splitlines()[0].split(". ")[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"out of memory with data.batch_size={size}: type {ways}; what was saved before is intact ({reason})"
        ) from error


@contextmanager
def disk_errors_as_user_error(run_dir: Path) -> Iterator[None]:
    """Around what writes to the run directory: a disk that takes no more becomes a UserError with what to type."""
    report = threading.excepthook

    def silent(args: threading.ExceptHookArgs) -> None:
        """TensorBoard writes in a thread; the next time that something is logged raises its error where it is seen."""
        if type(args.thread).__name__ != "_AsyncWriterThread":
            report(args)

    threading.excepthook = silent
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
            raise
        raise UserError(
            f"{error.filename or run_dir} cannot be written: {error.strerror}. What was saved before is as it was; "
            f"make room, then type: python train.py resume={shlex.quote(str(run_dir))}"
        ) from error
    finally:
        threading.excepthook = report
