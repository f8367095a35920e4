"""Images: where they come from, in which order, what is done to them, how they reach the device.

`cnnzoo.data.datamodule.DataModule` puts it together; it alone needs Lightning.
"""

from cnnzoo.data.augment import Augment
from cnnzoo.data.auto import auto_loader
from cnnzoo.data.cache import Cache
from cnnzoo.data.dali_loader import DaliLoader
from cnnzoo.data.preprocess import Preprocess
from cnnzoo.data.sources import (
    Cifar10,
    Cifar100,
    Digits,
    FashionMnist,
    Folder,
    Imagenet,
    Imagenette,
    Mnist,
    Synthetic,
)
from cnnzoo.data.torch_loader import TorchLoader

__all__ = [
    "Augment",
    "Cache",
    "Cifar10",
    "Cifar100",
    "DaliLoader",
    "Digits",
    "FashionMnist",
    "Folder",
    "Imagenet",
    "Imagenette",
    "Mnist",
    "Preprocess",
    "Synthetic",
    "TorchLoader",
    "auto_loader",
]
