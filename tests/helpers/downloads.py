"""Standard data sets as published, but with a few images each, and a local web server that offers their archives.

Each function writes a data set's files and patches torchvision's MD5s to match them.
"""

import functools
import gzip
import hashlib
import http.server
import io
import pickle
import struct
import tarfile
import threading
from pathlib import Path

import numpy as np
from torchvision import datasets

from tests.helpers.images import make_pixels, save_image

WORDNET_IDS = ("n01440764", "n02102040", "n02979186")


def write_mnist(folder: Path, monkeypatch, dataset=datasets.MNIST) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write MNIST's four archives to `folder`: 40 training and 20 test images. Returns the arrays by split."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays, resources = {}, []
    for split, part, count in (("train", "train", 40), ("test", "t10k", 20)):
        pixels, labels = arrays[split] = make_arrays(part, count, 28, 28, 1)
        for kind, array in (("images-idx3", pixels[..., 0]), ("labels-idx1", labels)):
            archive = folder / f"{part}-{kind}-ubyte.gz"
            archive.write_bytes(gzip.compress(to_idx(array), 1))
            resources.append((archive.name, md5_of(archive)))
    monkeypatch.setattr(dataset, "resources", resources)
    return arrays


def write_cifar(folder: Path, monkeypatch, dataset=datasets.CIFAR10) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write CIFAR's archive and files to `folder`: 200 training and 100 test images. Returns the arrays by split."""
    batches, is_cifar100 = folder / dataset.base_folder, dataset is datasets.CIFAR100
    batches.mkdir(parents=True)
    classes, md5s, arrays = (100 if is_cifar100 else 10), {}, {}
    for files, split, count in ((dataset.train_list, "train", 200), (dataset.test_list, "test", 100)):
        pixels, labels = arrays[split] = make_arrays(split, count, 32, 32, classes=classes)
        flat, step = pixels.transpose(0, 3, 1, 2).reshape(count, -1), count // len(files)
        for n, (file, _) in enumerate(files):
            part = slice(n * step, (n + 1) * step)
            batch = {"data": flat[part], "fine_labels" if is_cifar100 else "labels": labels[part].tolist()}
            (batches / file).write_bytes(pickle.dumps(batch, protocol=2))
            md5s[file] = md5_of(batches / file)
    meta = batches / dataset.meta["filename"]
    meta.write_bytes(pickle.dumps({dataset.meta["key"]: [str(n) for n in range(classes)]}, protocol=2))
    archive = make_tar(batches, folder / dataset.filename)
    monkeypatch.setattr(dataset, "train_list", [(file, md5s[file]) for file, _ in dataset.train_list])
    monkeypatch.setattr(dataset, "test_list", [(file, md5s[file]) for file, _ in dataset.test_list])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5_of(meta)})
    monkeypatch.setattr(dataset, "tgz_md5", md5_of(archive))
    return arrays


def write_imagenette(folder: Path, monkeypatch, size: str = "160px") -> None:
    """Write Imagenette's archive and its files to `folder`: 3 classes with 4 training and 2 val images each."""
    url, _ = datasets.Imagenette._ARCHIVES[size]
    root = folder / Path(url).stem
    for split, count in (("train", 4), ("val", 2)):
        for wordnet_id in WORDNET_IDS:
            for n in range(count):
                save_image(root / split / wordnet_id / f"{wordnet_id}_{n}.JPEG")
    archive = make_tar(root, folder / Path(url).name)
    monkeypatch.setattr(datasets.Imagenette, "_ARCHIVES", {size: (url, md5_of(archive))})


def make_arrays(name: str, count: int, *shape: int, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (count, *shape) and labels 0, 1, 2, ... modulo `classes`."""
    images = [make_pixels(f"{name} {n}", *shape) for n in range(count)]
    return np.stack(images), np.arange(count, dtype=np.uint8) % classes


def to_idx(array: np.ndarray) -> bytes:
    """IDX, the format of MNIST's files."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def make_tar(folder: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz", compresslevel=1) as file:
        file.add(folder, folder.name)
    return archive


def md5_of(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


class Server:
    """A web server on localhost for the files in `folder`; `requested` lists the downloaded files."""

    def __init__(self, folder: Path) -> None:
        self.requested = requested = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                if self.headers["Method"] != "HEAD":  # torchvision looks for redirections with this header
                    requested.append(self.path.strip("/"))
                super().do_GET()

            def send_error(self, code, *_):
                self.send_response(code)
                self.end_headers()
                self.wfile = io.BytesIO()

        handler = functools.partial(Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
