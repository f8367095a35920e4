"""Standard data sets in their real formats, a few images each; torchvision is told their MD5s, and a web server."""

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

from tests.helpers.images import pixels_of, save

WNIDS = ("n01440764", "n02102040", "n02979186")


def idx(array: np.ndarray) -> bytes:
    """The format of MNIST's files."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def arrays(name: str, count: int, *shape: int, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (count, *shape) and labels, every class in turn."""
    images = [pixels_of(f"{name} {n}", *shape) for n in range(count)]
    return np.stack(images), np.arange(count, dtype=np.uint8) % classes


def mnist(place: Path, monkeypatch, their=datasets.MNIST) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The four archives of MNIST in `place`: 40 training images, 20 of test."""
    place.mkdir(parents=True, exist_ok=True)
    made, resources = {}, []
    for part, count in (("train", 40), ("t10k", 20)):
        pixels, labels = arrays(part, count, 28, 28, 1)
        for kind, array in (("images-idx3", pixels[..., 0]), ("labels-idx1", labels)):
            archive = place / f"{part}-{kind}-ubyte.gz"
            archive.write_bytes(gzip.compress(idx(array), 1))
            resources.append((archive.name, md5(archive)))
        made["test" if part == "t10k" else "train"] = pixels, labels
    monkeypatch.setattr(their, "resources", resources)
    return made


def cifar(place: Path, monkeypatch, their=datasets.CIFAR10) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """CIFAR's archive and what it holds in `place`: 200 training images, 100 of test."""
    batches, fine = place / their.base_folder, their is datasets.CIFAR100
    batches.mkdir(parents=True)
    classes, known, made = (100 if fine else 10), {}, {}
    for files, name, count in ((their.train_list, "train", 200), (their.test_list, "test", 100)):
        pixels, labels = arrays(name, count, 32, 32, classes=classes)
        made[name] = pixels, labels
        flat, step = pixels.transpose(0, 3, 1, 2).reshape(count, -1), count // len(files)
        for n, (file, _) in enumerate(files):
            part = slice(n * step, (n + 1) * step)
            entry = {"data": flat[part], "fine_labels" if fine else "labels": labels[part].tolist()}
            (batches / file).write_bytes(pickle.dumps(entry, protocol=2))
            known[file] = md5(batches / file)
    meta = batches / their.meta["filename"]
    meta.write_bytes(pickle.dumps({their.meta["key"]: [str(n) for n in range(classes)]}, protocol=2))
    archive = tar(batches, place / their.filename)
    monkeypatch.setattr(their, "train_list", [(file, known[file]) for file, _ in their.train_list])
    monkeypatch.setattr(their, "test_list", [(file, known[file]) for file, _ in their.test_list])
    monkeypatch.setattr(their, "meta", {**their.meta, "md5": md5(meta)})
    monkeypatch.setattr(their, "tgz_md5", md5(archive))
    return made


def imagenette(place: Path, monkeypatch, size: str = "160px") -> None:
    """Imagenette's archive and what it holds in `place`: 3 classes, 4 training images and 2 of val each."""
    url, _ = datasets.Imagenette._ARCHIVES[size]
    folder = place / Path(url).stem
    for split, count in (("train", 4), ("val", 2)):
        for wnid in WNIDS:
            for n in range(count):
                save(folder / split / wnid / f"{wnid}_{n}.JPEG")
    archive = tar(folder, place / Path(url).name)
    monkeypatch.setattr(datasets.Imagenette, "_ARCHIVES", {size: (url, md5(archive))})


def tar(folder: Path, archive: Path) -> Path:
    """`folder` in an archive."""
    with tarfile.open(archive, "w:gz", compresslevel=1) as file:
        file.add(folder, folder.name)
    return archive


def md5(file: Path) -> str:
    """A file's MD5."""
    return hashlib.md5(file.read_bytes()).hexdigest()


class Server:
    """`place` on a port of this machine; `asked` are the files that were downloaded from it."""

    def __init__(self, place: Path) -> None:
        self.asked = asked = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                if self.headers["Method"] != "HEAD":  # torchvision's way to ask for redirections
                    asked.append(self.path.strip("/"))
                super().do_GET()

            def send_error(self, code, *_):
                self.send_response(code)
                self.end_headers()
                self.wfile = io.BytesIO()

        handler = functools.partial(Handler, directory=str(place))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self.server.shutdown()
        self.server.server_close()
