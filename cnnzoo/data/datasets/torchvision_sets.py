"""The data sets that everybody knows. Torchvision downloads, verifies and reads them; its directory layout is kept.

Torchvision's data sets are imported when there is something to download or to read, not before.
"""

import logging
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cnnzoo.data.datasets.class_names import CIFAR100_CLASSES, IMAGENETTE_CLASSES
from cnnzoo.data.datasets.download import ensure_downloaded, has_md5
from cnnzoo.data.datasets.folder import ImageFolder
from cnnzoo.data.split import SPLITS, Split, stratified_split
from cnnzoo.errors import UserError

IMAGENETTE_COUNTS = (9469, 3925)  # Imagenette's train and val
IMAGENETTE_SIZES = {  # Imagenette's: folder, MB to download, and image size, for the smallest as on its authors' leaderboard
    "full": ("imagenette2", 1557, 224),
    "320px": ("imagenette2-320", 342, 224),
    "160px": ("imagenette2-160", 99, 128),
}

log = logging.getLogger(__name__)


class _SmallImageSet(ABC):
    """A small set with a published test split; a tenth of its training images is val, by `split_seed`.

    `root` is a directory in torchvision's layout (None: `default_root`). Building one makes sure that the set is there,
    and downloads it if not; pixels are read when a split is first asked for. Raises UserError where the download fails,
    and from `split` for a damaged file.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    image_size: int  # their own
    mean: tuple[float, ...]
    std: tuple[float, ...]
    folder: str
    files: tuple[str, ...]  # in `folder`
    megabytes: int
    torchvision: str  # the name of its class

    def __init__(self, root: str | None = None, split_seed: int = 0) -> None:
        self.split_seed = split_seed
        self.root = ensure_downloaded(self, root)
        self._splits: dict[str, Split] = {}

    def split(self, name: str) -> Split | None:
        """The split "train" or "val", which are read together, or "test"."""
        if name in SPLITS and name not in self._splits:
            self._splits |= self._read(train=name != "test")
        return self._splits.get(name)

    def there(self, root: Path) -> bool:
        """Whether all files are there."""
        return all((root / self.folder / file).is_file() for file in self.files)

    @abstractmethod
    def archives(self) -> tuple[str, dict[str, str]]:
        """Torchvision's address, and MD5 of each archive."""

    def download(self, into: Path) -> None:
        """As torchvision does."""
        self._theirs(into, download=True)

    @property
    def _theirs(self) -> Any:
        from torchvision import datasets

        return getattr(datasets, self.torchvision)

    @abstractmethod
    def _intact(self, file: str) -> bool:
        """Whether one of `files` is whole."""

    def _read(self, *, train: bool) -> dict[str, Split]:
        try:
            data = self._theirs(self.root, train=train)
            labels = np.asarray(data.targets, np.int64)
            shape = len(labels), self.image_size, self.image_size, self.channels
            pixels = np.ascontiguousarray(data.data).reshape(shape)
            if labels.min() < 0 or labels.max() >= len(self.classes):
                raise ValueError("a label that is no class")
        except OSError as error:
            raise UserError(f"{error.filename or self.root}: cannot be read: {error.strerror or error}") from error
        except (RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
            damaged = (file for file in self.files if not self._intact(file))
            bad = self.root / self.folder / next(damaged, "")
            raise UserError(f"{bad}: damaged; delete it and run again, to download it anew") from error
        if not train:
            return {"test": Split(labels, pixels=pixels)}
        rest, val = stratified_split(labels, 1 / 10, self.split_seed)
        parts = {"train": rest, "val": val}
        return {name: Split(labels[at], pixels=pixels[at]) for name, at in parts.items()}


class MNIST(_SmallImageSet):
    """70,000 handwritten digits of 28x28 grey pixels (LeCun, Cortes and Burges, 1998), 10,000 of them test."""

    name = "mnist"
    classes = tuple("0123456789")
    channels = 1
    image_size = 28
    mean = (0.1307,)  # measured on all 60,000 training images
    std = (0.3081,)
    folder = torchvision = "MNIST"
    files = tuple(f"raw/{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
    megabytes = 12

    def archives(self) -> tuple[str, dict[str, str]]:
        """Torchvision's first mirror, and the MD5 of the four files."""
        theirs = self._theirs
        return theirs.mirrors[0], {f"{self.folder}/raw/{file}": md5 for file, md5 in theirs.resources}

    def _intact(self, file: str) -> bool:
        """Whether the file is as long as its header says: no MD5 of the unpacked files is published."""
        from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

        try:
            read_sn3_pascalvincent_tensor(str(self.root / self.folder / file))
        except Exception:  # whatever torchvision raises for bytes that mean nothing
            return False
        return True


class FashionMNIST(MNIST):
    """70,000 pictures of clothes, 28x28 grey pixels (Xiao, Rasul and Vollgraf, 2017), 10,000 of them test."""

    name = "fashion_mnist"
    classes = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
    mean = (0.2860,)  # published with many trainings of it, of the 60,000 training images
    std = (0.3530,)
    folder = torchvision = "FashionMNIST"
    megabytes = 31


class CIFAR10(_SmallImageSet):
    """60,000 photographs of 32x32 pixels in 10 classes (Krizhevsky, 2009), 10,000 of them test."""

    name = "cifar10"
    classes: tuple[str, ...] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    channels = 3
    image_size = 32
    mean = (0.4914, 0.4822, 0.4465)  # of the 50,000 training images; the deviation is over all pixels of all images
    std = (0.2470, 0.2435, 0.2616)
    folder = "cifar-10-batches-py"
    files = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
    megabytes = 170
    torchvision = "CIFAR10"

    def archives(self) -> tuple[str, dict[str, str]]:
        """The authors' address, and the MD5 of the one archive."""
        theirs = self._theirs
        return theirs.url, {theirs.filename: theirs.tgz_md5}

    def _intact(self, file: str) -> bool:
        """Whether the file has the MD5 that torchvision knows."""
        theirs = self._theirs
        published = dict([*theirs.train_list, *theirs.test_list, (theirs.meta["filename"], theirs.meta["md5"])])
        return has_md5(self.root / self.folder / file, published[file])


class CIFAR100(CIFAR10):
    """60,000 photographs of 32x32 pixels in 100 classes (Krizhevsky, 2009), 10,000 of them test; the fine labels."""

    name = "cifar100"
    classes = CIFAR100_CLASSES
    mean = (0.5071, 0.4865, 0.4409)  # published with many trainings of it, of the 50,000 training images
    std = (0.2673, 0.2564, 0.2762)
    folder = "cifar-100-python"
    files = ("train", "test", "meta")
    megabytes = 169
    torchvision = "CIFAR100"


class ImageNet(ImageFolder):
    """ImageNet's `root/train/<class>/` and `root/val/<class>/`, as users lay it out: val validates, nothing is tested.

    A class is named as its folder, usually a WordNet number. Whatever else lies in `root` is passed over, and no devkit
    is needed; any part of the classes will do. Raises UserError for everything that does not look like this.
    """

    name = "imagenet"

    def __init__(self, root: str | None = None, split_seed: int = 0) -> None:
        if root is None or not str(root):
            raise UserError(
                f"data={self.name} needs data.root=<directory with train/ and val/, one folder per class in each>; "
                "ImageNet can be downloaded from image-net.org by those who registered there, not by this program"
            )
        super().__init__(root, split_seed)

    @cached_property
    def image_size(self) -> int:
        """What the field crops out of its photographs, of any size."""
        return 224

    def _given_splits(self) -> dict[str, Path]:
        given = {name: self.root / name for name in ("train", "val")}
        for name, place in given.items():
            if not place.is_dir():
                raise UserError(f"data.root={self.root}: there is no {name}/; data={self.name} wants train/ and val/")
            if not any(entry.is_dir() for entry in place.iterdir()):
                raise UserError(
                    f"{place}: there are no class folders; move each image into the folder of its class "
                    "(for the archive of ImageNet's validation images valprep.sh does that)"
                )
        return given


class Imagenette(ImageNet):
    """13,394 photographs of ten easy classes of ImageNet (Howard, 2019); val validates, nothing is tested.

    `size` is how they are stored: "full" (about 500x400 pixels), "320px" or "160px" (the shorter side). `root` is as in
    torchvision (None: `default_root`); a missing set is downloaded. Raises UserError where that fails, and for another
    size.
    """

    name = "imagenette"

    def __init__(self, root: str | None = None, split_seed: int = 0, *, size: str = "full") -> None:
        if size not in IMAGENETTE_SIZES:
            raise UserError(f"data.source.size={size}: it can be {', '.join(IMAGENETTE_SIZES)}")
        self.size = size
        self.folder, self.megabytes, self._proposed = IMAGENETTE_SIZES[size]
        super().__init__(str(ensure_downloaded(self, root) / self.folder), split_seed)
        self.classes = tuple(IMAGENETTE_CLASSES.get(number, number) for number in self.classes)
        found = tuple(len(self._splits[name]) for name in ("train", "val"))
        if found != IMAGENETTE_COUNTS:
            log.warning(
                "imagenette: %s has %d training and %d validation images, not %d and %d; delete it to download it anew",
                *(self.root, *found, *IMAGENETTE_COUNTS),
            )

    @cached_property
    def image_size(self) -> int:
        """224, but 128 for images stored at 160."""
        return self._proposed

    def there(self, root: Path) -> bool:
        """Whether its folder is there."""
        return (root / self.folder).is_dir()

    def archives(self) -> tuple[str, dict[str, str]]:
        """Its authors' address, and the MD5 of the one archive."""
        from torchvision.datasets import Imagenette as Theirs

        url, md5 = Theirs._ARCHIVES[self.size]
        return url, {Path(url).name: md5}

    def download(self, into: Path) -> None:
        """As torchvision does."""
        from torchvision.datasets import Imagenette as Theirs

        Theirs(into, size=self.size, download=True)
