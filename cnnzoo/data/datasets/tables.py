"""Tables of Arrow, as Hugging Face's data sets and Parquet files have them: their columns of images and of labels.

pyarrow is imported only when such a data set is used.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cnnzoo.data.datasets.file_source import ListedImages, check_column, quoted_names
from cnnzoo.data.datasets.labels import Place, check_label_columns, encode_labels, multi_hot_from_columns
from cnnzoo.data.split import ImageReader, Split
from cnnzoo.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

NO_IMAGE = "no image in this row"


class TableImages(ListedImages):
    """Base of the sources whose images are rows of tables. Subclasses call `_set_tables`."""

    def _set_tables(
        self,
        schema: "pa.Schema",
        read_column: Callable[[str], "pa.ChunkedArray"],
        reader: ImageReader,
        split_of_row: npt.NDArray[np.int8],
        *,
        where: str,
        split_seed: int,
        label_column: str,
        label_columns: Sequence[str] | None,
        label_separator: str | None,
    ) -> None:
        """Set the classes and the splits from the labels; see `ListedImages`.

        schema: of all tables.
        read_column: gives a column of all tables, one after the other, by its name.
        where: the first table, for messages.
        label_column, label_columns, label_separator: see `CSVFile`.

        Raises UserError for missing columns and for labels of another kind.
        """
        if not len(split_of_row):
            raise UserError(f"{where}: has no rows")
        classes: Sequence[str] | None = None
        if label_columns is not None:
            label_columns = check_label_columns(label_columns, label_separator)
            for name in label_columns:
                check_column("data.label_columns", name, schema.names, where)
            columns = {name: read_column(name).to_pylist() for name in label_columns}
            labels, class_names = multi_hot_from_columns(columns, reader.name)
        else:
            check_column("data.label_column", label_column, schema.names, where)
            classes = _class_names(schema, label_column)
            values = _label_values(read_column(label_column), reader.name, label_column)
            labels, class_names = encode_labels(values, reader.name, separator=label_separator, classes=classes)
        self._set_splits(
            Split(labels, reader=reader, rows=np.arange(len(labels))),
            class_names,
            split_of_row,
            where=where,
            place=reader.name,
            split_seed=split_seed,
            fixed_classes=classes is not None,
        )


def find_image_column(schema: "pa.Schema", column: str | None, where: str) -> str:
    """The name of the column with the images: `column`, or else the only one that can be it.

    An image is the bytes of a file: binary, or a struct with the field `bytes`, as Hugging Face stores it. Raises
    UserError if there is no such column, or if there are several.
    """
    if column is not None:
        check_column("data.image_column", column, schema.names, where)
        if not _is_image(schema.field(column).type):
            raise UserError(
                f"data.image_column={column}: {where} has {schema.field(column).type} in this column, expected the "
                "bytes of image files"
            )
        return column
    found = [field.name for field in schema if _is_image(field.type)]
    if not found:
        columns = ", ".join(f"{field.name}: {field.type}" for field in schema)[:100]
        raise UserError(f"{where}: no column has images, which are binary or a struct with 'bytes' (it has {columns})")
    if len(found) > 1:
        raise UserError(f"{where}: the columns {quoted_names(found)} have images; type data.image_column={found[0]}")
    return found[0]


def join_columns(columns: Sequence["pa.ChunkedArray"], names: Sequence[str]) -> "pa.ChunkedArray":
    """One column with the values of all. Raises UserError if their types differ; `names` are those of the tables."""
    import pyarrow as pa

    try:
        tables = [pa.table({"column": column}) for column in columns]
        return pa.concat_tables(tables, promote_options="permissive").column(0)
    except pa.ArrowException:
        number = [column.type == columns[0].type for column in columns].index(False)
        raise UserError(
            f"{names[number]}: its labels are {columns[number].type}, those of {names[0]} {columns[0].type}; expected "
            "the same type in all files"
        ) from None


def _label_values(column: "pa.ChunkedArray", place: Place, name: str) -> npt.NDArray[Any] | list[Any]:
    """The values of a column of labels: an array of numbers, or a list of texts, lists and None."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind)
    if not (is_list or is_number or is_text):
        raise UserError(f"{place(0)}: column {name} has {kind}, expected names or numbers of classes")
    if is_number and not column.null_count:
        return np.asarray(column.to_numpy())
    return list(column.to_pylist())


def _class_names(schema: "pa.Schema", column: str) -> tuple[str, ...] | None:
    """The names of the classes that Hugging Face's metadata has for a column (ClassLabel, or lists of it), or None."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
    except (KeyError, ValueError, TypeError):
        return None
    if isinstance(feature, Mapping):
        feature = feature.get("feature", feature)
    elif isinstance(feature, list) and len(feature) == 1:  # a list in the first versions of the format
        feature = feature[0]
    names = feature.get("names") if isinstance(feature, Mapping) else None
    return None if not names else tuple(map(str, names))


def _is_image(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_image(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
