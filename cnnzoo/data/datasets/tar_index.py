"""The positions of the files in a tar file. Python's tarfile takes ten times as long, minutes for a million images."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from cnnzoo.errors import UserError

BLOCK = 512  # bytes: the size of a header, and the unit that contents are padded to
REGULAR_FILES = (b"0", b"\0", b"7")
LONG_NAME, PAX_HEADER, PAX_GLOBAL = b"L", b"x", b"g"  # kinds of members that describe the next one, or all


def read_tar(path: Path) -> Iterator[tuple[bytes, int, memoryview]]:
    """(name, offset, content) of each regular file in an uncompressed tar file, in the formats ustar, pax and GNU.

    A content is valid until the next one is requested. Raises UserError if the file is no tar file or is cut off.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as tar:
            yield from _read_members(path, tar)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # an empty file cannot be mapped
        raise UserError(f"{path}: is not an uncompressed tar file ({error})") from error


def _read_members(path: Path, tar: mmap.mmap) -> Iterator[tuple[bytes, int, memoryview]]:
    offset, described = 0, dict[bytes, bytes]()  # what the members before say about the next regular file
    while True:
        header = tar[offset : offset + BLOCK]
        if len(header) < BLOCK:
            raise UserError(f"{path}: is cut off after {offset:,} bytes; copy or download it again")
        if not header.strip(b"\0"):  # the end
            return
        if header[257:262] != b"ustar":
            raise ValueError(f"no header at byte {offset:,}")
        kind, size, start = header[156:157], _number(header[124:136]), offset + BLOCK
        if kind in REGULAR_FILES:
            size = int(described.get(b"size", size))
        offset = start + -(-size // BLOCK) * BLOCK
        if start + size > len(tar):
            raise UserError(f"{path}: is cut off within {os.fsdecode(_name(header))}; copy or download it again")
        if kind in REGULAR_FILES:
            with memoryview(tar) as view, view[start : start + size] as content:
                yield described.get(b"path") or _name(header), start, content
        if kind == LONG_NAME:
            described[b"path"] = tar[start : start + size].rstrip(b"\0")
        elif kind == PAX_HEADER:
            described |= _pax_records(tar[start : start + size])
        elif kind != PAX_GLOBAL:
            described = {}


def _name(header: bytes) -> bytes:
    name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _number(field: bytes) -> int:
    """A number in octal digits or, if it is too large for them, in binary."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """The records of a pax header: "<length of the record> <key>=<value>" and a line break."""
    records = {}
    while data:
        length, _, rest = data.partition(b" ")
        key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        records[key] = value
        data = data[int(length) :]
    return records
