"""Downloads through torchvision from a local web server: once, and complete or not at all."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torchvision import datasets

from cnnzoo.data import CIFAR10, CIFAR100, MNIST, FashionMNIST, Imagenette
from cnnzoo.data.datasets import download
from cnnzoo.errors import UserError
from tests.helpers.downloads import Server, write_cifar, write_imagenette, write_mnist

ARCHIVES = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


@pytest.fixture
def server(tmp_path):
    """A local web server for the files in tmp_path/published."""
    (tmp_path / "published").mkdir()
    server = Server(tmp_path / "published")
    yield server
    server.close()


@pytest.fixture
def root(tmp_path):
    """A directory that does not exist yet."""
    return tmp_path / "sub" / "data sets"


@pytest.fixture
def publish(server, tmp_path, monkeypatch):
    """A function that puts the archives of a torchvision data set on the server and returns the server's directory."""

    def put(dataset):
        folder = tmp_path / "published"
        if dataset is datasets.Imagenette:
            write_imagenette(folder, monkeypatch)
            archives = {size: (server.url + Path(url).name, md5) for size, (url, md5) in dataset._ARCHIVES.items()}
            monkeypatch.setattr(dataset, "_ARCHIVES", archives)
        elif issubclass(dataset, datasets.CIFAR10):
            write_cifar(folder, monkeypatch, dataset)
            monkeypatch.setattr(dataset, "url", server.url + dataset.filename)
        else:
            write_mnist(folder, monkeypatch, dataset)
            monkeypatch.setattr(dataset, "mirrors", [server.url])
        return folder

    return put


@pytest.fixture
def closed_url(server):
    """The URL of a server that is down."""
    server.close()
    return server.url


@pytest.mark.parametrize(
    ("source_class", "dataset", "size", "requested"),
    [
        (MNIST, datasets.MNIST, "12 MB", ARCHIVES),
        (FashionMNIST, datasets.FashionMNIST, "31 MB", ARCHIVES),
        (CIFAR10, datasets.CIFAR10, "170 MB", ["cifar-10-python.tar.gz"]),
        (CIFAR100, datasets.CIFAR100, "169 MB", ["cifar-100-python.tar.gz"]),
        (lambda root: Imagenette(root, size="160px"), datasets.Imagenette, "99 MB", ["imagenette2-160.tgz"]),
    ],
)
def test_missing_set_is_downloaded_once(publish, server, root, caplog, source_class, dataset, size, requested):
    publish(dataset)
    caplog.set_level(logging.INFO)
    source = source_class(str(root))
    assert len(source.split("train")) in (12, 30, 100, 180)
    assert server.requested == requested
    lines = [record.message for record in caplog.records if record.name == "cnnzoo.data.datasets.download"]
    assert lines == [f"{source.name}: not found in {root}; downloading {size} from {url_of(dataset, server)}"]
    assert sorted(path.name for path in root.iterdir()) == sorted([f".{source.folder}.lock", source.folder])
    assert not [path for path in root.rglob("*") if path.suffix in (".gz", ".tgz")]
    source_class(str(root)).split("val")
    assert server.requested == requested


def test_ranks_download_once(publish, server, root, monkeypatch, caplog):
    publish(datasets.MNIST)
    caplog.set_level(logging.INFO)
    barrier, others_wait = threading.Barrier(4), threading.Event()
    original_download, downloads, messages = download._download, [], []

    def slow_download(*arguments):
        downloads.append(arguments)
        assert others_wait.wait(20)  # until the three other ranks wait for the lock
        original_download(*arguments)

    class WaitingHandler(logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())
            if len(messages) == 3:
                others_wait.set()

    def run_rank(_):
        barrier.wait(20)
        return len(MNIST(str(root)).split("train"))

    monkeypatch.setattr(download, "_download", slow_download)
    monkeypatch.setattr(download, "log", logging.getLogger("test_download"))
    download.log.addFilter(lambda record: "waiting" in record.getMessage())
    download.log.addHandler(WaitingHandler())
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run_rank, range(4))) == [30] * 4
    assert len(downloads) == 1
    assert sorted(server.requested) == sorted(ARCHIVES)
    assert messages == [f"mnist: waiting for another process to download it to {root}"] * 3


def test_leftovers_of_a_killed_process_are_removed(publish, server, root):
    publish(datasets.MNIST)
    (root / ".MNIST.part" / "MNIST" / "raw").mkdir(parents=True)
    (root / ".MNIST.part" / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"half")
    (root / ".MNIST.lock").write_text("")
    assert len(MNIST(str(root)).split("train")) == 30
    assert not (root / ".MNIST.part").exists()


def test_existing_archive_is_unpacked(publish, server, root, caplog):
    folder = publish(datasets.CIFAR10)
    root.mkdir(parents=True)
    by_hand = (folder / "cifar-10-python.tar.gz").rename(root / "cifar-10-python.tar.gz")
    caplog.set_level(logging.INFO)
    assert len(CIFAR10(str(root)).split("test")) == 100
    assert server.requested == []
    assert by_hand.exists()
    assert f"cifar10: unpacking the archives in {root}" in caplog.text


def test_only_missing_archives_are_downloaded(publish, server, root):
    folder = publish(datasets.MNIST)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ARCHIVES[:3]:
        (folder / name).rename(raw / name)
    assert len(MNIST(str(root)).split("test")) == 20
    assert server.requested == ARCHIVES[3:]


def test_archive_is_copied_without_hard_links(publish, server, root, monkeypatch):
    folder = publish(datasets.CIFAR10)
    root.mkdir(parents=True)
    (folder / "cifar-10-python.tar.gz").rename(root / "cifar-10-python.tar.gz")

    def link(*_):
        raise OSError("not on this file system")

    monkeypatch.setattr(download.os, "link", link)
    assert len(CIFAR10(str(root)).split("test")) == 100
    assert server.requested == []


def test_damaged_archive_is_reported_and_kept(publish, server, root):
    publish(datasets.CIFAR10)
    root.mkdir(parents=True)
    archive = root / "cifar-10-python.tar.gz"
    archive.write_bytes(b"half of it")
    with pytest.raises(UserError, match=f"^{archive}: damaged, expected MD5 [0-9a-f]{{32}}; delete it and run again$"):
        CIFAR10(str(root))
    assert archive.read_bytes() == b"half of it"
    assert server.requested == []


def test_deleted_file_is_downloaded_again(publish, server, root):
    publish(datasets.CIFAR10)
    batch = CIFAR10(str(root)).root / "cifar-10-batches-py" / "data_batch_2"
    content = batch.read_bytes()
    batch.unlink()
    assert len(CIFAR10(str(root)).split("train")) == 180
    assert batch.read_bytes() == content


@pytest.mark.parametrize(
    ("source_class", "dataset", "manual_steps"),
    [
        (MNIST, datasets.MNIST, "these 4 files of {url} into {root}/MNIST/raw"),
        (CIFAR10, datasets.CIFAR10, "{url}cifar-10-python.tar.gz into {root}"),
    ],
)
def test_unreachable_server_is_an_error(publish, closed_url, root, caplog, source_class, dataset, manual_steps):
    publish(dataset)
    caplog.set_level(logging.INFO)
    with pytest.raises(UserError) as caught:
        source_class(str(root))
    message = str(caught.value)
    steps = manual_steps.format(root=root, url=closed_url)
    assert message == (
        f"data={source_class.name}: the download failed (Connection refused); put {steps}, or type "
        f"data.root=<directory with {source_class.folder}/>"
    )
    assert (f"{closed_url}: {', '.join(ARCHIVES)}" in caplog.messages) == (source_class is MNIST)
    assert [path.name for path in root.iterdir()] == [f".{source_class.folder}.lock"]


@pytest.mark.parametrize(("source_class", "dataset"), [(MNIST, datasets.MNIST), (CIFAR10, datasets.CIFAR10)])
def test_truncated_download_is_an_error(publish, root, source_class, dataset):
    folder = publish(dataset)
    for archive in folder.glob("*.gz"):
        archive.write_bytes(archive.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"failed \(.*corrupted.*\); put .* into "):
        source_class(str(root))
    assert [path.name for path in root.iterdir()] == [f".{source_class.folder}.lock"]


def test_interrupt_leaves_only_the_lock(publish, root, monkeypatch):
    publish(datasets.CIFAR10)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets.utils, "_extract_tar", interrupt)
    monkeypatch.setitem(datasets.utils._ARCHIVE_EXTRACTORS, ".tar", interrupt)
    with pytest.raises(KeyboardInterrupt):
        CIFAR10(str(root))
    assert [path.name for path in root.iterdir()] == [".cifar-10-batches-py.lock"]


def test_root_below_a_file_is_an_error(publish, tmp_path):
    publish(datasets.MNIST)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^data=mnist: the directory .*/file cannot be created: it is a file; "):
        MNIST(str(tmp_path / "file"))


def url_of(dataset, server):
    """The URL that the log shows."""
    if dataset is datasets.Imagenette:
        return dataset._ARCHIVES["160px"][0]
    return dataset.url if issubclass(dataset, datasets.CIFAR10) else server.url
