"""Data sets of Hugging Face, from a local directory or from its hub. Needs the package datasets."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnzoo.data.datasets.file_source import SPLIT_NAMES, quoted_names
from cnnzoo.data.datasets.tables import NO_IMAGE, TableImages, find_image_column, join_columns
from cnnzoo.data.split import SPLITS
from cnnzoo.data.transforms.decode import read_file
from cnnzoo.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

UNLABELED = -1  # Hugging Face's label of images without one

log = logging.getLogger(__name__)


class HuggingFaceDataset(TableImages):
    """A data set of images of the package datasets.

    path: a directory that `save_to_disk` wrote or that `load_dataset` reads, or a name on the hub, which is downloaded
        to Hugging Face's own cache.
    subset: which of several subsets `load_dataset` loads (its argument `name`).
    image_column: the column with the images; None: the only one that has images.
    label_column, label_columns, label_separator: see `ParquetFiles`.

    Its splits train, validation (or val) and test are used, others are ignored. Missing ones are taken from train, as
    in `ImageFolder`. A split of which all labels are -1 has no labels and counts as missing. Raises UserError if the
    set cannot be loaded or the package is missing; errors name the split and the row from 0.
    """

    name = "hf"

    def __init__(
        self,
        root: str | None = None,
        split_seed: int = 0,
        *,
        path: str | None = None,
        subset: str | None = None,
        image_column: str | None = None,
        label_column: str = "label",
        label_columns: Sequence[str] | None = None,
        label_separator: str | None = None,
    ) -> None:
        if path is None or not str(path):
            raise UserError("data=hf: expected data.path=NAME of a data set on the hub, or its directory")
        if root is not None:
            raise UserError(f"data.root={root}: data=hf reads data.path; type data.path={root}")
        path = str(path)
        splits = _labeled_splits(_choose_splits(_load(path, subset), path), label_column)
        datasets = list(splits.values())
        names = [f"{path}: {name}" for name in splits]
        schema = datasets[0].features.arrow_schema
        reader = HuggingFaceReader(names, datasets, find_image_column(schema, image_column, path))
        self._set_tables(
            schema,
            lambda column: join_columns([dataset.data.column(column) for dataset in datasets], names),
            reader,
            np.repeat(
                np.array([SPLITS.index(SPLIT_NAMES[name]) for name in splits], np.int8),
                [len(set_) for set_ in datasets],
            ),
            where=path,
            split_seed=split_seed,
            label_column=label_column,
            label_columns=label_columns,
            label_separator=label_separator,
        )


class HuggingFaceReader:
    """Reads the images of data sets that are mapped into memory; see `ImageReader`.

    names: of the data sets, for messages.
    column: the column with the images.
    """

    _columns: "list[pa.ChunkedArray] | None" = None

    def __init__(self, names: Sequence[str], datasets: Sequence["Dataset"], column: str) -> None:
        self.names, self.datasets, self.column = tuple(names), tuple(datasets), column
        self.starts = np.cumsum([0, *map(len, datasets)])
        self.files = tuple(entry["filename"] for dataset in datasets for entry in dataset.cache_files)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_columns": None}  # the data sets are pickled as the names of their files

    def read(self, row: int) -> bytes:
        if self._columns is None:
            self._columns = [dataset.data.column(self.column) for dataset in self.datasets]
        number = self._number(row)
        value = self._columns[number][row - int(self.starts[number])].as_py()
        if not isinstance(value, dict):
            value = {"bytes": value}
        if value["bytes"] is not None:
            return bytes(value["bytes"])
        if value.get("path"):
            return read_file(value["path"])
        raise ValueError(NO_IMAGE)

    def name(self, row: int) -> str:
        number = self._number(row)
        return f"{self.names[number]}, row {row - self.starts[number]}"

    def positions(self) -> bytes:
        return "\n".join(self.files).encode("utf-8", "surrogateescape")

    def _number(self, row: int) -> int:
        return int(np.searchsorted(self.starts, row, side="right")) - 1


def _load(path: str, subset: str | None) -> Mapping[str, "Dataset"]:
    """All splits of a data set by their names. Raises UserError if it cannot be loaded."""
    try:
        import datasets
    except ImportError as error:
        raise UserError('data=hf: the package datasets is not installed; type pip install "cnnzoo[hf]"') from error
    directory = Path(path).expanduser()
    saved = [directory / name for name in ("dataset_dict.json", "state.json")]
    try:
        if any(file.is_file() for file in saved):
            loaded = datasets.load_from_disk(str(directory))
        elif directory.exists():
            loaded = datasets.load_dataset(str(directory), subset)
        elif path.startswith(("/", ".", "~")):
            raise UserError(f"data.path={path}: no such directory")
        else:
            loaded = datasets.load_dataset(path, subset)
    except UserError:
        raise
    except Exception as error:  # the package raises many types of exceptions
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"data.path={path}: cannot be loaded: {reason[:180]}") from error
    return {"train": loaded} if isinstance(loaded, datasets.Dataset) else dict(loaded)


def _choose_splits(loaded: Mapping[str, "Dataset"], path: str) -> dict[str, "Dataset"]:
    """The splits that are train, val or test. Raises UserError if train is missing or a split exists twice."""
    chosen = {name: dataset for name, dataset in loaded.items() if name.lower() in SPLIT_NAMES}
    others = [name for name in loaded if name not in chosen]
    if others:
        log.info("data.path=%s: the splits %s are ignored", path, quoted_names(others))
    kinds = [SPLIT_NAMES[name.lower()] for name in chosen]
    if "train" not in kinds or len(set(kinds)) < len(kinds):
        raise UserError(
            f"data.path={path}: its splits are {quoted_names(list(loaded))}; expected 'train', and optionally "
            "'validation' and 'test'"
        )
    return {name.lower(): dataset for name, dataset in chosen.items()}


def _labeled_splits(splits: Mapping[str, "Dataset"], label_column: str) -> dict[str, "Dataset"]:
    """The splits except those in which all labels are -1."""
    labeled = {}
    for name, dataset in splits.items():
        feature = dataset.features.get(label_column)
        is_number = str(getattr(feature, "dtype", "")).startswith("int")
        if name != "train" and is_number and (dataset.data.column(label_column).to_numpy() == UNLABELED).all():
            log.warning("the split %s has no labels (all are %d) and is not used", name, UNLABELED)
        else:
            labeled[name] = dataset
    return labeled
