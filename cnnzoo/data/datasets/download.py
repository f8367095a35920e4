"""Download a published data set: once per directory, by one process, complete or not at all."""

import hashlib
import logging
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Protocol

from cnnzoo.errors import UserError

DOWNLOAD_TIMEOUT_SECONDS = 30  # a download fails after this long without a byte
MAX_REASON = 60  # characters of a library's error in ours

log = logging.getLogger(__name__)


class Downloadable(Protocol):
    """A data set that can be downloaded. All its paths are relative to a root directory."""

    name: str
    folder: str  # the folder that the archives unpack to
    megabytes: int  # size of the download

    def is_present(self, root: Path) -> bool:
        """Whether the data set is below `root`. Does not read the files."""
        ...

    def archives(self) -> tuple[str, dict[str, str]]:
        """The URL of the data set, and the MD5 of each archive file by its path."""
        ...

    def download(self, root: Path) -> None:
        """Download, verify and unpack the missing archives into `root`.

        Raises OSError, RuntimeError or HTTPException if that fails.
        """
        ...


def default_root() -> Path:
    """Where data sets are if data.root is not set: $CNNZOO_DATA, else cnnzoo in the user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("CNNZOO_DATA") or os.path.join(cache, "cnnzoo")).expanduser().absolute()


def ensure_downloaded(dataset: Downloadable, root: str | None) -> Path:
    """Download the data set if it is missing, and return the directory that contains its folder.

    `root` (None: `default_root`) is that directory or the data set's own folder. Existing files are used as they are
    and never changed. A missing set is downloaded by one process while the others wait. It is unpacked next to its
    final location and then moved there. An archive that is already where torchvision would put it is unpacked instead
    of downloaded. Raises UserError, with the steps to do it by hand, if the download fails.
    """
    target = Path(str(root)).expanduser().absolute() if root else default_root()
    if target.name == dataset.folder and dataset.is_present(target.parent):
        return target.parent
    if dataset.is_present(target):
        return target
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if target.is_file() else error.strerror
        raise UserError(
            f"data={dataset.name}: the directory {target} cannot be created: {reason}; type data.root=<another one>"
        ) from error
    try:
        with _download_lock(dataset, target):
            if not dataset.is_present(target):  # another process may have downloaded it meanwhile
                _download(dataset, target)
    except (OSError, RuntimeError, HTTPException) as error:
        url, archives = dataset.archives()
        files = url
        if len(archives) > 1:
            log.info("%s: %s", url, ", ".join(Path(archive).name for archive in archives))  # too long for the error
            files = f"these {len(archives)} files of {url}"
        raise UserError(
            f"data={dataset.name}: the download failed ({_reason(error)}); put {files} into "
            f"{(target / next(iter(archives))).parent}, or type data.root=<directory with {dataset.folder}/>"
        ) from error
    return target


def has_md5(file: Path, md5: str) -> bool:
    """Whether `file` exists and has this MD5."""
    if not file.is_file():
        return False
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as blocks:
        while block := blocks.read(2**20):
            digest.update(block)
    return digest.hexdigest() == md5


def _reason(error: Exception) -> str:
    """The last line of the error, which is that of the last mirror, without urllib's brackets."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^<urlopen error (?:\[Errno -?\d+\] )?(.*)>$", r"\1", lines[-1])[:MAX_REASON]


@contextmanager
def _download_lock(dataset: Downloadable, root: Path) -> Iterator[None]:
    """Hold the data set's lock in `root`. The operating system releases it if the process dies."""
    from filelock import FileLock, Timeout  # here because its import takes 30 ms, and most runs download nothing

    lock = FileLock(root / f".{dataset.folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("%s: waiting for another process to download it to %s", dataset.name, root)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _download(dataset: Downloadable, root: Path) -> None:
    stage = root / f".{dataset.folder}.part"
    shutil.rmtree(stage, ignore_errors=True)  # left by a process that was killed
    url, archives = dataset.archives()
    default_timeout = socket.getdefaulttimeout()
    try:
        missing = [
            archive for archive, md5 in archives.items() if not _reuse_archive(root / archive, md5, stage / archive)
        ]
        if missing:
            log.info(
                "%s: not found in %s; downloading %s MB from %s", dataset.name, root, f"{dataset.megabytes:,}", url
            )
        else:
            log.info("%s: unpacking the archives in %s", dataset.name, root)
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
        dataset.download(stage)
        for archive in archives:
            (stage / archive).unlink(missing_ok=True)
        _move_into_place(stage / dataset.folder, root / dataset.folder)
    finally:
        socket.setdefaulttimeout(default_timeout)
        shutil.rmtree(stage, ignore_errors=True)


def _reuse_archive(archive: Path, md5: str, target: Path) -> bool:
    """Link or copy an existing `archive` to `target`; False if there is none. Raises UserError if it is damaged."""
    if not archive.exists():
        return False
    if not has_md5(archive, md5):
        raise UserError(f"{archive}: damaged, expected MD5 {md5}; delete it and run again")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(archive, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(archive, target)
    return True


def _move_into_place(unpacked: Path, target: Path) -> None:
    if not target.exists():
        os.rename(unpacked, target)  # atomic
        return
    for file in sorted(unpacked.rglob("*")):  # some files exist: `is_present` is true only after the last one
        if file.is_file():
            moved = target / file.relative_to(unpacked)
            moved.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, moved)
