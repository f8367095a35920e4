"""WebDataset: tar files ("shards") in which the members with the same key are one sample, an image and its label.

The format is that of the webdataset package (github.com/webdataset/webdataset), which is not needed. Each shard is read
once, for the position of each image; an image is then a range of bytes of a shard, read in any order.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cnnzoo.data.datasets.file_source import EXTENSIONS, ListedImages, check_column
from cnnzoo.data.datasets.labels import encode_labels
from cnnzoo.data.datasets.shards import find_shards, splits_of_shards
from cnnzoo.data.datasets.tar_index import read_tar
from cnnzoo.data.split import Split
from cnnzoo.errors import UserError


class _Image(NamedTuple):
    """An image in a tar file."""

    name: bytes
    offset: int
    size: int


Members = dict[str, _Image | bytes]
"""The images, and the contents of the labels, of a sample by their extensions; other members are b""."""


class WebDataset(ListedImages):
    """The images in tar files, each with a label in a `.cls` file, or in a `.json` file with the same key.

    root: a directory with tar files, or the path of one, which may have braces and wildcards; see `find_shards`. Their
        names, or those of their folders, may have the split, as in "train-000.tar". Missing splits are taken from
        train, as in `ImageFolder`.
    image_column: the extension of the images, such as "jpg", if the samples have several images. None: the only image
        of a sample, beside which it may have NumPy files.
    label_column: the field of a `.json` file that has the label: a name or a number of a class, or a list of them for a
        multi-label set. A `.cls` file has just a name or a number.

    Constructing it reads the index of each tar file and all labels. Raises UserError that names the tar file and the
    sample for what is damaged or incomplete.
    """

    name = "webdataset"

    def __init__(
        self,
        root: str | None = None,
        split_seed: int = 0,
        *,
        image_column: str | None = None,
        label_column: str = "label",
    ) -> None:
        directory, shards = find_shards(root, ".tar", self.name)
        split_of_shard = splits_of_shards(directory, shards, ".tar")
        entries: list[tuple[int, int, int]] = []  # shard, offset, size
        names: list[bytes] = []
        values: list[Any] = []
        for number, shard in enumerate(shards):
            for place, members in _samples(shard, str(shard.relative_to(directory))):
                image = _choose_image(place, members, image_column)
                entries.append((number, image.offset, image.size))
                names.append(image.name)
                values.append(_read_label(place, members, label_column))
        if not entries:
            raise UserError(f"data.root={root}: no images in these {len(shards)} tar files")
        table = np.array(entries, np.int64)
        reader = ShardReader(
            tuple(map(str, shards)), [str(shard.relative_to(directory)) for shard in shards], table, np.array(names)
        )
        labels, classes = encode_labels(values, reader.name)
        images = Split(labels, reader=reader, rows=np.arange(len(table)))
        self._set_splits(
            images, classes, split_of_shard[table[:, 0]], where=str(root), place=reader.name, split_seed=split_seed
        )


class ShardReader:
    """Reads the images in tar files; see `ImageReader`.

    entries: int64 (N, 3): the number of the file, the offset and the size of each image.
    """

    def __init__(
        self,
        files: tuple[str, ...],
        file_names: list[str],
        entries: npt.NDArray[np.int64],
        names: npt.NDArray[np.bytes_],
    ) -> None:
        self.files, self.file_names, self.entries, self.names = files, file_names, entries, names

    def read(self, row: int) -> bytes:
        number, offset, size = self.entries[row].tolist()
        with open(self.files[number], "rb", buffering=0) as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise ValueError("the tar file has become shorter")
        return data

    def name(self, row: int) -> str:
        return f"{self.file_names[self.entries[row, 0]]}: {os.fsdecode(self.names[row])}"

    def positions(self) -> bytes:
        return "\n".join(self.files).encode("utf-8", "surrogateescape") + self.entries.tobytes()


def _samples(shard: Path, shard_name: str) -> Iterator[tuple[str, Members]]:
    """(place, members) of each sample of a tar file: successive members whose names are equal up to the first dot."""
    key, members = b"", Members()
    for name, offset, content in read_tar(shard):
        directory, _, base = name.rpartition(b"/")
        if base.startswith(b".") or directory.startswith(b"__MACOSX"):
            continue
        stem, _, extension = base.partition(b".")
        member_key = directory + b"/" + stem
        if member_key != key and members:
            yield f"{shard_name}: {_text(key)}", members
            members = Members()
        key, kind = member_key, _text(extension).lower()
        if f".{kind}".endswith(EXTENSIONS):
            members[kind] = _Image(name, offset, len(content))
        else:
            members[kind] = bytes(content) if kind in ("cls", "json") else b""
    if members:
        yield f"{shard_name}: {_text(key)}", members


def _choose_image(place: str, members: Members, extension: str | None) -> _Image:
    images = {kind: member for kind, member in members.items() if isinstance(member, _Image)}
    if extension is not None:
        images = {kind: image for kind, image in images.items() if kind == extension.lower().lstrip(".")}
    elif len(images) > 1:
        images = {kind: image for kind, image in images.items() if not kind.endswith("npy")}
    if len(images) == 1:
        return next(iter(images.values()))
    if images:
        raise UserError(
            f"{place}: several images in this sample ({_found(members)}); type data.image_column={min(images)}"
        )
    expected = "an image" if extension is None else f"data.image_column={extension}"
    raise UserError(f"{place}: no image in this sample ({_found(members)}); expected {expected}")


def _read_label(place: str, members: Members, label_column: str) -> Any:
    text = members.get("cls", members.get("json"))
    if not isinstance(text, bytes):
        raise UserError(f"{place}: no label in this sample ({_found(members)}); expected a .cls or .json file")
    if "cls" in members:
        return text.decode("utf-8", "replace").strip()
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise UserError(f"{place}.json: is not valid JSON ({error})") from error
    if not isinstance(fields, dict):
        raise UserError(f"{place}.json: expected an object with the field {label_column}")
    return fields[check_column("data.label_column", label_column, list(fields), f"{place}.json")]


def _found(members: Members) -> str:
    return f"found {', '.join(f'.{kind}' for kind in members)}"


def _text(name: bytes) -> str:
    return os.fsdecode(name).removeprefix("/")
