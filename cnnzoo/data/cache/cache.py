"""The cache: images are read once, before training, and lie in RAM from then on."""

import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import distributed

from cnnzoo.data.cache import available_memory
from cnnzoo.data.cache.fill import CacheFiller, Progress, downscaled_size
from cnnzoo.data.cache.shared_memory import ImageStore
from cnnzoo.data.split import Split
from cnnzoo.data.transforms.decode import check_header, error_reason, read_file
from cnnzoo.errors import UserError
from cnnzoo.runtime.formatting import format_bytes

MODES = ("none", "encoded", "decoded", "auto")
SAMPLED_HEADERS = 64  # files whose headers say how much memory decoded images take
STAT_THREADS = 16  # threads that ask for files' sizes
POLL_SECONDS = 5.0  # seconds
FILE_PREFIX = "cnnzoo-cache"  # followed by a fingerprint, in the directory of `persist`

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cache:
    """What is kept in RAM of image files. Sets that are in memory anyway have no use for it.

    mode: "none": files are read in every epoch; "encoded": the files' bytes; "decoded": pixels; "auto": decoded where
        that fits the budget, else encoded.
    budget: the share, above 0 and at most 1, of the available memory that the cache may take, a container's limit
        counted. What does not fit is read from its file in every epoch.
    resize: the shorter side of what is kept, in pixels, never enlarged (encoded: as JPEG of quality 90); None keeps
        the images as they are. It changes what the network sees.
    persist: a directory where the filled cache is written, and mapped by later runs; None: it goes with the run.

    Raises UserError for values that cannot be.
    """

    mode: Literal["none", "encoded", "decoded", "auto"] = "auto"
    budget: float = 0.5
    resize: int | None = None
    persist: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"data.cache.mode={self.mode}: it can be {', '.join(MODES)}")
        if isinstance(self.budget, bool) or not isinstance(self.budget, int | float) or not 0 < self.budget <= 1:
            raise UserError(f"data.cache.budget={self.budget}: a share of the available memory, above 0 and at most 1")
        if self.resize is not None and (isinstance(self.resize, bool) or not isinstance(self.resize, int)):
            raise UserError(f"data.cache.resize={self.resize}: the shorter side in pixels, or null")
        if self.resize is not None and self.resize < 1:
            raise UserError(f"data.cache.resize={self.resize}: at least 1 pixel")
        for key in ("resize", "persist"):
            if self.mode == "none" and getattr(self, key) is not None:
                raise UserError(f"data.cache.{key}={getattr(self, key)} needs a cache: data.cache.mode=none has none")

    def fill(
        self, splits: Mapping[str, Split], *, channels: int, on_bad_file: str, progress: Progress | None = None
    ) -> dict[str, ImageStore]:
        """A store for each of `splits`, which are all of files; none with mode "none".

        Every file's header, size and end are checked (decoded: all of it). Bad files are logged, each with its reason;
        `on_bad_file="error"` then raises UserError, "skip" goes on without them. `channels` is what pixels get.
        """
        if self.mode == "none" or not splits:
            return {}
        most = int(available_memory.available_bytes() * self.budget)
        decode = self.mode == "decoded" or (self.mode == "auto" and self._decoded_bytes(splits, channels) < most)
        kept = channels if decode else None
        if self.persist is None:
            return CacheFiller(splits, most=most, channels=kept, side=self.resize, progress=progress).run(on_bad_file)
        place = self._place(splits, kept)
        found = _read_persisted(place, splits, kept)
        if found:
            log.info("cache: %s, %s, mapped from an earlier run", place, format_bytes(place.stat().st_size))
            return found
        unfinished = place.with_suffix(f".{os.getpid()}.tmp")
        try:
            stores = CacheFiller(
                splits, most=most, channels=kept, side=self.resize, path=unfinished, progress=progress
            ).run(on_bad_file)
            _write_persisted(stores, unfinished, place)
        except OSError as error:
            raise UserError(f"data.cache.persist={self.persist}: {error_reason(error)}") from error
        finally:
            unfinished.unlink(missing_ok=True)
        return _read_persisted(place, splits, kept)

    def _decoded_bytes(self, splits: Mapping[str, Split], channels: int) -> float:
        """How many bytes all pixels take: an estimate, from the headers of some files."""
        total = 0.0
        for split in splits.values():
            pixels: list[int] = []
            for at in np.linspace(0, len(split) - 1, min(SAMPLED_HEADERS, len(split))).astype(int):
                try:
                    pixels.append(math.prod(downscaled_size(*check_header(read_file(split.path(at))), self.resize)))
                except Exception:  # it is named when the cache is filled
                    continue
            total += len(split) * channels * float(np.mean(pixels or [0]))
        return total

    def _place(self, splits: Mapping[str, Split], channels: int | None) -> Path:
        """The persisted cache's file, whose name tells what is in it: which files, in which state, kept how."""
        digest = hashlib.blake2b(repr((1, self.resize, channels)).encode(), digest_size=10)
        for name, split in sorted(splits.items()):
            assert split.paths is not None
            for part in (name.encode(), split.paths.tobytes(), _file_stats(split).tobytes()):
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
    on_bad_file: str,
    trainer: Any = None,
    progress: Progress | None = None,
) -> dict[str, ImageStore]:
    """`cache.fill`, by the first process of each machine; the machine's others map what it filled.

    `trainer` is Lightning's, None for a process by itself. What goes wrong on one machine is raised on all.
    """

    def fill() -> dict[str, ImageStore]:
        return cache.fill(splits, channels=channels, on_bad_file=on_bad_file, progress=progress)

    if trainer is None or trainer.world_size == 1 or cache.mode == "none" or not splits:
        return fill()
    stores: dict[str, ImageStore] = {}
    with ThreadPoolExecutor(1) as pool:
        filling = pool.submit(fill) if trainer.local_rank == 0 else None
        while True:  # in rounds, as a collective of torch's must not take longer than its time-out
            mine: Any = None
            if filling is not None:
                wait([filling], POLL_SECONDS)
                if filling.done() and filling.exception() is not None:
                    mine = f"{filling.exception()}"
                elif filling.done():
                    stores = filling.result()
                    mine = {name: store.place for name, store in stores.items()}
            said: list[Any] = [None] * trainer.world_size
            distributed.all_gather_object(said, (trainer.node_rank, trainer.local_rank, mine))
            first = {node: what for node, local, what in said if local == 0}
            wrong = [what for what in first.values() if isinstance(what, str)]
            if wrong:
                raise UserError(wrong[0])
            if None not in first.values():
                break
    return stores or {name: ImageStore(*place) for name, place in first[trainer.node_rank].items()}


def _write_persisted(stores: Mapping[str, ImageStore], unfinished: Path, place: Path) -> None:
    """Put a filled file in its place, with a note of what is in it; never half-written."""
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    note = {"bytes": unfinished.stat().st_size, "begins": {name: store.place[1] for name, store in stores.items()}}
    written = unfinished.with_suffix(".json.tmp")
    written.write_text(json.dumps(note))
    os.replace(unfinished, place)
    os.replace(written, place.with_suffix(".json"))


def _read_persisted(place: Path, splits: Mapping[str, Split], channels: int | None) -> dict[str, ImageStore]:
    """The stores that an earlier run left; none where it left none, or where they are no longer whole."""
    try:
        note = json.loads(place.with_suffix(".json").read_text())
        size = place.stat().st_size
    except (OSError, ValueError):
        return {}
    if size != note["bytes"]:
        log.warning("cache: %s is cut short (%s of %s bytes) and is made anew", place, size, note["bytes"])
        return {}
    return {name: ImageStore(str(place), note["begins"][name], len(split), channels) for name, split in splits.items()}


def _file_stats(split: Split) -> npt.NDArray[np.int64]:
    """(N, 2): size in bytes and time of change in nanoseconds of each file; 0 where there is none any more."""

    def ask(index: int) -> tuple[int, int]:
        try:
            state = os.stat(split.path(index))
        except OSError:
            return 0, 0
        return state.st_size, state.st_mtime_ns

    with ThreadPoolExecutor(STAT_THREADS) as pool:
        return np.array(list(pool.map(ask, range(len(split)), chunksize=256)), np.int64).reshape(-1, 2)
