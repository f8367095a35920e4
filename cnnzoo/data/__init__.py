"""Image data: data sets, augmentation, the RAM cache and the loaders.

`cnnzoo.data.datamodule.DataModule` combines them. It is the only module here that needs Lightning.
"""

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
