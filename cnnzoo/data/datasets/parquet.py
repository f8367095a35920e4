"""Parquet files with the bytes and the label of an image in each row, as Hugging Face writes them. Needs pyarrow."""

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnzoo.data.datasets.file_source import check_column
from cnnzoo.data.datasets.shards import find_shards, splits_of_shards
from cnnzoo.data.datasets.tables import NO_IMAGE, TableImages, find_image_column, join_columns
from cnnzoo.errors import UserError
from cnnzoo.runtime.formatting import format_bytes

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

OPEN_GROUPS = 2  # row groups in memory: the threads that fill a cache read in at most two at a time
LARGE_GROUP_BYTES = 512 * 2**20  # of a row group that is worth a warning

log = logging.getLogger(__name__)


class ParquetFiles(TableImages):
    """The images in the rows of Parquet files.

    root: a directory with Parquet files, or the path of one, which may have braces and wildcards; see `find_shards`.
        Their names, or those of their folders, may have the split, as in "train-00000-of-00002.parquet". Missing splits
        are taken from train, as in `ImageFolder`.
    image_column: the column with the bytes of the image files; None: the only one that has binary values.
    label_column: the column with the class of each image: a name, a number, or a list of them for a multi-label set.
        The names of the classes are those of Hugging Face's ClassLabel if the files have it.
    label_columns, label_separator: see `CSVFile`.

    Constructing it reads the schema of each file and all labels. Raises UserError that names the file, and the row from
    0, and if pyarrow is missing.
    """

    name = "parquet"

    def __init__(
        self,
        root: str | None = None,
        split_seed: int = 0,
        *,
        image_column: str | None = None,
        label_column: str = "label",
        label_columns: Sequence[str] | None = None,
        label_separator: str | None = None,
    ) -> None:
        directory, paths = find_shards(root, ".parquet", self.name)
        split_of_file = splits_of_shards(directory, paths, ".parquet")
        files = [_open(path) for path in paths]
        columns = [
            find_image_column(file.schema_arrow, image_column, str(path))
            for file, path in zip(files, paths, strict=True)
        ]
        names = [str(path.relative_to(directory)) for path in paths]
        reader = ParquetReader(paths, names, columns, [file.metadata for file in files])

        def read_column(column: str) -> "pa.ChunkedArray":
            for file, path in zip(files, paths, strict=True):
                check_column("data.label_column", column, file.schema_arrow.names, str(path))
            return join_columns([file.read(columns=[column]).column(0) for file in files], names)

        self._set_tables(
            files[0].schema_arrow,
            read_column,
            reader,
            np.repeat(split_of_file, [file.metadata.num_rows for file in files]),
            where=str(paths[0]),
            split_seed=split_seed,
            label_column=label_column,
            label_columns=label_columns,
            label_separator=label_separator,
        )


class ParquetReader:
    """Reads the images in Parquet files; see `ImageReader`.

    A row can only be read with its row group, so the last row groups stay in memory. Reading rows in their order reads
    each row group once; in random order, nearly each image costs the reading of a row group.

    names: of the files, for messages.
    columns: the column with the images in each file.
    metadata: pyarrow's, of each file.
    """

    _open_groups: "_OpenGroups | None" = None

    def __init__(
        self,
        paths: Sequence[Path],
        names: Sequence[str],
        columns: Sequence[str],
        metadata: Sequence["pq.FileMetaData"],
    ) -> None:
        self.files = tuple(map(str, paths))
        self.names, self.columns = tuple(names), tuple(columns)
        groups = [(file, group) for file, data in enumerate(metadata) for group in range(data.num_row_groups)]
        sizes = [metadata[file].row_group(group) for file, group in groups]
        self.groups = np.array(groups, np.int64).reshape(-1, 2)  # the file and the number in it of each row group
        self.group_starts = np.cumsum([0, *(size.num_rows for size in sizes)])
        self.file_starts = np.cumsum([0, *(data.num_rows for data in metadata)])
        largest = max((size.total_byte_size for size in sizes), default=0)
        if largest > LARGE_GROUP_BYTES:
            log.warning(
                "parquet: row groups of %s are slow to read and need as much memory in each worker; files written with "
                "row_group_size=100 do not",
                format_bytes(largest),
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open_groups": None}

    def read(self, row: int) -> bytes:
        number = int(np.searchsorted(self.group_starts, row, side="right")) - 1
        open_groups = self._open_groups
        if open_groups is None or open_groups.process != os.getpid():  # a lock may be held when a worker is forked
            open_groups = self._open_groups = _OpenGroups()
        value = open_groups.get(self, number)[row - int(self.group_starts[number])]
        if not value.is_valid:
            raise ValueError(NO_IMAGE)
        return bytes(value.as_py())

    def name(self, row: int) -> str:
        file = int(np.searchsorted(self.file_starts, row, side="right")) - 1
        return f"{self.names[file]}: row {row - self.file_starts[file]}"

    def positions(self) -> bytes:
        return "\n".join(self.files).encode("utf-8", "surrogateescape")

    def read_group(self, number: int) -> "pa.ChunkedArray":
        """The bytes of the images in a row group."""
        import pyarrow as pa
        from pyarrow import compute

        file, group = self.groups[number].tolist()
        parquet = _open(Path(self.files[file]))
        column = self.columns[file]
        is_struct = pa.types.is_struct(parquet.schema_arrow.field(column).type)
        columns = [f"{column}.bytes" if is_struct else column]
        values = parquet.read_row_group(group, columns=columns, use_threads=False).column(0)
        return compute.struct_field(values, "bytes") if is_struct else values


class _OpenGroups:
    """The row groups that were used last, for all threads of one process."""

    def __init__(self) -> None:
        self.process, self.lock = os.getpid(), threading.Lock()
        self.groups: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    def get(self, reader: ParquetReader, number: int) -> "pa.ChunkedArray":
        with self.lock:
            if number not in self.groups:
                while len(self.groups) >= OPEN_GROUPS:
                    self.groups.popitem(last=False)
                self.groups[number] = reader.read_group(number)
            self.groups.move_to_end(number)
            return self.groups[number]


def _open(path: Path) -> "pq.ParquetFile":
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError('data=parquet: pyarrow is not installed; type pip install "cnnzoo[parquet]"') from error
    try:
        return pq.ParquetFile(path, memory_map=True)
    except pa.ArrowException as error:
        raise UserError(f"{path}: is not a complete Parquet file ({' '.join(str(error).split())[:120]})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
