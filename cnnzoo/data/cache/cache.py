"""The cache's settings, and filling it: in one process, from an earlier run's file, or once per machine."""

import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import distributed

from cnnzoo.checks import check_choice, check_int, check_number
from cnnzoo.data.cache import available_memory
from cnnzoo.data.cache.fill import CacheFiller, Progress, downscaled_size
from cnnzoo.data.cache.shared_memory import ImageStore
from cnnzoo.data.ranks import Ranks
from cnnzoo.data.split import Split
from cnnzoo.data.transforms.decode import check_header, error_reason
from cnnzoo.data.transforms.pixel_format import format_text, is_plain
from cnnzoo.errors import UserError
from cnnzoo.runtime.files import write_json
from cnnzoo.runtime.formatting import format_bytes

MODES = ("none", "encoded", "decoded", "auto")
SAMPLED_HEADERS = 64  # files whose headers give the estimate of the decoded size
STAT_THREADS = 16  # threads that call os.stat on the files
POLL_SECONDS = 5.0  # time between two messages from the rank that fills the cache
FILE_PREFIX = "cnnzoo-cache"  # name of a persisted cache, followed by its fingerprint
FORMAT_VERSION = 3  # of a persisted cache; files of other versions have other names and are not read

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cache:
    """Which images to keep in RAM. It applies to image files; data sets that are in memory anyway ignore it.

    mode: "none" reads the files in every epoch, "encoded" keeps the files' bytes, "decoded" keeps the pixels. "auto" is
        "decoded" if that fits the budget, else "encoded".
    budget: the fraction of the available memory (within the container's limit) that the cache may use, above 0 and at
        most 1. Images that do not fit are read from their files in every epoch.
    resize: the shorter side of the cached images in pixels. Images are never enlarged; encoded ones become JPEGs of
        quality 90. None keeps the original size. It changes what the network sees.
    persist: a directory to write the filled cache to. Later runs map it instead of filling it again. None: the cache
        exists only during the run.

    Raises UserError for values out of range.
    """

    mode: Literal["none", "encoded", "decoded", "auto"] = "auto"
    budget: float = 0.5
    resize: int | None = None
    persist: str | None = None

    def __post_init__(self) -> None:
        check_choice("data.cache.mode", self.mode, MODES)
        check_number("data.cache.budget", self.budget, above=0, maximum=1, note="(a fraction of the available memory)")
        if self.resize is not None:
            check_int("data.cache.resize", self.resize, minimum=1, note="(the shorter side in pixels), or null")
        if self.persist is not None and not isinstance(self.persist, str | os.PathLike):
            raise UserError(f"data.cache.persist={self.persist}: expected the path of a directory, or null")
        for key in ("resize", "persist"):
            if self.mode == "none" and getattr(self, key) is not None:
                raise UserError(
                    f"data.cache.{key}={getattr(self, key)}: has no effect with data.cache.mode=none; type another "
                    f"data.cache.mode, or leave data.cache.{key} out"
                )

    def resolve(self, splits: Mapping[str, Split], channels: int, bits: int = 8) -> "Cache":
        """Return this cache with the mode that `fill` chooses for the splits instead of "auto".

        Raises UserError if the images would be cached as JPEGs, which cannot have these channels or bits.
        """
        if not splits or (self.mode != "auto" and self.resize is None):
            return self
        makes_jpegs = self.resize is not None and not is_plain(channels, bits)
        if makes_jpegs and self.mode == "encoded":
            raise UserError(
                f"data.cache.mode=encoded: JPEGs of data.cache.resize={self.resize} cannot have "
                f"{format_text(channels, bits)}; type data.cache.mode=decoded, or leave data.cache.resize out"
            )
        if self.mode != "auto":
            return self
        fits = makes_jpegs or self._decoded_bytes(splits, channels, bits) < self._max_bytes()
        return replace(self, mode="decoded" if fits else "encoded")

    def fill(
        self,
        splits: Mapping[str, Split],
        *,
        channels: int,
        bits: int = 8,
        on_bad_file: str,
        verify_jpegs: bool = False,
        progress: Progress | None = None,
    ) -> dict[str, ImageStore]:
        """Cache the images of `splits`, all of which are files; returns one store per split (mode "none": no stores).

        The header, size and end of every file are checked; mode "decoded" decodes it completely, and `verify_jpegs`
        reads JPEGs completely in mode "encoded". Each bad file is logged with the reason. Then `on_bad_file="error"`
        raises UserError, and "skip" leaves the bad files out. `channels` and `bits` are those of the images.
        """
        if self.mode == "none" or not splits:
            return {}
        decode = self.resolve(splits, channels, bits).mode == "decoded"
        max_bytes = self._max_bytes()

        def filler(path: Path | None = None) -> CacheFiller:
            return CacheFiller(
                splits,
                max_bytes=max_bytes,
                channels=channels,
                bits=bits,
                decode=decode,
                shorter_side=self.resize,
                verify_jpegs=verify_jpegs,
                path=path,
                progress=progress,
            )

        if self.persist is None:
            return filler().run(on_bad_file)
        stored_channels = channels if decode else None
        path = self._persisted_path(splits, stored_channels, bits)
        stores = _load_persisted(path, splits, stored_channels, bits)
        if stores:
            log.info("cache: mapped %s, %s, filled by an earlier run", path, format_bytes(path.stat().st_size))
            return stores
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            stores = filler(unfinished).run(on_bad_file)
            _finish_persisted(stores, unfinished, path)
        except OSError as error:
            raise UserError(f"data.cache.persist={self.persist}: {error_reason(error)}") from error
        finally:
            unfinished.unlink(missing_ok=True)
        return _load_persisted(path, splits, stored_channels, bits)

    def _max_bytes(self) -> int:
        return int(available_memory.available_bytes() * self.budget)

    def _decoded_bytes(self, splits: Mapping[str, Split], channels: int, bits: int) -> float:
        """Estimate the size of all decoded images from the headers of some files."""
        total = 0.0
        for split in splits.values():
            pixels: list[int] = []
            for index in np.linspace(0, len(split) - 1, min(SAMPLED_HEADERS, len(split))).astype(int):
                try:
                    size = check_header(split.read(index), channels, bits)
                    pixels.append(math.prod(downscaled_size(*size, self.resize)))
                except Exception:  # bad files are reported when the cache is filled
                    continue
            total += len(split) * channels * bits // 8 * float(np.mean(pixels or [0]))
        return total

    def _persisted_path(self, splits: Mapping[str, Split], channels: int | None, bits: int) -> Path:
        """The persisted cache's file, named by a hash of the files' paths, sizes and times, and of the settings."""
        settings = (FORMAT_VERSION, self.resize, channels, *([bits] if bits != 8 else []))
        digest = hashlib.blake2b(repr(settings).encode(), digest_size=10)
        for name, split in sorted(splits.items()):
            for part in (name.encode(), split.positions(), _file_stats(split).tobytes()):
                digest.update(part)
        folder = Path(str(self.persist)).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"data.cache.persist={self.persist}: {error_reason(error)}") from error
        return folder / f"{FILE_PREFIX}-{digest.hexdigest()}"


def fill_once_per_machine(
    cache: Cache,
    splits: Mapping[str, Split],
    *,
    channels: int,
    bits: int = 8,
    on_bad_file: str,
    verify_jpegs: bool = False,
    ranks: Any = Ranks(),  # noqa: B008 - a frozen dataclass
    progress: Progress | None = None,
) -> dict[str, ImageStore]:
    """Call `cache.fill` on local rank 0 of each machine; its other ranks map the filled memory.

    ranks: a `Ranks`, or Lightning's trainer, whose attributes have the same names.

    If one machine fails, the UserError is raised on all ranks.
    """

    def fill() -> dict[str, ImageStore]:
        return cache.fill(
            splits,
            channels=channels,
            bits=bits,
            on_bad_file=on_bad_file,
            verify_jpegs=verify_jpegs,
            progress=progress,
        )

    if ranks.world_size == 1 or cache.mode == "none" or not splits:
        return fill()
    stores: dict[str, ImageStore] = {}
    with ThreadPoolExecutor(1) as pool:
        filling = pool.submit(fill) if ranks.local_rank == 0 else None
        while True:  # poll: one collective that waits for the filling would exceed its timeout
            status: Any = None  # None while filling, then a str (the error) or a dict (the stores' locations)
            if filling is not None:
                wait([filling], POLL_SECONDS)
                if filling.done() and filling.exception() is not None:
                    status = f"{filling.exception()}"
                elif filling.done():
                    stores = filling.result()
                    status = {name: store.location for name, store in stores.items()}
            gathered: list[Any] = [None] * ranks.world_size
            distributed.all_gather_object(gathered, (ranks.node_rank, ranks.local_rank, status))
            by_node = {node_rank: status for node_rank, local_rank, status in gathered if local_rank == 0}
            errors = [status for status in by_node.values() if isinstance(status, str)]
            if errors:
                raise UserError(errors[0])
            if None not in by_node.values():
                break
    return stores or {name: ImageStore(*location) for name, location in by_node[ranks.node_rank].items()}


def _finish_persisted(stores: Mapping[str, ImageStore], unfinished: Path, path: Path) -> None:
    """Move a filled file to `path` and write its metadata beside it. Without the metadata, the file is not used."""
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    metadata = {
        "bytes": unfinished.stat().st_size,
        "begins": {name: store.location[1] for name, store in stores.items()},
    }
    os.replace(unfinished, path)
    write_json(path.with_suffix(".json"), metadata)


def _load_persisted(path: Path, splits: Mapping[str, Split], channels: int | None, bits: int) -> dict[str, ImageStore]:
    """The stores in a persisted cache; an empty dict if there is none or if it is truncated."""
    try:
        metadata = json.loads(path.with_suffix(".json").read_text())
        size = path.stat().st_size
    except (OSError, ValueError):
        return {}
    if size != metadata["bytes"]:
        log.warning("cache: %s is truncated (%s of %s bytes) and will be filled again", path, size, metadata["bytes"])
        return {}
    offsets = metadata["begins"]
    return {name: ImageStore(str(path), offsets[name], len(split), channels, bits) for name, split in splits.items()}


def _file_stats(split: Split) -> npt.NDArray[np.int64]:
    """(files, 2): the size in bytes and the modification time in nanoseconds of each; 0 and 0 for a missing file."""

    def stat(path: str) -> tuple[int, int]:
        try:
            result = os.stat(path)
        except OSError:
            return 0, 0
        return result.st_size, result.st_mtime_ns

    with ThreadPoolExecutor(STAT_THREADS) as pool:
        return np.array(list(pool.map(stat, split.files(), chunksize=256)), np.int64).reshape(-1, 2)
