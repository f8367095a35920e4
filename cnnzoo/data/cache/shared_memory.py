"""Images in one block of memory, shared by all workers and all ranks of a machine: each maps the same file.

On Linux the file is a memfd: it has no name, knows no limit such as that of /dev/shm, and goes with the last process
that holds it, however that ends. Elsewhere, and for a cache that is to last, it is an ordinary file.
"""

import contextlib
import mmap
import os
import tempfile
import threading
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

ENTRY_DTYPE = np.dtype([("start", "<i8"), ("bytes", "<i8"), ("height", "<i4"), ("width", "<i4")])
"""Where an image lies (start -1: it is not held), and its size, upright."""

HAS_MEMFD = hasattr(os, "memfd_create")
Pixels = npt.NDArray[np.uint8]


class SharedBuffer:
    """A file of shared memory being filled; any number of threads `take` pieces of it. `most` is in bytes."""

    def __init__(self, most: int, path: Path | None = None) -> None:
        self.most, self.used = max(most, 1), 0
        self._temporary: Path | None = None
        self._lock = threading.Lock()
        if path is not None:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            self.path = str(path)
        elif HAS_MEMFD:
            self._file = os.memfd_create("cnnzoo-cache")
            self.path = f"/proc/{os.getpid()}/fd/{self._file}"
        else:
            self._file, self.path = tempfile.mkstemp(prefix="cnnzoo-cache-")
            self._temporary = Path(self.path)
        os.ftruncate(self._file, self.most)  # sparse: a page costs memory once it is written
        self.view = memoryview(mmap.mmap(self._file, self.most))

    def take(self, size: int) -> int | None:
        """Where a piece of `size` bytes of its own begins; None where it does not fit any more."""
        with self._lock:
            if self.used + size > self.most:
                return None
            start, self.used = self.used, self.used + size
        return start

    def put(self, data: memoryview, start: int) -> None:
        """Write to a piece; not through the mapping, for which the kernel would zero and map each page first."""
        while len(data):
            done = os.pwrite(self._file, data, start)
            data, start = data[done:], start + done

    def finish(self, indices: dict[str, npt.NDArray[np.void]]) -> dict[str, int]:
        """Cut the file to what was taken, with the splits' indices (of ENTRY) behind it; returns where each begins."""
        self.view.release()
        begins: dict[str, int] = {}
        os.ftruncate(self._file, self.used)
        at = -(-self.used // 8) * 8
        for name, index in indices.items():
            begins[name] = at
            at += os.pwrite(self._file, index.tobytes(), at)
        return begins

    def __del__(self) -> None:
        """Let go of the file; a memfd goes when no process maps it any more."""
        with contextlib.suppress(OSError, AttributeError):
            os.close(self._file)
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)


class ImageStore:
    """N images of one split, as bytes of files (`channels` None) or as pixels, in the file at `path`.

    Pickled, it travels as its place alone, and maps the same memory where it arrives. `owner` keeps the memory alive.
    """

    def __init__(
        self, path: str, begin: int, count: int, channels: int | None, owner: SharedBuffer | None = None
    ) -> None:
        self.place = path, begin, count, channels
        self.channels, self._owner = channels, owner
        self._bytes = _map_file(path)
        self.index = np.frombuffer(self._bytes, ENTRY_DTYPE, count, begin)
        self._view = memoryview(self._bytes)

    def __reduce__(self) -> tuple[object, ...]:
        return ImageStore, self.place

    @property
    def held(self) -> int:
        """How many images it holds."""
        return int((self.index["start"] >= 0).sum())

    def get(self, index: int) -> tuple[memoryview | Pixels, tuple[int, int]] | None:
        """The image's bytes, or its pixels (H, W, channels), as a view, and its (H, W); None where it is not held."""
        start, size, height, width = self.index[index].item()
        if start < 0:
            return None
        if self.channels is None:
            return self._view[start : start + size], (height, width)
        pixels = np.frombuffer(self._bytes, np.uint8, size, start)
        return pixels.reshape(height, width, self.channels), (height, width)


_MAPS: WeakValueDictionary[tuple[int, int], mmap.mmap] = WeakValueDictionary()


def _map_file(path: str) -> mmap.mmap:
    """The file at `path`, mapped once in this process, whatever the number of stores in it."""
    with open(path, "rb") as file:
        state = os.fstat(file.fileno())
        key = state.st_dev, state.st_ino  # not the path: the number of a closed memfd is given to the next
        found = _MAPS.get(key)
        if found is None:
            found = _MAPS[key] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return found
