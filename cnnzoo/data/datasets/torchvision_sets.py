"""Standard data sets: MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100, ImageNet and Imagenette.

All but ImageNet are downloaded, verified and unpacked by torchvision, in torchvision's directory layout. Torchvision's
data set classes are imported only when a set is downloaded or read.
"""

import logging
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cnnzoo.checks import check_choice
from cnnzoo.data.datasets.class_names import CIFAR100_CLASSES, IMAGENETTE_CLASSES
from cnnzoo.data.datasets.download import ensure_downloaded, has_md5
from cnnzoo.data.datasets.folder import ImageFolder
from cnnzoo.data.split import SPLITS, Split, stratified_split
from cnnzoo.errors import UserError

IMAGENETTE_COUNTS = (9469, 3925)  # images of train and val
IMAGENETTE_SIZES = {  # (folder, megabytes to download, proposed image size); 128 is what its leaderboard uses for 160px
    "full": ("imagenette2", 1557, 224),
    "320px": ("imagenette2-320", 342, 224),
    "160px": ("imagenette2-160", 99, 128),
}

log = logging.getLogger(__name__)


class _SmallImageSet(ABC):
    """A set of small images with a published test split. A tenth of its training images, by `split_seed`, is val.

    `root` is a directory in torchvision's layout (None: `default_root`). Constructing it downloads the set if it is
    missing. The images are read at the first call of `split`. Raises UserError if the download fails, and from `split`
    if a file is damaged.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    image_size: int  # of the images themselves
    mean: tuple[float, ...]
    std: tuple[float, ...]
    folder: str
    files: tuple[str, ...]  # in `folder`
    megabytes: int
    torchvision_name: str  # the class in torchvision.datasets

    def __init__(self, root: str | None = None, split_seed: int = 0) -> None:
        self.split_seed = split_seed
        self.root = ensure_downloaded(self, root)
        self._splits: dict[str, Split] = {}

    def split(self, name: str) -> Split | None:
        """The split "train", "val" or "test"; train and val are read together."""
        if name in SPLITS and name not in self._splits:
            self._splits |= self._read_splits(train=name != "test")
        return self._splits.get(name)

    def is_present(self, root: Path) -> bool:
        return all((root / self.folder / file).is_file() for file in self.files)

    @abstractmethod
    def archives(self) -> tuple[str, dict[str, str]]: ...

    def download(self, root: Path) -> None:
        self._torchvision_class(root, download=True)

    @property
    def _torchvision_class(self) -> Any:
        from torchvision import datasets

        return getattr(datasets, self.torchvision_name)

    @abstractmethod
    def _is_intact(self, file: str) -> bool:
        """Whether one of `files` is undamaged."""

    def _read_splits(self, *, train: bool) -> dict[str, Split]:
        try:
            data = self._torchvision_class(self.root, train=train)
            labels = np.asarray(data.targets, np.int64)
            shape = len(labels), self.image_size, self.image_size, self.channels
            pixels = np.ascontiguousarray(data.data).reshape(shape)
            if labels.min() < 0 or labels.max() >= len(self.classes):
                raise ValueError("label out of range")
        except OSError as error:
            raise UserError(f"{error.filename or self.root}: cannot be read: {error.strerror or error}") from error
        except (RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
            damaged = (file for file in self.files if not self._is_intact(file))
            path = self.root / self.folder / next(damaged, "")
            raise UserError(f"{path}: damaged; delete it and run again to download it") from error
        if not train:
            return {"test": Split(labels, pixels=pixels)}
        rest, val = stratified_split(labels, 1 / 10, self.split_seed)
        indices = {"train": rest, "val": val}
        return {name: Split(labels[rows], pixels=pixels[rows]) for name, rows in indices.items()}


class MNIST(_SmallImageSet):
    """70,000 handwritten digits of 28x28 grey pixels, 10,000 of them in test (LeCun, Cortes and Burges, 1998)."""

    name = "mnist"
    classes = tuple("0123456789")
    channels = 1
    image_size = 28
    mean = (0.1307,)  # of the 60,000 training images, val included
    std = (0.3081,)
    folder = torchvision_name = "MNIST"
    files = tuple(f"raw/{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
    megabytes = 12

    def archives(self) -> tuple[str, dict[str, str]]:
        torchvision_class = self._torchvision_class
        md5s = {f"{self.folder}/raw/{file}": md5 for file, md5 in torchvision_class.resources}
        return torchvision_class.mirrors[0], md5s

    def _is_intact(self, file: str) -> bool:
        """Whether the file is as long as its header says. (No MD5 of the unpacked files is published.)"""
        from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

        try:
            read_sn3_pascalvincent_tensor(str(self.root / self.folder / file))
        except Exception:  # torchvision raises various exceptions for damaged bytes
            return False
        return True


class FashionMNIST(MNIST):
    """70,000 images of clothes of 28x28 grey pixels, 10,000 of them in test (Xiao, Rasul and Vollgraf, 2017)."""

    name = "fashion_mnist"
    classes = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
    mean = (0.2860,)  # of the 60,000 training images, val included; the values in common use
    std = (0.3530,)
    folder = torchvision_name = "FashionMNIST"
    megabytes = 31


class CIFAR10(_SmallImageSet):
    """60,000 photographs of 32x32 pixels in 10 classes, 10,000 of them in test (Krizhevsky, 2009)."""

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
    mean = (0.4914, 0.4822, 0.4465)  # of the 50,000 training images, val included; std is over all pixels
    std = (0.2470, 0.2435, 0.2616)
    folder = "cifar-10-batches-py"
    files = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
    megabytes = 170
    torchvision_name = "CIFAR10"

    def archives(self) -> tuple[str, dict[str, str]]:
        torchvision_class = self._torchvision_class
        return torchvision_class.url, {torchvision_class.filename: torchvision_class.tgz_md5}

    def _is_intact(self, file: str) -> bool:
        """Whether the file has the MD5 that torchvision lists."""
        lists, meta = self._torchvision_class, self._torchvision_class.meta
        md5s = dict([*lists.train_list, *lists.test_list, (meta["filename"], meta["md5"])])
        return has_md5(self.root / self.folder / file, md5s[file])


class CIFAR100(CIFAR10):
    """60,000 photographs of 32x32 pixels in 100 (fine) classes, 10,000 of them in test (Krizhevsky, 2009)."""

    name = "cifar100"
    classes = CIFAR100_CLASSES
    mean = (0.5071, 0.4865, 0.4409)  # of the 50,000 training images, val included; the values in common use
    std = (0.2673, 0.2564, 0.2762)
    folder = "cifar-100-python"
    files = ("train", "test", "meta")
    megabytes = 169
    torchvision_name = "CIFAR100"


class ImageNet(ImageFolder):
    """ImageNet as `root/train/<class>/` and `root/val/<class>/`. There is no test split.

    Class names are the folder names, usually WordNet IDs. Other files in `root` are ignored, the devkit is not needed,
    and a subset of the classes works as well. Raises UserError for any other layout.
    """

    name = "imagenet"

    def __init__(self, root: str | None = None, split_seed: int = 0) -> None:
        if root is None or not str(root):
            raise UserError(
                f"data={self.name}: expected data.root=<directory with train/ and val/, one folder per class in each>; "
                "cnnzoo does not download ImageNet: register at image-net.org to download it"
            )
        super().__init__(root, split_seed)

    @cached_property
    def image_size(self) -> int:
        return 224

    def _find_split_folders(self) -> dict[str, Path]:
        split_folders = {name: self.root / name for name in ("train", "val")}
        for name, folder in split_folders.items():
            if not folder.is_dir():
                raise UserError(f"data.root={self.root}: no {name}/; data={self.name} expects train/ and val/")
            if not any(entry.is_dir() for entry in folder.iterdir()):
                raise UserError(
                    f"{folder}: no class folders; move each image into the folder of its class "
                    "(valprep.sh does that for ImageNet's validation images)"
                )
        return split_folders


class Imagenette(ImageNet):
    """13,394 photographs of ten easily classified ImageNet classes (Howard, 2019). There is no test split.

    `size` is the size of the stored images: "full" (about 500x400 pixels), or "320px" or "160px" (the shorter side).
    `root` is a directory in torchvision's layout (None: `default_root`). A missing set is downloaded. Raises UserError
    if the download fails or `size` is unknown.
    """

    name = "imagenette"

    def __init__(self, root: str | None = None, split_seed: int = 0, *, size: str = "full") -> None:
        self.size = check_choice("data.source.size", size, IMAGENETTE_SIZES)
        self.folder, self.megabytes, self._proposed_size = IMAGENETTE_SIZES[size]
        super().__init__(str(ensure_downloaded(self, root) / self.folder), split_seed)
        self.classes = tuple(IMAGENETTE_CLASSES.get(number, number) for number in self.classes)
        counts = tuple(len(self._splits[name]) for name in ("train", "val"))
        if counts != IMAGENETTE_COUNTS:
            log.warning(
                "imagenette: %s has %d training and %d validation images, expected %d and %d; delete it and run again "
                "to download it",
                *(self.root, *counts, *IMAGENETTE_COUNTS),
            )

    @cached_property
    def image_size(self) -> int:
        return self._proposed_size

    def is_present(self, root: Path) -> bool:
        return (root / self.folder).is_dir()

    def archives(self) -> tuple[str, dict[str, str]]:
        from torchvision.datasets import Imagenette as TorchvisionImagenette

        url, md5 = TorchvisionImagenette._ARCHIVES[self.size]
        return url, {Path(url).name: md5}

    def download(self, root: Path) -> None:
        from torchvision.datasets import Imagenette as TorchvisionImagenette

        TorchvisionImagenette(root, size=self.size, download=True)
