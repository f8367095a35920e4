"""One small set of images in all forms that cnnzoo reads: a folder, CSV, Hugging Face, webdataset and Parquet."""

import csv
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cnnzoo.data.datasets.csv import CSVFile
from cnnzoo.data.datasets.folder import ImageFolder
from cnnzoo.data.datasets.hf import HuggingFaceDataset
from cnnzoo.data.datasets.parquet import ParquetFiles
from cnnzoo.data.datasets.webdataset import WebDataset

SOURCES = {
    "folder": ImageFolder,
    "csv": CSVFile,
    "hf": HuggingFaceDataset,
    "webdataset": WebDataset,
    "parquet": ParquetFiles,
}


def write_all(root: Path, target: Path) -> dict[str, dict[str, Any]]:
    """Write the images of the folder `root` in all other forms to `target`; returns the options of each source.

    If the folder has no val/, all images are written as train.
    """
    folder = ImageFolder(str(root))
    target.mkdir()
    return {
        "folder": {"root": str(root)},
        "csv": write_csv(folder, target / "labels.csv"),
        "hf": write_hf(folder, target / "saved"),
        "webdataset": write_shards(folder, target / "shards"),
        "parquet": write_parquet(folder, target / "tables"),
    }


def listed(folder: ImageFolder) -> Iterator[tuple[str, str, str, int]]:
    """(split, path, class, label) of each image of the split folders, in the order of `ImageFolder`."""
    for split, directory in folder._find_split_folders().items():
        images = folder._list_images(directory)
        for index, label in enumerate(images.labels.tolist()):
            yield split, images.path(index), folder.classes[label], label


def write_csv(folder: ImageFolder, path: Path) -> dict[str, Any]:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["split", "image", "label"])
        writer.writerows(
            [split, Path(image).relative_to(folder.root), label] for split, image, label, _ in listed(folder)
        )
    return {"path": str(path), "root": str(folder.root), "split_column": "split"}


def write_shards(folder: ImageFolder, directory: Path, images_per_shard: int = 7) -> dict[str, Any]:
    directory.mkdir()
    count: dict[str, int] = {}
    for split, image, label, _ in listed(folder):
        number = count[split] = count.get(split, -1) + 1
        with tarfile.open(directory / f"{split}-{number // images_per_shard:03d}.tar", "a") as tar:
            tar.add(image, f"{number:05d}{Path(image).suffix}")
            add_member(tar, f"{number:05d}.cls", label.encode())
    return {"root": str(directory)}


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_hf(folder: ImageFolder, directory: Path) -> dict[str, Any]:
    to_hf(folder).save_to_disk(str(directory))
    return {"path": str(directory)}


def write_parquet(folder: ImageFolder, directory: Path) -> dict[str, Any]:
    directory.mkdir()
    for name, dataset in to_hf(folder).items():
        half = -(-len(dataset) // 2)
        for number, rows in enumerate((range(half), range(half, len(dataset)))):
            dataset.select(rows).to_parquet(directory / f"{name}-{number:05d}-of-00002.parquet", batch_size=5)
    return {"root": str(directory)}


def write_table(folder: ImageFolder, directory: Path) -> None:
    """Write a Parquet file with binary images and the names of their classes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory.mkdir()
    rows = [(Path(image).read_bytes(), label) for _, image, label, _ in listed(folder)]
    images, labels = zip(*rows, strict=True)
    pq.write_table(pa.table({"image": images, "label": labels}), directory / "flowers.parquet")


def to_hf(folder: ImageFolder) -> Any:
    """A `datasets.DatasetDict` with the bytes of the image files."""
    import datasets

    columns: dict[str, dict[str, list[Any]]] = {}
    for split, image, _, label in listed(folder):
        rows = columns.setdefault(split, {"image": [], "label": []})
        rows["image"].append({"bytes": Path(image).read_bytes(), "path": None})
        rows["label"].append(label)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(folder.classes))})
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_dict(rows, features=features) for split, rows in columns.items()}
    )
