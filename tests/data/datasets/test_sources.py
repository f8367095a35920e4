"""One small set in five forms (a folder, CSV, Hugging Face, webdataset, Parquet) gives the same images in all."""

import csv
import json
import os
import pickle
import tarfile
from dataclasses import replace

import pytest

import cnnzoo
from cnnzoo import cli
from cnnzoo.data.cache.cache import Cache
from cnnzoo.data.image_data import ImageData
from cnnzoo.errors import UserError
from tests.helpers.images import save_image
from tests.helpers.loaders import DALI, GPU_DATASET, NO_WORKERS, equal_batches, load_epoch, needs_dali
from tests.helpers.sources import SOURCES, add_member, write_all

FORMS = ("csv", "hf", "webdataset", "parquet")
CACHES_AND_LOADERS = [
    ("none", NO_WORKERS),
    ("encoded", {"workers": 2, "kind": "processes"}),
    ("decoded", GPU_DATASET),
    pytest.param("none", DALI, marks=needs_dali),
    pytest.param("encoded", DALI, marks=needs_dali),
]
parametrize_forms = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """The options of each source, by its name. The set has JPEGs and PNGs of five sizes in three classes."""
    directory = tmp_path_factory.mktemp("forms")
    for split, count in (("train", 21), ("val", 6), ("test", 4)):
        for number in range(count):
            name = f"{number}.{'jpg' if number % 3 else 'png'}"
            save_image(directory / "folder" / split / "abc"[number * 3 // count] / name, 18 + 4 * (number % 5), 22)
    return write_all(directory / "folder", directory / "others")


@pytest.fixture(scope="module")
def sources(forms):
    return {form: SOURCES[form](**options) for form, options in forms.items()}


@parametrize_forms
def test_source_lists_the_images_of_the_folder(sources, form):
    source, folder = sources[form], sources["folder"]
    assert source.classes == folder.classes == ("a", "b", "c")
    assert (source.image_size, source.channels) == (folder.image_size, folder.channels)
    for name in ("train", "val", "test"):
        split, expected = pickle.loads(pickle.dumps(source.split(name))), folder.split(name)
        assert split.labels.tolist() == expected.labels.tolist()
        assert [split.read(n) for n in range(len(split))] == [expected.read(n) for n in range(len(expected))]
        assert [split.file_size(n) for n in range(2)] == [expected.file_size(n) for n in range(2)]


@parametrize_forms
@pytest.mark.parametrize(("mode", "loader_options"), CACHES_AND_LOADERS)
def test_batches_equal_those_of_the_folder(sources, make_loader, form, mode, loader_options):
    def batches(name):
        split = sources[name].split("train")
        if mode != "none":
            store = Cache(mode).fill({"": split}, channels=3, on_bad_file="error", verify_jpegs=True)[""]
            split = replace(split, store=store)
        loader = make_loader(split, **loader_options)
        loader.sampler.start_at(2)  # as after a kill
        resumed = [(images.clone(), labels) for images, labels in loader]
        return [*resumed, *load_epoch(loader, epoch=1)]

    expected = batches("folder")
    assert len(expected) == 3 + 5
    assert equal_batches(batches(form), expected)


@parametrize_forms
def test_persisted_cache_is_used_again_until_a_file_changes(forms, tmp_path, form):
    def fill():
        source = SOURCES[form](**forms[form])
        splits = {name: source.split(name) for name in ("train", "val")}
        Cache("encoded", persist=tmp_path).fill(splits, channels=3, on_bad_file="error")
        return splits, len(list(tmp_path.glob("*.json")))

    splits, count = fill()
    assert count == 1
    assert fill()[1] == 1
    path = splits["train"].files()[0]
    stat = os.stat(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    assert fill()[1] == 2


@parametrize_forms
def test_config_builds_the_source(forms, form):
    overrides = [f"data.{key}={value}" for key, value in forms[form].items()]
    cfg = cli.compose("train", [f"data={form}", *overrides])
    data = cli.instantiate(cfg.data, "data")
    assert (data.name, data.classes, len(data.split("train"))) == (form, ("a", "b", "c"), 21)


@pytest.mark.parametrize("form", ["csv", "webdataset", "parquet"])
def test_one_split_is_divided_as_the_folder_is(tmp_path, form):
    for number in range(30):
        save_image(tmp_path / "folder" / "train" / "ab"[number % 2] / f"{number}.png")
    options = write_all(tmp_path / "folder", tmp_path / "others")
    source, folder = SOURCES[form](**options[form]), SOURCES["folder"](str(tmp_path / "folder"))
    for name, size in {"train": 21, "val": 3, "test": 6}.items():
        split, expected = source.split(name), folder.split(name)
        assert len(split) == size
        assert split.labels.tolist() == expected.labels.tolist()
        assert [split.read(n) for n in range(size)] == [expected.read(n) for n in range(size)]


def test_source_option_that_does_not_exist_is_an_error(forms):
    with pytest.raises(TypeError, match="colour"):
        ImageData(SOURCES["csv"], **forms["csv"], colour="red")


def test_missing_files_are_skipped_if_asked(forms, tmp_path):
    (tmp_path / "labels.csv").write_text("image,label\n" + "".join(f"{n}.png,{n % 2}\n" for n in range(20)))
    for number in range(1, 20):
        save_image(tmp_path / f"{number}.png")
    options = {"path": str(tmp_path / "labels.csv"), "batch_size": 4}
    with pytest.raises(UserError, match=r"labels.csv: 1 file of 20 missing \(row 2: 0.png\); .*data.on_bad_file=skip"):
        ImageData(SOURCES["csv"], **options)
    data = ImageData(SOURCES["csv"], **options, on_bad_file="skip", cache=Cache("encoded"))
    data.fill_cache()
    count = sum(len(data.split(name)) for name in ("train", "val", "test"))
    assert count == 20
    data.close()


@parametrize_forms
def test_load_data_takes_the_options_of_a_source(forms, form):
    with cnnzoo.load_data(form, **forms[form], batch_size=7, device="cpu") as data:
        assert data.classes == ("a", "b", "c")
        assert [len(split.dataset) for split in (data.train, data.val, data.test)] == [21, 6, 4]
        assert len(list(data.val)) == 1


def test_multi_label_columns_are_the_same_in_all_forms(tmp_path):
    """Lists of names or numbers, columns with 0 and 1, and text with a separator."""
    datasets = pytest.importorskip("datasets")
    classes, expected = ["sky", "tree"], [[0], [0, 1], [], [1], [0]] * 6
    names = [[classes[label] for label in row] for row in expected]
    hot = {name: [int(name in row) for row in names] for name in classes}
    for number in range(30):
        save_image(tmp_path / f"{number}.png")
    images = [(tmp_path / f"{number}.png").read_bytes() for number in range(30)]
    with (tmp_path / "x.csv").open("w", newline="") as file:
        rows = csv.writer(file, delimiter=",")
        rows.writerow(["image", "label", *classes])
        rows.writerows([f"{n}.png", ";".join(names[n]), *(hot[name][n] for name in classes)] for n in range(30))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number, image in enumerate(images):
            add_member(tar, f"{number}.png", image)
            add_member(tar, f"{number}.json", json.dumps({"label": names[number]}).encode())
    numbers = datasets.Features(
        {"image": datasets.Image(), "label": datasets.Sequence(datasets.ClassLabel(names=classes))}
    )
    rows = {"image": [{"bytes": image, "path": None} for image in images], "label": expected}
    datasets.Dataset.from_dict(rows, features=numbers).to_parquet(tmp_path / "x.parquet")
    datasets.Dataset.from_dict({"image": images, "label": names, **hot}).save_to_disk(str(tmp_path / "saved"))
    sources = [
        SOURCES["csv"](path=str(tmp_path / "x.csv"), label_separator=";"),
        SOURCES["csv"](path=str(tmp_path / "x.csv"), label_columns=classes),
        SOURCES["webdataset"](str(tmp_path / "x.tar")),
        SOURCES["parquet"](str(tmp_path / "x.parquet")),
        SOURCES["hf"](path=str(tmp_path / "saved")),
        SOURCES["hf"](path=str(tmp_path / "saved"), label_columns=classes),
    ]
    for source in sources:
        assert source.classes == ("sky", "tree")
        for name in ("train", "val", "test"):
            split, first = source.split(name), sources[0].split(name)
            assert split.labels.shape == (len(split), 2)
            assert (split.labels == first.labels).all()
            assert [split.read(n) for n in range(len(split))] == [first.read(n) for n in range(len(first))]
