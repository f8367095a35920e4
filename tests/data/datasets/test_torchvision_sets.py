"""The standard data sets, read through torchvision's own classes from small files in the real formats."""

import os
import shutil
from functools import partial

import hydra
import numpy as np
import pytest
from torchvision import datasets

from cnnzoo import cli
from cnnzoo.data import CIFAR10, CIFAR100, MNIST, FashionMNIST, ImageNet, Imagenette
from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.datasets import torchvision_sets
from cnnzoo.errors import UserError
from tests.helpers.downloads import WORDNET_IDS, write_cifar, write_imagenette, write_mnist
from tests.helpers.images import save_image

SPLITS = ("train", "val", "test")


@pytest.fixture
def on_disk(tmp_path, monkeypatch):
    """A function that writes a torchvision data set, unpacked, to `tmp_path` and returns its arrays by split."""

    def write(dataset):
        if issubclass(dataset, datasets.CIFAR10):
            return write_cifar(tmp_path, monkeypatch, dataset)
        raw = tmp_path / dataset.__name__ / "raw"
        arrays = write_mnist(raw, monkeypatch, dataset)
        dataset(tmp_path, download=True)  # unpacks the archives
        for archive in raw.glob("*.gz"):
            archive.unlink()
        return arrays

    return write


SOURCES = [
    (MNIST, datasets.MNIST, (28, 28, 1)),
    (FashionMNIST, datasets.FashionMNIST, (28, 28, 1)),
    (CIFAR10, datasets.CIFAR10, (32, 32, 3)),
    (CIFAR100, datasets.CIFAR100, (32, 32, 3)),
]


@pytest.mark.parametrize(("source_class", "dataset", "shape"), SOURCES)
def test_splits_contain_every_image_once(on_disk, tmp_path, source_class, dataset, shape):
    arrays = on_disk(dataset)
    source = source_class(str(tmp_path))
    splits = {name: source.split(name) for name in SPLITS}
    total = len(arrays["train"][0])
    assert [len(splits[name]) for name in SPLITS] == [total - len(splits["val"]), *_expected_sizes(dataset)]
    for split in splits.values():
        assert split.pixels.shape == (len(split), *shape)
        assert split.pixels.dtype == np.uint8
        assert split.pixels.flags.c_contiguous
        assert split.labels.dtype == np.int64
        assert split.labels.max() < len(source.classes)
    assert _pairs(splits["train"]) + _pairs(splits["val"]) != _pairs_of(
        *arrays["train"]
    )  # val is not one contiguous part of train
    assert sorted(_pairs(splits["train"]) + _pairs(splits["val"])) == sorted(_pairs_of(*arrays["train"]))
    assert _pairs(splits["test"]) == _pairs_of(*arrays["test"])
    assert source.split("other") is None
    assert (source.image_size, source.channels) == (shape[0], shape[2])
    assert len(source.mean) == len(source.std) == shape[2]


def test_val_is_stratified_by_split_seed(on_disk, tmp_path):
    on_disk(datasets.CIFAR10)
    val, again, other = (CIFAR10(str(tmp_path), split_seed=seed).split("val") for seed in (0, 0, 1))
    assert np.bincount(val.labels).tolist() == [2] * 10
    assert np.array_equal(val.pixels, again.pixels)
    assert not np.array_equal(val.pixels, other.pixels)
    tests = [CIFAR10(str(tmp_path), split_seed=seed).split("test").pixels for seed in (0, 1)]
    assert np.array_equal(*tests)


def test_class_names():
    assert MNIST.classes == tuple("0123456789")
    assert list(FashionMNIST.classes) == datasets.FashionMNIST.classes
    assert len(set(FashionMNIST.classes)) == len(set(CIFAR10.classes)) == 10
    assert (len(set(CIFAR100.classes)), CIFAR100.classes[0], CIFAR100.classes[-1]) == (100, "apple", "worm")
    assert list(CIFAR100.classes) == sorted(CIFAR100.classes)  # as published


def test_files_equal_those_that_torchvision_reads():
    """`is_present` looks for the files that torchvision reads."""
    assert MNIST.files == tuple(f"raw/{name.removesuffix('.gz')}" for name, _ in datasets.MNIST.resources)
    for source_class, dataset in ((CIFAR10, datasets.CIFAR10), (CIFAR100, datasets.CIFAR100)):
        assert [*source_class.files[:-1]] == [name for name, _ in dataset.train_list + dataset.test_list]
        assert (source_class.files[-1], source_class.folder) == (dataset.meta["filename"], dataset.base_folder)
    for size in torchvision_sets.IMAGENETTE_SIZES:
        url, archives = _without_init(Imagenette, size=size, folder="").archives()
        assert url.endswith(f"/{torchvision_sets.IMAGENETTE_SIZES[size][0]}.tgz")
        assert [len(md5) for md5 in archives.values()] == [32]


def test_constructing_reads_and_writes_nothing(on_disk, tmp_path, monkeypatch):
    on_disk(datasets.MNIST)
    before = sorted(tmp_path.rglob("*"))
    with monkeypatch.context() as patch:
        patch.delattr(datasets, "MNIST")
        source = MNIST(str(tmp_path))
    assert source.split("train") is source.split("train")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("root", ["", "/MNIST"])
def test_root_is_the_set_or_its_parent(on_disk, tmp_path, root):
    on_disk(datasets.MNIST)
    assert len(MNIST(f"{tmp_path}{root}").split("test")) == 20


@pytest.mark.parametrize(
    ("variables", "root"),
    [
        ({"CNNZOO_DATA": "{}/data"}, "data"),
        ({"XDG_CACHE_HOME": "{}/xdg"}, "xdg/cnnzoo"),
        ({"HOME": "{}"}, ".cache/cnnzoo"),
    ],
)
def test_default_root_from_the_environment(on_disk, tmp_path, monkeypatch, variables, root):
    on_disk(datasets.MNIST)
    (tmp_path / root).mkdir(parents=True)
    shutil.move(tmp_path / "MNIST", tmp_path / root)
    for name in ("CNNZOO_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    assert MNIST().root == tmp_path / root


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
@pytest.mark.parametrize("size", [0, 3, 30])
def test_truncated_mnist_file_is_reported(on_disk, tmp_path, file, size):
    on_disk(datasets.MNIST)
    path = tmp_path / "MNIST" / "raw" / file
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=f"^{path}: damaged; delete it and run again"):
        MNIST(str(tmp_path)).split("val")


def test_mismatched_mnist_files_are_reported(on_disk, tmp_path):
    on_disk(datasets.MNIST)
    raw = tmp_path / "MNIST" / "raw"
    shutil.copy(raw / "t10k-labels-idx1-ubyte", raw / "train-labels-idx1-ubyte")
    with pytest.raises(UserError, match=f"^{tmp_path / 'MNIST'}: damaged; delete it"):
        MNIST(str(tmp_path)).split("train")


@pytest.mark.parametrize("file", ["data_batch_3", "batches.meta"])
def test_damaged_cifar_file_is_reported_not_unpickled(on_disk, tmp_path, file):
    on_disk(datasets.CIFAR10)
    path = tmp_path / "cifar-10-batches-py" / file
    path.write_bytes(f"cos\nmkdir\n(V{tmp_path}/harm\ntR.".encode())  # a pickle that creates a directory
    with pytest.raises(UserError, match=f"^{path}: damaged; delete it and run again"):
        CIFAR10(str(tmp_path)).split("test")
    assert not (tmp_path / "harm").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read all files")
def test_file_without_read_permission_is_reported(on_disk, tmp_path):
    on_disk(datasets.MNIST)
    path = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.chmod(0)
    with pytest.raises(UserError, match=f"^{path}: cannot be read: Permission denied"):
        MNIST(str(tmp_path)).split("test")


def test_imagenette_splits_and_classes(tmp_path, monkeypatch):
    write_imagenette(tmp_path, monkeypatch)
    source = Imagenette(str(tmp_path), size="160px")
    assert [split and len(split) for split in map(source.split, SPLITS)] == [12, 6, None]
    assert source.classes == ("tench", "English springer", "cassette player")
    assert source.image_size == 128
    for name in ("train", "val"):
        samples = datasets.Imagenette(tmp_path, split=name, size="160px")._samples
        split = source.split(name)
        assert [(split.path(n), label) for n, label in enumerate(split.labels)] == samples
    assert Imagenette(str(tmp_path / "imagenette2-160"), size="160px").classes == source.classes
    with pytest.raises(UserError, match=r"data.source.size=200px: expected full, 320px or 160px"):
        Imagenette(str(tmp_path), size="200px")


def test_incomplete_imagenette_is_logged(tmp_path, monkeypatch, caplog):
    write_imagenette(tmp_path, monkeypatch)
    Imagenette(str(tmp_path), size="160px")
    assert f"{tmp_path}/imagenette2-160 has 12 training and 6 validation images, expected 9469 and 3925" in caplog.text


def test_imagenet_splits_and_classes(tree):
    root = tree(
        {f"{split}/{wordnet_id}": 2 for split in ("train", "val") for wordnet_id in WORDNET_IDS}, height=300, width=400
    )
    save_image(root / "test" / "ILSVRC2012_test_00000001.png")  # ImageNet's test images have no labels
    source = ImageNet(str(root))
    assert [split and len(split) for split in map(source.split, SPLITS)] == [6, 6, None]
    assert source.classes == WORDNET_IDS
    assert (source.image_size, source.channels) == (224, 3)
    assert "/val/" in source.split("val").path(0)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"train/a": 1, "train/b": 1}, "no val/; data=imagenet expects train/ and val/"),
        ({"a": 1, "b": 1}, "no train/; data=imagenet expects"),
        ({"train/a": 1, "train/b": 1, "val": 2}, "/val: no class folders; move each image into the folder"),
    ],
)
def test_imagenet_other_layout_is_an_error(tree, folders, message):
    with pytest.raises(UserError, match=message):
        ImageNet(str(tree(folders)))


def test_imagenet_without_root_is_an_error():
    with pytest.raises(UserError, match=r"data=imagenet: expected data.root=<directory with train/ and val/"):
        ImageNet()


CONFIGS = [
    ("mnist", MNIST, "padded", 0),
    ("fashion_mnist", FashionMNIST, "padded", 0.5),
    ("cifar10", CIFAR10, "padded", 0.5),
    ("cifar100", CIFAR100, "padded", 0.5),
    ("imagenette", Imagenette, "random_resized", 0.5),
    ("imagenet", ImageNet, "random_resized", 0.5),
]


@pytest.mark.parametrize(("name", "source", "crop", "flip"), CONFIGS)
def test_data_configs(name, source, crop, flip):
    overrides, _ = cli.prepare([f"data={name}", "data.root=/x y"], job="train", help_text="")
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        cfg = hydra.compose("train", overrides=overrides)
        no_augment = hydra.compose("train", overrides=[f"data={name}", "augment=none"])
    assert cfg.data.name == name == source.name
    assert cfg.data.root == "/x y"
    assert (cfg.augment.crop, cfg.augment.flip) == (crop, flip)
    assert hydra.utils.instantiate(cfg.data.source).func is source
    assert no_augment.augment.crop == "center"


def test_cifar_batches(on_disk, tmp_path):
    arrays = on_disk(datasets.CIFAR10)
    data = DataModule(CIFAR10, root=str(tmp_path), batch_size=50)
    assert (data.num_classes, data.proposed_image_size, data.proposed_channels) == (10, (32, 32), 3)
    images, labels = next(iter(data.test_dataloader()))
    assert np.array_equal(images.permute(0, 2, 3, 1), arrays["test"][0][:50])
    assert labels.tolist() == arrays["test"][1][:50].tolist()
    assert len(data.train_dataloader()) == 3


def test_imagenette_size_in_a_datamodule(tmp_path, monkeypatch):
    write_imagenette(tmp_path, monkeypatch)
    data = DataModule(partial(Imagenette, size="160px"), root=str(tmp_path))
    assert (data.name, data.proposed_image_size, data.has_test) == ("imagenette", (128, 128), False)


def _expected_sizes(dataset):
    """(val, test). Val is at least one image per class, which is 100 of CIFAR-100's 200."""
    return {datasets.CIFAR10: (20, 100), datasets.CIFAR100: (100, 100)}.get(dataset, (10, 20))


def _pairs_of(pixels, labels):
    return [(bytes(image), int(label)) for image, label in zip(pixels, labels, strict=True)]


def _pairs(split):
    return _pairs_of(split.pixels, split.labels)


def _without_init(source_class, **attributes):
    source = object.__new__(source_class)
    source.__dict__.update(attributes)
    return source
