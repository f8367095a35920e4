"""The standard data sets: read through torchvision's own classes from tiny files in their real formats."""

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
from tests.helpers import published
from tests.helpers.images import save

SPLITS = ("train", "val", "test")


@pytest.fixture
def on_disk(tmp_path, monkeypatch):
    """A function: the set that torchvision's class names, as torchvision leaves it in `tmp_path`; gives its arrays."""

    def make(their):
        if issubclass(their, datasets.CIFAR10):
            return published.cifar(tmp_path, monkeypatch, their)
        raw = tmp_path / their.__name__ / "raw"
        made = published.mnist(raw, monkeypatch, their)
        their(tmp_path, download=True)  # unpacks what is there
        for archive in raw.glob("*.gz"):
            archive.unlink()
        return made

    return make


ALL = [
    (MNIST, datasets.MNIST, (28, 28, 1)),
    (FashionMNIST, datasets.FashionMNIST, (28, 28, 1)),
    (CIFAR10, datasets.CIFAR10, (32, 32, 3)),
    (CIFAR100, datasets.CIFAR100, (32, 32, 3)),
]


@pytest.mark.parametrize(("ours", "their", "shape"), ALL)
def test_splits_hold_every_published_image_once(on_disk, tmp_path, ours, their, shape):
    made = on_disk(their)
    source = ours(str(tmp_path))
    splits = {name: source.split(name) for name in SPLITS}
    total = len(made["train"][0])
    assert [len(splits[name]) for name in SPLITS] == [total - len(splits["val"]), *_expected(their)]
    for split in splits.values():
        assert split.pixels.shape == (len(split), *shape)
        assert split.pixels.dtype == np.uint8
        assert split.pixels.flags.c_contiguous
        assert split.labels.dtype == np.int64
        assert split.labels.max() < len(source.classes)
    assert _pairs(splits["train"]) + _pairs(splits["val"]) != _pairs_of(*made["train"])  # val is spread over train
    assert sorted(_pairs(splits["train"]) + _pairs(splits["val"])) == sorted(_pairs_of(*made["train"]))
    assert _pairs(splits["test"]) == _pairs_of(*made["test"])
    assert source.split("other") is None
    assert (source.image_size, source.channels) == (shape[0], shape[2])
    assert len(source.mean) == len(source.std) == shape[2]


def test_val_is_stratified_and_depends_on_split_seed_alone(on_disk, tmp_path):
    on_disk(datasets.CIFAR10)
    val, again, other = (CIFAR10(str(tmp_path), split_seed=seed).split("val") for seed in (0, 0, 1))
    assert np.bincount(val.labels).tolist() == [2] * 10
    assert np.array_equal(val.pixels, again.pixels)
    assert not np.array_equal(val.pixels, other.pixels)
    tests = [CIFAR10(str(tmp_path), split_seed=seed).split("test").pixels for seed in (0, 1)]
    assert np.array_equal(*tests)


def test_class_names():
    assert MNIST.classes == tuple("0123456789")
    for ours, their in ((FashionMNIST, datasets.FashionMNIST), (CIFAR10, None)):
        assert their is None or list(ours.classes) == their.classes
        assert len(set(ours.classes)) == 10
    assert (len(set(CIFAR100.classes)), CIFAR100.classes[0], CIFAR100.classes[-1]) == (100, "apple", "worm")
    assert list(CIFAR100.classes) == sorted(CIFAR100.classes)  # so are the published ones


def test_the_files_are_torchvisions():
    """What makes a set count as there is what torchvision reads."""
    assert MNIST.files == tuple(f"raw/{name.removesuffix('.gz')}" for name, _ in datasets.MNIST.resources)
    for ours, their in ((CIFAR10, datasets.CIFAR10), (CIFAR100, datasets.CIFAR100)):
        assert [*ours.files[:-1]] == [name for name, _ in their.train_list + their.test_list]
        assert (ours.files[-1], ours.folder) == (their.meta["filename"], their.base_folder)
    for size in torchvision_sets.IMAGENETTE_SIZES:
        url, archives = _unbuilt(Imagenette, size=size, folder="").archives()
        assert url.endswith(f"/{torchvision_sets.IMAGENETTE_SIZES[size][0]}.tgz")
        assert [len(md5) for md5 in archives.values()] == [32]


def test_nothing_is_read_or_written_before_a_split_is_asked_for(on_disk, tmp_path, monkeypatch):
    on_disk(datasets.MNIST)
    before = sorted(tmp_path.rglob("*"))
    with monkeypatch.context() as patch:
        patch.delattr(datasets, "MNIST")
        source = MNIST(str(tmp_path))
    assert source.split("train") is source.split("train")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("root", ["", "/MNIST"])
def test_the_set_or_the_directory_above_it(on_disk, tmp_path, root):
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
def test_where_sets_lie_when_nobody_says(on_disk, tmp_path, monkeypatch, variables, root):
    on_disk(datasets.MNIST)
    (tmp_path / root).mkdir(parents=True)
    shutil.move(tmp_path / "MNIST", tmp_path / root)
    for name in ("CNNZOO_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    assert MNIST().root == tmp_path / root


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
@pytest.mark.parametrize("left", [0, 3, 30])
def test_a_damaged_file_of_mnist_is_named(on_disk, tmp_path, file, left):
    on_disk(datasets.MNIST)
    path = tmp_path / "MNIST" / "raw" / file
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match=f"^{path}: damaged; delete it and run again"):
        MNIST(str(tmp_path)).split("val")


def test_files_of_mnist_that_do_not_belong_together(on_disk, tmp_path):
    on_disk(datasets.MNIST)
    raw = tmp_path / "MNIST" / "raw"
    shutil.copy(raw / "t10k-labels-idx1-ubyte", raw / "train-labels-idx1-ubyte")
    with pytest.raises(UserError, match=f"^{tmp_path / 'MNIST'}: damaged; delete it"):
        MNIST(str(tmp_path)).split("train")


@pytest.mark.parametrize("file", ["data_batch_3", "batches.meta"])
def test_a_damaged_file_of_cifar_is_named_and_never_unpickled(on_disk, tmp_path, file):
    on_disk(datasets.CIFAR10)
    path = tmp_path / "cifar-10-batches-py" / file
    path.write_bytes(f"cos\nmkdir\n(V{tmp_path}/harm\ntR.".encode())  # a pickle that makes a directory
    with pytest.raises(UserError, match=f"^{path}: damaged; delete it and run again"):
        CIFAR10(str(tmp_path)).split("test")
    assert not (tmp_path / "harm").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(on_disk, tmp_path):
    on_disk(datasets.MNIST)
    path = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.chmod(0)
    with pytest.raises(UserError, match=f"^{path}: cannot be read: Permission denied"):
        MNIST(str(tmp_path)).split("test")


def test_imagenette(tmp_path, monkeypatch):
    published.imagenette(tmp_path, monkeypatch)
    source = Imagenette(str(tmp_path), size="160px")
    assert [split and len(split) for split in map(source.split, SPLITS)] == [12, 6, None]
    assert source.classes == ("tench", "English springer", "cassette player")
    assert source.image_size == 128
    for name in ("train", "val"):
        theirs = datasets.Imagenette(tmp_path, split=name, size="160px")._samples
        split = source.split(name)
        assert [(split.path(n), label) for n, label in enumerate(split.labels)] == theirs
    assert Imagenette(str(tmp_path / "imagenette2-160"), size="160px").classes == source.classes
    with pytest.raises(UserError, match=r"data.source.size=200px: it can be full, 320px, 160px"):
        Imagenette(str(tmp_path), size="200px")


def test_an_incomplete_imagenette_is_said(tmp_path, monkeypatch, caplog):
    published.imagenette(tmp_path, monkeypatch)
    Imagenette(str(tmp_path), size="160px")
    assert f"{tmp_path}/imagenette2-160 has 12 training and 6 validation images, not 9469 and 3925" in caplog.text


def test_imagenet(tree):
    root = tree({f"{split}/{wnid}": 2 for split in ("train", "val") for wnid in published.WNIDS}, height=300, width=400)
    save(root / "test" / "ILSVRC2012_test_00000001.png")  # as it comes: without labels
    source = ImageNet(str(root))
    assert [split and len(split) for split in map(source.split, SPLITS)] == [6, 6, None]
    assert source.classes == published.WNIDS
    assert (source.image_size, source.channels) == (224, 3)
    assert "/val/" in source.split("val").path(0)


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ({"train/a": 1, "train/b": 1}, "there is no val/; data=imagenet wants train/ and val/"),
        ({"a": 1, "b": 1}, "there is no train/"),
        ({"train/a": 1, "train/b": 1, "val": 2}, "/val: there are no class folders; move each image into the folder"),
    ],
)
def test_what_is_not_imagenet(tree, folders, words):
    with pytest.raises(UserError, match=words):
        ImageNet(str(tree(folders)))


def test_imagenet_needs_a_root():
    with pytest.raises(UserError, match=r"data=imagenet needs data.root=<directory with train/ and val/"):
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
def test_configs(name, source, crop, flip):
    words, _ = cli.prepare([f"data={name}", "data.root=/x y"], config="train", help_text="")
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        cfg = hydra.compose("train", overrides=words)
        plain = hydra.compose("train", overrides=[f"data={name}", "augment=none"])
    assert cfg.data.name == name == source.name
    assert cfg.data.root == "/x y"
    assert (cfg.augment.crop, cfg.augment.flip) == (crop, flip)
    assert hydra.utils.instantiate(cfg.data.source).func is source
    assert plain.augment.crop == "center"


def test_batches_of_cifar(on_disk, tmp_path):
    made = on_disk(datasets.CIFAR10)
    data = DataModule(CIFAR10, root=str(tmp_path), batch_size=50)
    assert (data.num_classes, data.proposed_image_size, data.proposed_channels) == (10, 32, 3)
    images, labels = next(iter(data.test_dataloader()))
    assert np.array_equal(images.permute(0, 2, 3, 1), made["test"][0][:50])
    assert labels.tolist() == made["test"][1][:50].tolist()
    assert len(data.train_dataloader()) == 3


def test_a_folder_set_takes_its_size_by_configuration(tmp_path, monkeypatch):
    published.imagenette(tmp_path, monkeypatch)
    data = DataModule(partial(Imagenette, size="160px"), root=str(tmp_path))
    assert (data.name, data.proposed_image_size, data.has_test) == ("imagenette", 128, False)


def _expected(their):
    """(val, test): a tenth of train, but at least one of each of CIFAR-100's classes."""
    return {datasets.CIFAR10: (20, 100), datasets.CIFAR100: (100, 100)}.get(their, (10, 20))


def _pairs_of(pixels, labels):
    return [(bytes(image), int(label)) for image, label in zip(pixels, labels, strict=True)]


def _pairs(split):
    return _pairs_of(split.pixels, split.labels)


def _unbuilt(source, **attributes):
    made = object.__new__(source)
    made.__dict__.update(attributes)
    return made
