"""Filling the cache: threads read, check and, if needed, decode every file once, into one block of shared memory."""

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
from cnnzoo.data.transforms.decode import (
    OTHER_FORMAT,
    PLAIN_JPEG,
    UNVERIFIED,
    BadFile,
    Pixels,
    check_header,
    decode_bytes,
    error_reason,
    read_file,
    verify_jpeg,
)
from cnnzoo.data.transforms.geometry import resize
from cnnzoo.errors import UserError
from cnnzoo.runtime.cpu import usable_cores
from cnnzoo.runtime.formatting import format_bytes, format_duration

FILES_PER_TASK = 32  # files that a thread processes before it takes the next task
READERS_PER_CORE, MAX_READERS = 2, 32  # threads that only read; more than the cores, because some wait for the disk
JPEG_QUALITY, JPEG_SUBSAMPLING = 90, "420"  # of the JPEGs that `resize` writes; 4:2:0 is Pillow's default, too
RESERVED_MEMORY_FRACTION = 0.05  # filling stops when less of the machine's memory is left, whatever the budget
MEMORY_CHECK_BYTES = 64 * 2**20  # bytes cached between two checks of the memory that is left
READ_BUFFER_BYTES = 2**20  # initial size of a thread's read buffer, which grows to the largest file
MAX_LISTED_FILES = 10  # bad files in the error message; the log lists all
LOG_INTERVAL_SECONDS = 30.0  # between two progress lines in the log

log = logging.getLogger(__name__)

Report = Callable[[int, int], None]
"""Called with the number of processed images and the bytes used so far."""
Progress = Callable[[int], AbstractContextManager[Report]]
"""Called with the number of images; returns a context manager that gives the `Report`."""


class CacheFiller:
    """Fills one cache with the images of `splits`; use it once.

    max_bytes: memory that the cache may use.
    channels, bits: of the images, for which the files are checked.
    decode: cache pixels instead of encoded files.
    shorter_side: target size in pixels of each image's shorter side; None keeps the size.
    verify_jpegs: read each JPEG that is cached as a file from end to end, instead of its header only.
    path: a file to fill instead of anonymous memory.
    progress: shows the progress; None logs it.
    """

    def __init__(
        self,
        splits: Mapping[str, Split],
        *,
        max_bytes: int,
        channels: int,
        bits: int,
        decode: bool,
        shorter_side: int | None,
        verify_jpegs: bool = False,
        path: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.splits, self.decode, self.shorter_side = splits, decode, shorter_side
        self.channels, self.bits = channels, bits
        self.verify_jpegs = verify_jpegs
        self.progress = progress or log_progress
        self.memory = SharedBuffer(max_bytes, path)
        self.indices = {name: np.zeros(len(split), ENTRY_DTYPE) for name, split in splits.items()}
        for index in self.indices.values():
            index["start"] = -1
        self.num_images = sum(map(len, splits.values()))
        self.num_cached = 0
        self.bad_files: list[BadFile] = []
        self.reserved_bytes = int(available_memory.available_bytes() * RESERVED_MEMORY_FRACTION)
        self._bytes_at_last_check = 0
        self._thread_local = threading.local()
        self._stop = threading.Event()  # set when the memory is full or the run is interrupted

    def run(self, on_bad_file: str) -> dict[str, ImageStore]:
        """Fill the cache and return one store per split.

        Raises UserError that lists the bad files, unless `on_bad_file` is "skip".
        """
        started = time.perf_counter()
        cores = usable_cores()
        only_reads = not self.decode and self.shorter_side is None
        threads = min(MAX_READERS, cores * READERS_PER_CORE) if only_reads else cores
        with ThreadPoolExecutor(threads) as pool, self.progress(self.num_images) as report:
            tasks = [
                pool.submit(self._cache_files, name, start)
                for name, split in self.splits.items()
                for start in range(0, len(split), FILES_PER_TASK)
            ]
            try:
                for task in tasks:
                    task.result()
                    report(self.num_cached + len(self.bad_files), self.memory.used)
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        self._report_bad_files(on_bad_file)
        offsets, channels = self.memory.finish(self.indices), self.channels if self.decode else None
        stores = {
            name: ImageStore(self.memory.path, offsets[name], len(split), channels, self.bits, self.memory)
            for name, split in self.splits.items()
        }
        num_cached = sum(store.num_cached for store in stores.values())
        seconds = time.perf_counter() - started
        log.info(
            "cache: %s of %s images %s in RAM, %s, filled in %.1f s (%s images/s)",
            f"{num_cached:,}",
            f"{self.num_images:,}",
            "decoded" if self.decode else "encoded",
            format_bytes(self.memory.used),
            seconds,
            f"{num_cached / max(seconds, 1e-9):,.0f}",
        )
        not_cached = self.num_images - num_cached - len(self.bad_files)
        if not_cached:
            log.warning(
                "cache: %s images (%.0f%%) did not fit in data.cache.budget and are read from their files in every "
                "epoch; to cache more, type a larger budget, data.cache.mode=encoded or data.cache.resize=256",
                f"{not_cached:,}",
                100 * not_cached / self.num_images,
            )
        return stores

    def _cache_files(self, name: str, start: int) -> None:
        """Cache the files `start` to `start + FILES_PER_TASK` of a split."""
        split, index = self.splits[name], self.indices[name]
        for row in range(start, min(start + FILES_PER_TASK, len(split))):
            if self._stop.is_set():
                return
            try:
                data, height, width, kind = self._load_image(split, row)
            except Exception as error:  # decoders raise various exceptions for bad files
                self.bad_files.append(BadFile(split.name(row), error_reason(error)))
                continue
            offset = self._allocate(len(data))
            if offset is None:
                self._stop.set()
                return
            self.memory.write(data, offset)
            index[row] = offset, len(data), height, width, kind
            self.num_cached += 1

    def _load_image(self, split: Split, row: int) -> tuple[memoryview, int, int, int]:
        """(the bytes to cache, height, width, kind) of an image. The bytes are valid until this thread's next call."""
        if not self.decode and self.shorter_side is None:
            file = memoryview(split.read(row)) if split.paths is None else self._read_file(split.path(row))
            height, width = check_header(file, self.channels, self.bits)
            kind = UNVERIFIED
            if self.verify_jpegs:
                kind = PLAIN_JPEG if verify_jpeg(file) else OTHER_FORMAT
            return file, height, width, kind
        pixels = decode_bytes(split.read(row), self.channels if self.decode else 3, self.bits)
        pixels = resize(pixels[None], *downscaled_size(pixels.shape[0], pixels.shape[1], self.shorter_side))[0]
        height, width = pixels.shape[:2]
        data: bytes | Pixels = np.ascontiguousarray(pixels)
        if not self.decode:
            data = simplejpeg.encode_jpeg(data, JPEG_QUALITY, "RGB", JPEG_SUBSAMPLING)
        kind = UNVERIFIED if self.decode else PLAIN_JPEG
        return memoryview(data).cast("B"), height, width, kind  # type: ignore[arg-type]

    def _read_file(self, path: str) -> memoryview:
        """Read a file into this thread's buffer."""
        if not hasattr(os, "readv"):  # Windows
            return memoryview(read_file(path))
        buffer: bytearray = getattr(self._thread_local, "buffer", None) or bytearray(READ_BUFFER_BYTES)
        file, size = os.open(path, os.O_RDONLY), 0
        try:
            while count := os.readv(file, [memoryview(buffer)[size:]]):
                size += count
                if size == len(buffer):
                    buffer = buffer + bytearray(size)
        finally:
            os.close(file)
        self._thread_local.buffer = buffer
        return memoryview(buffer)[:size]

    def _allocate(self, size: int) -> int | None:
        """The offset of `size` new bytes, or None if the budget or the machine's memory is used up."""
        if self.memory.used - self._bytes_at_last_check > MEMORY_CHECK_BYTES:
            self._bytes_at_last_check = self.memory.used
            if available_memory.available_bytes() < self.reserved_bytes:
                log.warning("cache: the machine is running out of memory; filling stops here")
                return None
        return self.memory.allocate(size)

    def _report_bad_files(self, on_bad_file: str) -> None:
        """Log each bad file; raise UserError for `on_bad_file="error"`."""
        if not self.bad_files:
            return
        self.bad_files.sort(key=lambda bad: bad.path)
        for bad in self.bad_files:
            log.warning("bad file: %s: %s", bad.path, bad.reason)
        if on_bad_file == "error":
            count = len(self.bad_files)
            listed = "; ".join(f"{bad.path}: {bad.reason}" for bad in self.bad_files[:MAX_LISTED_FILES])
            more = f"; and {count - MAX_LISTED_FILES} more, all in the log" if count > MAX_LISTED_FILES else ""
            if more and len({bad.reason for bad in self.bad_files}) == 1:  # a wrong setting more often than bad files
                listed, more = f"{self.bad_files[0].path} and all others: {self.bad_files[0].reason}", ""
            files = "1 file" if count == 1 else f"{count} files"
            raise UserError(
                f"{files} cannot be read ({listed}{more}); repair or remove them, or type data.on_bad_file=skip"
            )


def downscaled_size(height: int, width: int, shorter_side: int | None) -> tuple[int, int]:
    """The (height, width) after scaling the shorter side down to `shorter_side`. Never enlarges; None: unchanged."""
    if shorter_side is None or min(height, width) <= shorter_side:
        return height, width
    if height <= width:
        return shorter_side, shorter_side * width // height
    return shorter_side * height // width, shorter_side


@contextmanager
def log_progress(total: int) -> Iterator[Report]:
    """Log a line at the start and then one every `LOG_INTERVAL_SECONDS`."""
    started = last_logged = time.perf_counter()
    log.info("filling the cache with %s images", f"{total:,}")

    def report(processed: int, used: int) -> None:
        nonlocal last_logged
        now = time.perf_counter()
        if now - last_logged < LOG_INTERVAL_SECONDS or not processed:
            return
        last_logged = now
        rate = processed / (now - started)
        log.info(
            "filling the cache: %s of %s images  %s images/s  %s  %s left",
            f"{processed:,}",
            f"{total:,}",
            f"{rate:,.0f}",
            format_bytes(used),
            format_duration((total - processed) / rate),
        )

    yield report
