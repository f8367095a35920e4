"""Writing checkpoints: files are replaced only as a whole, by a thread, so that training does not wait for the disk."""

import copy
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from torch import Tensor

from cnnzoo.runtime.files import atomic_write

MAX_PENDING = 2
"""Files that may wait to be written, `best.ckpt` and `last.ckpt`: each may hold a copy of all weights in memory."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint only when the new file is complete and on the disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write the file. Raises OSError, with `filename` set, if that fails; the previous file stays."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed while it saved
            leftover.unlink(missing_ok=True)
        try:
            with atomic_write(path, "wb", fsync=True) as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:
            if not isinstance(error.__context__, OSError):
                raise
            error.__context__.filename = str(path)
            raise error.__context__ from None  # torch hides a failed write behind its own error


class BackgroundCheckpointIO(AtomicCheckpointIO):
    """Writes checkpoints in a thread, while training continues.

    `save_checkpoint` only copies the tensors to the CPU; on a GPU, this copy is all that training waits for. A newer
    checkpoint replaces an older one of the same path that is not being written yet, so that a slow disk neither delays
    training nor fills the memory. `best.ckpt` is written before others that wait: the best value that is stored in
    `last.ckpt` then always belongs to a `best.ckpt` that is on the disk.

    If a file cannot be written, the files that wait are dropped. The error is raised once in the caller's thread, by
    `raise_error`, `wait` or the next `save_checkpoint`. The interpreter does not exit before all files are written.
    """

    def __init__(self) -> None:
        self.copies: Sequence[Path] = ()
        """Paths to which the next calls of `save_checkpoint` write the same checkpoint as well."""
        self._pending: dict[Path, dict[str, Any]] = {}
        self._thread: threading.Thread | None = None  # lives while there is something to write
        self._error: Exception | None = None
        self._changed = threading.Condition()  # guards the three above

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Copy the checkpoint and return; later changes of its tensors do not change the file.

        Waits only if `MAX_PENDING` files with other paths wait to be written. Raises the error of an earlier file that
        could not be written.
        """
        paths, snapshot = {Path(path), *self.copies}, copy_to_cpu(checkpoint)
        with self._changed:
            self._changed.wait_for(lambda: len(self._pending.keys() - paths) < MAX_PENDING)
            self.raise_error()
            self._pending.update(dict.fromkeys(paths, snapshot))
            if self._thread is None:
                thread = threading.Thread(target=self._write_pending, name="checkpoint writer")
                thread.start()
                self._thread = thread

    def wait(self) -> None:
        """Return when everything is on the disk. Raises the error of a file that could not be written."""
        with self._changed:
            self._changed.wait_for(lambda: self._thread is None)
        self.raise_error()

    def raise_error(self) -> None:
        """Raise the error of a file that could not be written; an OSError has the file's path as `filename`."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.wait()
        return super().load_checkpoint(*args, **kwargs)

    def remove_checkpoint(self, path: str | Path) -> None:
        self.wait()
        super().remove_checkpoint(path)

    def teardown(self) -> None:
        self.wait()

    def _write_pending(self) -> None:
        while True:
            with self._changed:
                self._changed.notify_all()
                if not self._pending:
                    self._thread = None
                    return
                path = min(self._pending, key=lambda path: path.name != "best.ckpt")  # else the oldest
                checkpoint = self._pending.pop(path)
            try:
                super().save_checkpoint(checkpoint, path)
            except Exception as error:
                with self._changed:
                    self._error = error
                    self._pending.clear()
            del checkpoint  # its memory is not needed while the thread waits for the lock


def copy_to_cpu(value: Any) -> Any:
    """A copy of nested dicts, lists and tuples, with a copy of each tensor on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = copy.copy(value)  # keeps the type and the attributes, such as `_metadata` of a state dict
        for key, entry in value.items():
            copied[key] = copy_to_cpu(entry)
        return copied
    if type(value) in (list, tuple):
        return type(value)(map(copy_to_cpu, value))
    return value
