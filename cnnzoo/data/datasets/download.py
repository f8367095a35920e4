"""Getting a published data set onto the disk: once per directory, by one process, whole or not at all."""

import hashlib
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from cnnzoo.errors import UserError

DOWNLOAD_TIMEOUT_SECONDS = 30  # seconds without a byte after which a download has failed

log = logging.getLogger(__name__)


class Downloadable(Protocol):
    """A data set that can be downloaded. All paths are below the root, a directory."""

    name: str
    folder: str  # what is unpacked there
    megabytes: int  # to download

    def there(self, root: Path) -> bool:
        """Whether the set lies below `root`, without reading it."""
        ...

    def archives(self) -> tuple[str, dict[str, str]]:
        """Where it is published, and the MD5 of each archive file by its path."""
        ...

    def download(self, into: Path) -> None:
        """Download what is not `into` yet, verify and unpack it; OSError, RuntimeError or HTTPException if it fails."""
        ...


def default_root() -> Path:
    """Where data sets lie when nobody typed a root: $CNNZOO_DATA, else cnnzoo in the user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("CNNZOO_DATA") or os.path.join(cache, "cnnzoo")).expanduser().absolute()


def ensure_downloaded(published: Downloadable, root: str | None) -> Path:
    """The directory below which the data set lies: `root` (None: `default_root`), or its parent for a typed `folder`.

    What is there is used as it is and never written to. What is not is downloaded, by one of the processes that ask for
    it while the others wait, next to its final place and then moved there; an archive that already lies where
    torchvision would put it is unpacked instead. Raises UserError, which says how to do it by hand, where that fails.
    """
    place = Path(root).expanduser().absolute() if root else default_root()
    if place.name == published.folder and published.there(place.parent):
        return place.parent
    if published.there(place):
        return place
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _download_lock(published, place):
            if not published.there(place):  # another process may have been quicker
                _download(published, place)
    except (OSError, RuntimeError, HTTPException) as error:
        url, archives = published.archives()
        files = [place / archive for archive in archives]
        names = ", ".join(file.name for file in files)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"data={published.name}: it is not in {place}, and downloading it from {url} failed: {reason}; "
            f"put {names} into {files[0].parent} by hand, or type data.root=<directory that holds {published.folder}>"
        ) from error
    return place


def has_md5(file: Path, md5: str) -> bool:
    """Whether `file` is there and has this MD5."""
    if not file.is_file():
        return False
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as blocks:
        while block := blocks.read(2**20):
            digest.update(block)
    return digest.hexdigest() == md5


@contextmanager
def _download_lock(published: Downloadable, place: Path) -> Iterator[None]:
    """Hold the lock on the set in `place`. The system lets go of it when its holder dies, however that happens."""
    lock = FileLock(place / f".{published.folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("%s: waiting for another process, which downloads it to %s", published.name, place)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _download(published: Downloadable, place: Path) -> None:
    stage = place / f".{published.folder}.part"
    shutil.rmtree(stage, ignore_errors=True)  # what a killed process left behind
    url, archives = published.archives()
    patience = socket.getdefaulttimeout()
    try:
        missing = [
            archive for archive, md5 in archives.items() if not _reuse_archive(place / archive, md5, stage / archive)
        ]
        if missing:
            megabytes = f"{published.megabytes:,} MB"
            log.info("%s is not in %s: downloading %s there from %s", published.name, place, megabytes, url)
        else:
            log.info("%s: unpacking what lies in %s", published.name, place)
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
        published.download(stage)
        for archive in archives:
            (stage / archive).unlink(missing_ok=True)
        _move_into_place(stage / published.folder, place / published.folder)
    finally:
        socket.setdefaulttimeout(patience)
        shutil.rmtree(stage, ignore_errors=True)


def _reuse_archive(archive: Path, md5: str, to: Path) -> bool:
    """Put `archive`, if there is one, where the download will find it. Raises UserError for a damaged one."""
    if not archive.exists():
        return False
    if not has_md5(archive, md5):
        raise UserError(f"{archive}: damaged, its MD5 is not {md5}; delete it and run again")
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(archive, to)
    except OSError:  # a file system without hard links
        shutil.copyfile(archive, to)
    return True


def _move_into_place(unpacked: Path, target: Path) -> None:
    if not target.exists():
        os.rename(unpacked, target)  # all at once
        return
    for file in sorted(unpacked.rglob("*")):  # a part of it was there: the set counts as there with its last file
        if file.is_file():
            to = target / file.relative_to(unpacked)
            to.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, to)
