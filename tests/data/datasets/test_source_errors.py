"""CSV, Hugging Face, webdataset and Parquet: what is wrong with a set is one line that names the file and the row."""

import io
import json
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

from cnnzoo.data.cache.cache import Cache
from cnnzoo.data.datasets.csv import CSVFile
from cnnzoo.data.datasets.hf import HuggingFaceDataset
from cnnzoo.data.datasets.labels import class_labels
from cnnzoo.data.datasets.parquet import ParquetFiles
from cnnzoo.data.datasets.shards import expand_braces, find_shards, splits_of_shards
from cnnzoo.data.datasets.webdataset import WebDataset
from cnnzoo.data.image_data import ImageData
from cnnzoo.errors import UserError
from tests.helpers.sources import add_member

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

PNG = io.BytesIO()
Image.new("RGB", (20, 20)).save(PNG, "PNG")
PNG = PNG.getvalue()


def error_of(call, *args, **options):
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400  # with pytest's long paths
    return str(caught.value)


@pytest.fixture
def table(tmp_path):
    """`table(text)` writes labels.csv and a.png, b.png, ...; returns its path."""
    for name in "abcdefgh":
        (tmp_path / f"{name}.png").write_bytes(PNG)

    def write(text, name="labels.csv", encoding="utf-8"):
        (tmp_path / name).write_text(text, encoding=encoding)
        return str(tmp_path / name)

    return write


LABELED = "".join(f"{name}.png,{'xy'[n % 2]}\n" for n, name in enumerate("abcdefgh"))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "has no rows"),
        ("image,label\n", {}, "has no rows"),
        ("img,label\na.png,x\n", {}, "data.path_column=image: .*labels.csv has no such column, .*path_column=img"),
        ("label,file\nx,a.png\n", {}, "data.path_column=image: .*; type data.path_column=file"),
        ("image,klass\na.png,x\n", {}, "data.label_column=label: .*no such column, only 'image', 'klass'"),
        ("image,label\n" + LABELED, {"split_column": "fold"}, "data.split_column=fold: .*no such column"),
        ("image,label\n" + LABELED, {"label_columns": ["cat"]}, "data.label_columns=cat: .*no such column"),
        ("image,label\na.png,x\nb.png,\n", {}, r"labels.csv: row 3: no label"),
        ("image,label\na.png,x\n,y\n", {}, r"labels.csv: row 3: nothing in column image"),
        ("image,label\na.png,0.5\nb.png,1\n", {}, r"labels.csv: row 2: the label is 0.5, expected the name"),
        ("image,label\na.png,1\nb.png,-1\n", {}, r"labels.csv: row 3: the label is -1, expected a whole number"),
        ("image,label\na.png,x\n\nb.png\n", {}, r"labels.csv: row 4: 1 cell, expected 2"),
        ("image,label\na.png,x\nb.png,x\n", {}, "all images are of class 'x'"),
        ("image,label\na.png,x\nb.png,y\nc.png,y\nd.png,y\n", {}, "class 'x' has 1 training image, expected at"),
        ("image,label\nno.png,x\n" + LABELED, {}, r"1 file of 9 missing \(row 2: no.png\); correct .*on_bad_file=skip"),
        ("image,label\n" + LABELED.replace(".p", "/p"), {}, r"8 files of 8 missing \(row 2: a/png; .*data.root=DIR"),
    ],
)
def test_csv_with_a_mistake_names_the_row(table, text, options, message):
    assert re.search(message, error_of(ImageData, CSVFile, path=table(text), **options))


def test_csv_with_unknown_splits_names_the_row(table):
    rows = LABELED.splitlines()
    text = "image,label,fold\n" + "".join(f"{row},{'train' if n else 'trian'}\n" for n, row in enumerate(rows))
    assert "row 2: unknown split 'trian': did you mean train?" in error_of(
        CSVFile, path=table(text), split_column="fold"
    )
    text = text.replace("trian", "val").replace("train", "test")
    assert "no training images (found val and test)" in error_of(CSVFile, path=table(text), split_column="fold")
    text = "image,label,fold\na.png,x,train\nb.png,y,train\nc.png,z,val\n"
    message = error_of(CSVFile, path=table(text), split_column="fold")
    assert "row 4: class 'z' is in val but not in train" in message


def test_csv_file_that_cannot_be_read_is_an_error(tmp_path, table):
    assert "No such file" in error_of(CSVFile, path=str(tmp_path / "no.csv"))
    assert "not a CSV file in UTF-8" in error_of(CSVFile, path=table("image,label\né.png,x\n", encoding="latin-1"))
    assert "data.path=FILE.csv" in error_of(CSVFile)
    assert "no such directory" in error_of(CSVFile, root=str(tmp_path / "no"), path=table("image,label\n" + LABELED))


@pytest.mark.parametrize(("separator", "name"), [(";", "labels.csv"), ("\t", "labels.tsv"), (",", "labels.csv")])
def test_csv_separators_and_byte_order_mark(table, separator, name):
    text = "image,label,n\n" + LABELED.replace("\n", ",1\n")
    source = CSVFile(path=table(text.replace(",", separator), name, encoding="utf-8-sig"))
    assert source.classes == ("x", "y")


def test_class_labels_are_sorted_by_name_or_number():
    place = "row {}".format
    assert class_labels(["b ", "a", "b"], place)[1] == ("a", "b")
    labels, classes = class_labels(["10", "9", "10", "2"], place)
    assert (labels.tolist(), classes) == ([2, 1, 2, 0], ("2", "9", "10"))
    assert class_labels(["1.0", "0.0"], place)[1] == ("0", "1")  # as pandas writes a column with a gap
    assert class_labels(["01", "1"], place)[1] == ("01", "1")
    labels, classes = class_labels(np.array([1, 0]), place, classes=("cat", "dog"))
    assert (labels.tolist(), classes) == ([1, 0], ("cat", "dog"))
    assert "row 1: the label is 2, expected a whole number from 0 to 1" in error_of(
        class_labels, [0, 2], place, classes=("cat", "dog")
    )
    assert "row 1: unknown class 'cow'; expected one of cat, dog" in error_of(
        class_labels, ["cat", "cow"], place, classes=("cat", "dog")
    )
    assert "row 1: found {'x': 1}" in error_of(class_labels, ["cat", {"x": 1}], place)


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            add_member(tar, name, data)


SAMPLES = {f"{n}.{kind}": data for n in range(8) for kind, data in (("png", PNG), ("cls", b"01"[n % 2 : n % 2 + 1]))}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"0.png": PNG}, r"train.tar: 0: no label in this sample \(found .png\); expected a .cls or .json file"),
        ({"0.cls": b"1"}, r"train.tar: 0: no image in this sample \(found .cls\)"),
        ({"0.png": PNG, "0.seg.png": PNG, "0.cls": b"1"}, r"train.tar: 0: several images .*data.image_column=png"),
        ({"0.png": PNG, "0.cls": b""}, "train.tar: 0.png: no label"),
        ({"0.png": PNG, "0.json": b"{"}, "train.tar: 0.json: is not valid JSON"),
        ({"0.png": PNG, "0.json": b"[1]"}, "train.tar: 0.json: expected an object with the field label"),
        ({"0.png": PNG, "0.json": b'{"lable": 1}'}, "data.label_column=label: .*0.json has no .*'lable'"),
        ({"0.png": PNG, "0.json": b'{"label": {}}'}, "train.tar: 0.png: found {}, expected the name or number"),
        ({"0.png": PNG, "0.json": b'{"label": null}'}, "train.tar: 0.png: no label"),
        ({}, "no images in these 1 tar files"),
    ],
)
def test_sample_with_a_mistake_is_named(tmp_path, members, message):
    write_tar(tmp_path / "train.tar", members)
    assert re.search(message, error_of(WebDataset, str(tmp_path)))


def test_damaged_shard_is_named(tmp_path):
    write_tar(tmp_path / "train-0.tar", SAMPLES)
    data = (tmp_path / "train-0.tar").read_bytes()
    for end in (5 * 512 + 100, 3 * 512 + 10, 4 * 512):  # within a label, within a header, before a header
        (tmp_path / "train-0.tar").write_bytes(data[:end])
        assert "train-0.tar: is cut off" in error_of(WebDataset, str(tmp_path))
    (tmp_path / "train-0.tar").write_bytes(b"no tar file" * 100)
    assert "train-0.tar: is not an uncompressed tar file" in error_of(WebDataset, str(tmp_path))


def test_shard_with_json_labels_and_hidden_members(tmp_path):
    members = {"._0.png": b"", "__MACOSX/0.png": b""}
    for number in range(8):
        members[f"deep/{number}.v1.PNG"] = PNG
        members[f"deep/{number}.json"] = json.dumps({"label": ["cat", "dog"][number % 2]}).encode()
        members[f"deep/{number}.npy"] = b"an embedding"
    write_tar(tmp_path / "shard.tar", members)
    assert WebDataset(str(tmp_path / "shard.tar")).classes == ("cat", "dog")
    members |= {f"deep/{number}.mask.png": b"" for number in range(8)}
    write_tar(tmp_path / "shard.tar", dict(sorted(members.items())))
    assert "no image in this sample" in error_of(WebDataset, str(tmp_path / "shard.tar"), image_column="jpg")
    source = WebDataset(str(tmp_path / "shard.tar"), image_column=".v1.png")
    assert source.classes == ("cat", "dog")
    assert source.split("train").name(0) == "shard.tar: deep/0.v1.PNG"


def test_shards_are_found_by_directory_braces_and_wildcards(tmp_path):
    for name in ("train/000.tar", "train/001.tar", "val/000.tar", ".hidden/000.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    root, files = find_shards(str(tmp_path), ".tar", "webdataset")
    assert [str(file.relative_to(tmp_path)) for file in files] == ["train/000.tar", "train/001.tar", "val/000.tar"]
    assert splits_of_shards(root, files, ".tar").tolist() == [0, 0, 1]
    for pattern in ("{train,val}/000.tar", "*/000.tar"):
        root, found = find_shards(f"{tmp_path}/{pattern}", ".tar", "webdataset")
        assert found == [files[0], files[2]]
        assert splits_of_shards(root, found, ".tar").tolist() == [0, 1]
    root, found = find_shards(f"{tmp_path}/train/{{000..001}}.tar", ".tar", "webdataset")
    assert splits_of_shards(root, found, ".tar").tolist() == [0, 0]
    assert "no file or directory" in error_of(find_shards, f"{tmp_path}/train/{{000..002}}.tar", ".tar", "webdataset")
    assert "no .parquet files" in error_of(find_shards, str(tmp_path), ".parquet", "parquet")
    (tmp_path / "train/000.tar").rename(tmp_path / "000.tar")
    message = error_of(splits_of_shards, tmp_path, [tmp_path / "000.tar", *files[1:]], ".tar")
    assert "the name of 000.tar has no split" in message


def test_expand_braces_as_a_shell_does():
    assert expand_braces("a{08..10}b{x,y}") == ["a08bx", "a08by", "a09bx", "a09by", "a10bx", "a10by"]
    assert expand_braces("a{b}") == ["a{b}"]
    assert "more than 100,000 files" in error_of(expand_braces, "{0..99999999}{0..9}")


def image_column(images):
    return pa.array(
        [{"bytes": image, "path": None} for image in images], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"n": [1, 2], "label": [0, 1]}, {}, "train.parquet: no column has images, .*n: int64, label: int64"),
        ({"image": image_column([]), "label": pa.array([], pa.int64())}, {}, "has no rows"),
        (
            {"image": image_column([PNG] * 2), "n": [1, 2]},
            {},
            "data.label_column=label: .*no such column, only 'image'",
        ),
        ({"a": [PNG], "b": [PNG], "label": [1]}, {}, "columns 'a', 'b' have images; type data.image_column=a"),
        ({"a": [PNG], "label": [1]}, {"image_column": "label"}, "data.image_column=label: .*has int64 in this column"),
        ({"image": [PNG] * 3, "label": [0.5, 1, 2]}, {}, "train.parquet: row 0: the label is 0.5"),
        ({"image": [PNG] * 3, "label": [0, None, 1]}, {}, "train.parquet: row 1: no label"),
        ({"image": [PNG] * 3, "label": ["x", "y", None]}, {}, "train.parquet: row 2: no label"),
        ({"image": [PNG] * 2, "label": [{"x": 1}, {"x": 2}]}, {}, "row 0: column label has struct"),
    ],
)
def test_parquet_with_a_mistake_names_the_row(tmp_path, columns, options, message):
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    assert re.search(message, error_of(ParquetFiles, str(tmp_path), **options))


def test_parquet_files_that_differ_or_are_cut_off_are_named(tmp_path):
    rows = {"image": [PNG] * 8, "label": [0, 1] * 4}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    pq.write_table(pa.table({**rows, "label": ["x", "y"] * 4}), tmp_path / "b.parquet")
    assert "b.parquet: its labels are string, those of a.parquet int64" in error_of(ParquetFiles, str(tmp_path))
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-10])
    assert "b.parquet: is not a complete Parquet file" in error_of(ParquetFiles, str(tmp_path))


def test_bad_rows_of_a_table_are_named_while_the_cache_is_filled(tmp_path):
    images = [PNG] * 20
    images[3], images[12] = None, b"no image"
    pq.write_table(
        pa.table({"image": image_column(images), "label": [0, 1] * 10}), tmp_path / "x.parquet", row_group_size=6
    )
    data = ImageData(ParquetFiles, root=str(tmp_path), batch_size=4, cache=Cache("encoded"))
    message = error_of(data.fill_cache)
    assert "x.parquet: row 12: not an image" in message
    assert "x.parquet: row 3: no image in this row" in message


def test_hf_data_set_that_cannot_be_loaded_is_an_error(tmp_path):
    datasets = pytest.importorskip("datasets")
    assert "data.path=NAME" in error_of(HuggingFaceDataset)
    assert "no such directory" in error_of(HuggingFaceDataset, path=str(tmp_path / "no"))
    assert "cannot be loaded" in error_of(HuggingFaceDataset, path=str(tmp_path))
    assert f"type data.path={tmp_path}" in error_of(HuggingFaceDataset, root=str(tmp_path), path="x")
    rows = {"image": [PNG] * 8, "label": [0, 1] * 4}
    saved = {name: datasets.Dataset.from_dict(rows) for name in ("validation", "extra")}
    datasets.DatasetDict(saved).save_to_disk(str(tmp_path / "a"))
    message = error_of(HuggingFaceDataset, path=str(tmp_path / "a"))
    assert "its splits are 'validation', 'extra'; expected 'train'" in message


def test_hf_split_without_labels_is_not_used(tmp_path, caplog):
    datasets = pytest.importorskip("datasets")
    splits = {"train": [0, 1] * 10, "validation": [0, 1], "test": [-1, -1], "extra": [0]}
    saved = {
        name: datasets.Dataset.from_dict({"image": [PNG] * len(labels), "label": labels})
        for name, labels in splits.items()
    }
    datasets.DatasetDict(saved).save_to_disk(str(tmp_path / "a"))
    source = HuggingFaceDataset(path=str(tmp_path / "a"))
    assert [len(source.split(name)) for name in ("train", "val")] == [20, 2]
    assert source.split("test") is None
    assert "the split test has no labels" in caplog.text
    assert source.split("val").name(1) == f"{tmp_path / 'a'}: validation, row 1"


def test_hf_images_may_be_paths(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    for name in "xy":
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(5):
            (tmp_path / "train" / name / f"{number}.png").write_bytes(PNG)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    source = HuggingFaceDataset(path=str(tmp_path))
    assert source.classes == ("x", "y")
    assert source.split("train").read(0) == PNG
