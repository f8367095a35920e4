"""Downloads: from a web server on this machine, through torchvision, once, whole or not at all."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torchvision import datasets

from cnnzoo.data import CIFAR10, CIFAR100, MNIST, FashionMNIST, Imagenette
from cnnzoo.data.datasets import download
from cnnzoo.errors import UserError
from tests.helpers import published

ARCHIVES = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


@pytest.fixture
def server(tmp_path):
    """What lies in tmp_path/published, on a port of this machine."""
    (tmp_path / "published").mkdir()
    server = published.Server(tmp_path / "published")
    yield server
    server.close()


@pytest.fixture
def root(tmp_path):
    """Where nothing is yet."""
    return tmp_path / "sub" / "data sets"


@pytest.fixture
def offer(server, tmp_path, monkeypatch):
    """A function that puts the set of a class of torchvision's on the server."""

    def put(their):
        place = tmp_path / "published"
        if their is datasets.Imagenette:
            published.imagenette(place, monkeypatch)
            archives = {size: (server.url + Path(url).name, md5) for size, (url, md5) in their._ARCHIVES.items()}
            monkeypatch.setattr(their, "_ARCHIVES", archives)
        elif issubclass(their, datasets.CIFAR10):
            published.cifar(place, monkeypatch, their)
            monkeypatch.setattr(their, "url", server.url + their.filename)
        else:
            published.mnist(place, monkeypatch, their)
            monkeypatch.setattr(their, "mirrors", [server.url])
        return place

    return put


@pytest.fixture
def closed(server):
    """The address of a server that is down."""
    server.close()
    return server.url


@pytest.mark.parametrize(
    ("ours", "their", "size", "asked"),
    [
        (MNIST, datasets.MNIST, "12 MB", ARCHIVES),
        (FashionMNIST, datasets.FashionMNIST, "31 MB", ARCHIVES),
        (CIFAR10, datasets.CIFAR10, "170 MB", ["cifar-10-python.tar.gz"]),
        (CIFAR100, datasets.CIFAR100, "169 MB", ["cifar-100-python.tar.gz"]),
        (lambda root: Imagenette(root, size="160px"), datasets.Imagenette, "99 MB", ["imagenette2-160.tgz"]),
    ],
)
def test_a_missing_set_is_downloaded_once(offer, server, root, caplog, ours, their, size, asked):
    offer(their)
    caplog.set_level(logging.INFO)
    source = ours(str(root))
    assert len(source.split("train")) in (12, 30, 100, 180)
    assert server.asked == asked
    lines = [record.message for record in caplog.records if record.name == "cnnzoo.data.datasets.download"]
    assert lines == [f"{source.name} is not in {root}: downloading {size} there from {fetched_from(their, server)}"]
    assert sorted(path.name for path in root.iterdir()) == sorted([f".{source.folder}.lock", source.folder])
    assert not [path for path in root.rglob("*") if path.suffix in (".gz", ".tgz")]
    ours(str(root)).split("val")
    assert server.asked == asked


def test_ranks_that_start_together_download_once(offer, server, root, monkeypatch, caplog):
    offer(datasets.MNIST)
    caplog.set_level(logging.INFO)
    together, wait = threading.Barrier(4), threading.Event()
    real, count = download._download, []

    def slow_download(*arguments):
        count.append(1)
        assert wait.wait(20)  # until the three others have found the lock held
        real(*arguments)

    class Waiting(logging.Handler):
        def emit(self, record):
            waiting.append(record.getMessage())
            if len(waiting) == 3:
                wait.set()

    def rank(_):
        together.wait(20)
        return len(MNIST(str(root)).split("train"))

    waiting, handler = [], Waiting()
    monkeypatch.setattr(download, "_download", slow_download)
    monkeypatch.setattr(download, "log", logging.getLogger("test_fetch"))
    download.log.addFilter(lambda record: "waiting" in record.getMessage())
    download.log.addHandler(handler)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(rank, range(4))) == [30] * 4
    assert len(count) == 1
    assert sorted(server.asked) == sorted(ARCHIVES)
    assert waiting == [f"mnist: waiting for another process, which downloads it to {root}"] * 3


def test_what_a_killed_process_left_does_not_matter(offer, server, root):
    offer(datasets.MNIST)
    (root / ".MNIST.part" / "MNIST" / "raw").mkdir(parents=True)
    (root / ".MNIST.part" / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"half")
    (root / ".MNIST.lock").write_text("")
    assert len(MNIST(str(root)).split("train")) == 30
    assert not (root / ".MNIST.part").exists()


def test_archives_put_there_by_hand_are_unpacked(offer, server, root, caplog):
    place = offer(datasets.CIFAR10)
    root.mkdir(parents=True)
    by_hand = (place / "cifar-10-python.tar.gz").rename(root / "cifar-10-python.tar.gz")
    caplog.set_level(logging.INFO)
    assert len(CIFAR10(str(root)).split("test")) == 100
    assert server.asked == []
    assert by_hand.exists()
    assert f"cifar10: unpacking what lies in {root}" in caplog.text


def test_only_the_missing_archives_are_downloaded(offer, server, root):
    place = offer(datasets.MNIST)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ARCHIVES[:3]:
        (place / name).rename(raw / name)
    assert len(MNIST(str(root)).split("test")) == 20
    assert server.asked == ARCHIVES[3:]


def test_without_hard_links_archives_are_copied(offer, server, root, monkeypatch):
    place = offer(datasets.CIFAR10)
    root.mkdir(parents=True)
    (place / "cifar-10-python.tar.gz").rename(root / "cifar-10-python.tar.gz")

    def link(*_):
        raise OSError("not on this file system")

    monkeypatch.setattr(download.os, "link", link)
    assert len(CIFAR10(str(root)).split("test")) == 100
    assert server.asked == []


def test_a_damaged_archive_is_named_and_left_alone(offer, server, root):
    offer(datasets.CIFAR10)
    root.mkdir(parents=True)
    archive = root / "cifar-10-python.tar.gz"
    archive.write_bytes(b"half of it")
    with pytest.raises(
        UserError, match=f"^{archive}: damaged, its MD5 is not [0-9a-f]{{32}}; delete it and run again$"
    ):
        CIFAR10(str(root))
    assert archive.read_bytes() == b"half of it"
    assert server.asked == []


def test_a_damaged_file_that_was_deleted_comes_back(offer, server, root):
    offer(datasets.CIFAR10)
    batch = CIFAR10(str(root)).root / "cifar-10-batches-py" / "data_batch_2"
    whole = batch.read_bytes()
    batch.unlink()
    assert len(CIFAR10(str(root)).split("train")) == 180
    assert batch.read_bytes() == whole


@pytest.mark.parametrize(
    ("ours", "their", "address", "by_hand"),
    [
        (MNIST, datasets.MNIST, "mirrors", f"{', '.join(ARCHIVES)} into {{root}}/MNIST/raw"),
        (CIFAR10, datasets.CIFAR10, "url", "cifar-10-python.tar.gz into {root}"),
    ],
)
def test_a_server_that_is_down(offer, closed, root, monkeypatch, ours, their, address, by_hand):
    offer(their)
    with pytest.raises(UserError) as caught:
        ours(str(root))
    message = str(caught.value)
    assert message.startswith(f"data={ours.name}: it is not in {root}, and downloading it from {closed}")
    assert "Connection refused" in message
    assert message.endswith(
        f"; put {by_hand.format(root=root)} by hand, or type data.root=<directory that holds {ours.folder}>"
    )
    assert "\n" not in message
    assert [path.name for path in root.iterdir()] == [f".{ours.folder}.lock"]


@pytest.mark.parametrize(("ours", "their"), [(MNIST, datasets.MNIST), (CIFAR10, datasets.CIFAR10)])
def test_a_download_that_is_not_what_was_published(offer, root, ours, their):
    place = offer(their)
    for archive in place.glob("*.gz"):
        archive.write_bytes(archive.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"failed: .*corrupted.*by hand"):
        ours(str(root))
    assert [path.name for path in root.iterdir()] == [f".{ours.folder}.lock"]


def test_an_interrupt_leaves_nothing_half_done(offer, root, monkeypatch):
    offer(datasets.CIFAR10)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets.utils, "_extract_tar", interrupted)
    monkeypatch.setitem(datasets.utils._ARCHIVE_EXTRACTORS, ".tar", interrupted)
    with pytest.raises(KeyboardInterrupt):
        CIFAR10(str(root))
    assert [path.name for path in root.iterdir()] == [".cifar-10-batches-py.lock"]


def test_a_root_that_cannot_be_made(offer, tmp_path):
    offer(datasets.MNIST)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^data=mnist: it is not in .*/file, and .*File exists.* by hand"):
        MNIST(str(tmp_path / "file"))


def fetched_from(their, server):
    """What the log calls the place."""
    if their is datasets.Imagenette:
        return their._ARCHIVES["160px"][0]
    return their.url if issubclass(their, datasets.CIFAR10) else server.url
