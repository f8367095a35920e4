"""Images in one block of shared memory: all workers and ranks of a machine map the same file.

On Linux the file is a memfd. It has no name and is not limited by the size of /dev/shm. The kernel frees it when the
last process that uses it ends, even if that process is killed. Elsewhere, and for a persisted cache, it is an ordinary
file.
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

from cnnzoo.data.transforms.pixel_format import pixel_dtype

ENTRY_DTYPE = np.dtype([("start", "<i8"), ("bytes", "<i8"), ("height", "<i4"), ("width", "<i4"), ("kind", "<i8")])
"""Index entry of an image: offset in the file (-1: not cached), number of bytes, height and width when upright, and
what is known about an encoded file (`UNVERIFIED`, `PLAIN_JPEG` or `OTHER_FORMAT` of `decode.py`)."""

HAS_MEMFD = hasattr(os, "memfd_create")
Pixels = npt.NDArray[np.uint8]


class SharedBuffer:
    """Shared memory that threads fill: `allocate` a piece, then `write` to it. Both are thread-safe.

    path: a file to use instead of anonymous memory.
    """

    def __init__(self, max_bytes: int, path: Path | None = None) -> None:
        self.max_bytes, self.used = max(max_bytes, 1), 0
        self._temporary_file: Path | None = None
        self._lock = threading.Lock()
        if path is not None:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            self.path = str(path)
        elif HAS_MEMFD:
            self._file = os.memfd_create("cnnzoo-cache")
            self.path = f"/proc/{os.getpid()}/fd/{self._file}"
        else:
            self._file, self.path = tempfile.mkstemp(prefix="cnnzoo-cache-")
            self._temporary_file = Path(self.path)
        os.ftruncate(self._file, self.max_bytes)  # sparse: a page uses memory only once it is written
        self.view = memoryview(mmap.mmap(self._file, self.max_bytes))

    def allocate(self, size: int) -> int | None:
        """The offset of a new piece of `size` bytes, or None if it does not fit."""
        with self._lock:
            if self.used + size > self.max_bytes:
                return None
            start, self.used = self.used, self.used + size
        return start

    def write(self, data: memoryview, start: int) -> None:
        """Write `data` at offset `start`; with pwrite, because a mapped page would first be zeroed by the kernel."""
        if not hasattr(os, "pwrite"):  # Windows
            self.view[start : start + len(data)] = data
            return
        while len(data):
            written = os.pwrite(self._file, data, start)
            data, start = data[written:], start + written

    def finish(self, indices: dict[str, npt.NDArray[np.void]]) -> dict[str, int]:
        """Truncate the file to the allocated size and append `indices` (of ENTRY_DTYPE); returns their offsets."""
        self.view.release()
        offsets: dict[str, int] = {}
        os.ftruncate(self._file, self.used)
        offset = -(-self.used // 8) * 8  # aligned to 8 bytes
        for name, index in indices.items():
            offsets[name] = offset
            os.lseek(self._file, offset, os.SEEK_SET)
            offset += os.write(self._file, index.tobytes())
        return offsets

    def __del__(self) -> None:
        """Close the file. A memfd is freed when no process maps it any more."""
        if contextlib is None:  # at the end of the interpreter, and the system closes the file
            return
        with contextlib.suppress(OSError, AttributeError):
            os.close(self._file)
        if self._temporary_file is not None:
            with contextlib.suppress(BufferError):
                self.view.release()
            with contextlib.suppress(OSError):  # Windows does not delete a file that is still mapped
                self._temporary_file.unlink(missing_ok=True)


class ImageStore:
    """The N cached images of one split in the file at `path`: encoded files (`channels` None) or decoded pixels.

    index_offset: where the N index entries begin in the file.
    bits: of each value of decoded pixels.
    buffer: kept alive as long as the store.

    Pickling transfers only the arguments; the unpickled store maps the same memory.
    """

    def __init__(
        self,
        path: str,
        index_offset: int,
        count: int,
        channels: int | None,
        bits: int = 8,
        buffer: SharedBuffer | None = None,
    ) -> None:
        self.location = path, index_offset, count, channels, bits
        self.channels, self._dtype = channels, pixel_dtype(bits)
        self._mapping = _map_file(path)
        self.index = np.frombuffer(self._mapping, ENTRY_DTYPE, count, index_offset)
        self._entries = self.index[["start", "bytes", "height", "width"]]  # `get` is faster without the other field
        self._view = memoryview(self._mapping)
        self._buffer = buffer  # set last, so that it is freed after the mapping, as Windows needs

    def __reduce__(self) -> tuple[object, ...]:
        return ImageStore, self.location

    @property
    def memory(self) -> Pixels:
        """The bytes of the file, read-only; `start` of an index entry is an offset in it."""
        return np.frombuffer(self._mapping, np.uint8)

    @property
    def num_cached(self) -> int:
        """The number of images that are in memory."""
        return int((self.index["start"] >= 0).sum())

    def get(self, index: int) -> tuple[memoryview | Pixels, tuple[int, int]] | None:
        """(the file's bytes or the pixels (H, W, channels), (H, W)) without copying, or None if not cached."""
        start, size, height, width = self._entries[index].item()
        if start < 0:
            return None
        if self.channels is None:
            return self._view[start : start + size], (height, width)
        pixels = np.frombuffer(self._mapping, self._dtype, height * width * self.channels, start)
        return pixels.reshape(height, width, self.channels), (height, width)


_MAPPINGS: WeakValueDictionary[tuple[int, int], mmap.mmap] = WeakValueDictionary()


def _map_file(path: str) -> mmap.mmap:
    """Map the file at `path` read-only, once per process however many stores use it."""
    with open(path, "rb") as file:
        state = os.fstat(file.fileno())
        key = state.st_dev, state.st_ino  # not the path: a closed memfd's number in it is reused for the next one
        mapping = _MAPPINGS.get(key)
        if mapping is None:
            mapping = _MAPPINGS[key] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return mapping
