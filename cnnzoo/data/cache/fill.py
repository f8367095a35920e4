"""Filling the cache: many threads read, check and perhaps decode all files, once, into one block of memory."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import simplejpeg

from cnnzoo.data.cache import available_memory
from cnnzoo.data.cache.shared_memory import ENTRY_DTYPE, ImageStore, SharedBuffer
from cnnzoo.data.split import Split
from cnnzoo.data.transforms.decode import BadFile, Pixels, check_header, decode_bytes, error_reason, read_file
from cnnzoo.data.transforms.geometry import resize
from cnnzoo.errors import UserError
from cnnzoo.runtime.cpu import usable_cores
from cnnzoo.runtime.formatting import format_bytes, format_duration

FILES_PER_TASK = 32  # files that a thread takes at a time
READERS_PER_CORE = 2  # threads per core, for reading: half of them may wait for the disk
JPEG_QUALITY, JPEG_SUBSAMPLING = 90, "420"  # of the JPEGs that `resize` makes; Pillow would halve the colours so, too
RESERVED_MEMORY_FRACTION = 0.05  # of the machine's memory: filling ends where less is left, whatever the budget
MEMORY_CHECK_BYTES = 64 * 2**20  # bytes between two looks at what is left
READ_BUFFER_BYTES = 2**20  # bytes of a file that a thread reads at once; it grows with the files
MAX_NAMED_FILES = 10  # bad files that an error names; the log names all
LOG_SECONDS = 30.0  # seconds between two lines where there is no terminal

log = logging.getLogger(__name__)

Report = Callable[[int, int], None]
"""Called with the number of images done and the bytes used so far."""
Progress = Callable[[int], AbstractContextManager[Report]]
"""Called with the number of images; its context manager gives the function to report to."""


class CacheFiller:
    """One filling of one cache. `channels` None keeps encoded files, else pixels of so many channels.

    `most`: bytes that may be taken. `side`: what the shorter side of each image is brought down to, None to keep it.
    `path`: an ordinary file to fill instead of memory without a name.
    """

    def __init__(
        self,
        splits: Mapping[str, Split],
        *,
        most: int,
        channels: int | None,
        side: int | None,
        path: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.splits, self.channels, self.side = splits, channels, side
        self.progress = progress or log_progress
        self.memory = SharedBuffer(most, path)
        self.indices = {name: np.zeros(len(split), ENTRY_DTYPE) for name, split in splits.items()}
        for index in self.indices.values():
            index["start"] = -1
        self.images = sum(map(len, splits.values()))
        self.bad: list[BadFile] = []
        self.done = 0
        self.least = int(available_memory.available_bytes() * RESERVED_MEMORY_FRACTION)
        self._looked = 0
        self._own = threading.local()
        self._end = threading.Event()  # the memory is full, or the run is broken off

    def run(self, on_bad_file: str) -> dict[str, ImageStore]:
        """Fill, and hand over a store for each split. Raises UserError for bad files, all in one, unless "skip"."""
        started = time.perf_counter()
        cores = usable_cores()
        plain = self.channels is None and self.side is None
        threads = min(32, cores * READERS_PER_CORE) if plain else cores
        with ThreadPoolExecutor(threads) as pool, self.progress(self.images) as report:
            parts = [
                pool.submit(self._part, name, start)
                for name, split in self.splits.items()
                for start in range(0, len(split), FILES_PER_TASK)
            ]
            try:
                for part in parts:
                    part.result()
                    report(self.done + len(self.bad), self.memory.used)
            except BaseException:
                self._end.set()
                pool.shutdown(cancel_futures=True)
                raise
        self._report(on_bad_file)
        begins = self.memory.finish(self.indices)
        stores = {
            name: ImageStore(self.memory.path, begins[name], len(split), self.channels, self.memory)
            for name, split in self.splits.items()
        }
        held = sum(store.held for store in stores.values())
        seconds = time.perf_counter() - started
        log.info(
            "cache: %s of %s images %s in RAM, %s, filled in %.1f s (%s images/s)",
            f"{held:,}",
            f"{self.images:,}",
            "as files" if self.channels is None else "decoded",
            format_bytes(self.memory.used),
            seconds,
            f"{held / max(seconds, 1e-9):,.0f}",
        )
        left = self.images - held - len(self.bad)
        if left:
            log.warning(
                "cache: %s images (%.0f%%) did not fit in data.cache.budget and are read from their files in every "
                "epoch; a larger budget, data.cache.mode=encoded or data.cache.resize=256 hold more",
                f"{left:,}",
                100 * left / self.images,
            )
        return stores

    def _part(self, name: str, start: int) -> None:
        """Files `start` to `start + AT_ONCE` of a split."""
        split, index = self.splits[name], self.indices[name]
        for at in range(start, min(start + FILES_PER_TASK, len(split))):
            if self._end.is_set():
                return
            path = split.path(at)
            try:
                data, height, width = self._kept(path)
            except Exception as error:  # whatever a broken file makes a decoder raise
                self.bad.append(BadFile(path, error_reason(error)))
                continue
            place = self._room(len(data))
            if place is None:
                self._end.set()
                return
            self.memory.put(data, place)
            index[at] = place, len(data), height, width
            self.done += 1

    def _kept(self, path: str) -> tuple[memoryview, int, int]:
        """(what is kept of a file, the image's height and width), until this thread asks for the next one."""
        if self.channels is None and self.side is None:
            file = self._read(path)
            return file, *check_header(file)
        pixels = decode_bytes(read_file(path), self.channels or 3)
        pixels = resize(pixels[None], *downscaled_size(pixels.shape[0], pixels.shape[1], self.side))[0]
        height, width = pixels.shape[:2]
        data: bytes | Pixels = np.ascontiguousarray(pixels)
        if self.channels is None:
            data = simplejpeg.encode_jpeg(data, JPEG_QUALITY, "RGB", JPEG_SUBSAMPLING)
        return memoryview(data).cast("B"), height, width  # type: ignore[arg-type]

    def _read(self, path: str) -> memoryview:
        """The file's bytes, in a buffer of this thread's own."""
        buffer: bytearray = getattr(self._own, "buffer", None) or bytearray(READ_BUFFER_BYTES)
        file, size = os.open(path, os.O_RDONLY), 0
        try:
            while count := os.readv(file, [memoryview(buffer)[size:]]):
                size += count
                if size == len(buffer):
                    buffer = buffer + bytearray(size)
        finally:
            os.close(file)
        self._own.buffer = buffer
        return memoryview(buffer)[:size]

    def _room(self, size: int) -> int | None:
        if self.memory.used - self._looked > MEMORY_CHECK_BYTES:
            self._looked = self.memory.used
            if available_memory.available_bytes() < self.least:
                log.warning("cache: the machine's memory runs out; filling ends here")
                return None
        return self.memory.take(size)

    def _report(self, on_bad_file: str) -> None:
        """Name the bad files."""
        if not self.bad:
            return
        self.bad.sort(key=lambda bad: bad.path)
        for bad in self.bad:
            log.warning("bad file: %s: %s", bad.path, bad.reason)
        if on_bad_file == "error":
            named = "; ".join(f"{bad.path}: {bad.reason}" for bad in self.bad[:MAX_NAMED_FILES])
            more = (
                f"; and {len(self.bad) - MAX_NAMED_FILES} more, all in the log"
                if len(self.bad) > MAX_NAMED_FILES
                else ""
            )
            count = "1 file" if len(self.bad) == 1 else f"{len(self.bad)} files"
            raise UserError(
                f"{count} cannot be read ({named}{more}): mend or remove them, or type data.on_bad_file=skip"
            )


def downscaled_size(height: int, width: int, side: int | None) -> tuple[int, int]:
    """(height, width) with the shorter side at `side`, the longer in proportion; never enlarged, None leaves them."""
    if side is None or min(height, width) <= side:
        return height, width
    return (side, side * width // height) if height <= width else (side * height // width, side)


@contextmanager
def log_progress(total: int) -> Iterator[Report]:
    """Log a line when filling begins, then one every `LOG_SECONDS`."""
    started = logged = time.perf_counter()
    log.info("filling the cache with %s images", f"{total:,}")

    def report(done: int, used: int) -> None:
        nonlocal logged
        now = time.perf_counter()
        if now - logged < LOG_SECONDS or not done:
            return
        logged = now
        rate = done / (now - started)
        log.info(
            "filling the cache: %s of %s images  %s images/s  %s  %s left",
            f"{done:,}",
            f"{total:,}",
            f"{rate:,.0f}",
            format_bytes(used),
            format_duration((total - done) / rate),
        )

    yield report
