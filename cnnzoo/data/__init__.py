"""Image data: data sets, augmentation, the RAM cache and the loaders.

`cnnzoo.data.datamodule.DataModule` combines them. It is the only module here that needs Lightning. The names below are
imported by their first use, so that networks with weights need neither OpenCV nor a JPEG decoder.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnzoo.data.cache.cache import Cache
    from cnnzoo.data.datasets.builtin import Digits, DigitsMultilabel, Synthetic
    from cnnzoo.data.datasets.csv import CSVFile
    from cnnzoo.data.datasets.folder import ImageFolder
    from cnnzoo.data.datasets.hf import HuggingFaceDataset
    from cnnzoo.data.datasets.parquet import ParquetFiles
    from cnnzoo.data.datasets.torchvision_sets import CIFAR10, CIFAR100, MNIST, FashionMNIST, ImageNet, Imagenette
    from cnnzoo.data.datasets.webdataset import WebDataset
    from cnnzoo.data.loaders.auto import auto_loader
    from cnnzoo.data.loaders.dali_loader import DaliLoader
    from cnnzoo.data.loaders.torch_loader import TorchLoader
    from cnnzoo.data.transforms.augment import Augment
    from cnnzoo.data.transforms.preprocess import Preprocess
else:  # type checkers would accept every name
    from cnnzoo.runtime.imports import lazy_attributes

    _MODULES = {
        "CIFAR10": "datasets.torchvision_sets",
        "CIFAR100": "datasets.torchvision_sets",
        "MNIST": "datasets.torchvision_sets",
        "Augment": "transforms.augment",
        "CSVFile": "datasets.csv",
        "Cache": "cache.cache",
        "DaliLoader": "loaders.dali_loader",
        "Digits": "datasets.builtin",
        "DigitsMultilabel": "datasets.builtin",
        "FashionMNIST": "datasets.torchvision_sets",
        "HuggingFaceDataset": "datasets.hf",
        "ImageFolder": "datasets.folder",
        "ImageNet": "datasets.torchvision_sets",
        "Imagenette": "datasets.torchvision_sets",
        "ParquetFiles": "datasets.parquet",
        "Preprocess": "transforms.preprocess",
        "Synthetic": "datasets.builtin",
        "TorchLoader": "loaders.torch_loader",
        "WebDataset": "datasets.webdataset",
        "auto_loader": "loaders.auto",
    }
    __getattr__ = lazy_attributes(__name__, _MODULES)

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "Augment",
    "CSVFile",
    "Cache",
    "DaliLoader",
    "Digits",
    "DigitsMultilabel",
    "FashionMNIST",
    "HuggingFaceDataset",
    "ImageFolder",
    "ImageNet",
    "Imagenette",
    "ParquetFiles",
    "Preprocess",
    "Synthetic",
    "TorchLoader",
    "WebDataset",
    "auto_loader",
]


def __dir__() -> list[str]:
    return [*globals(), *__all__]
