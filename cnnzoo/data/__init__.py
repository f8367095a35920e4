"""Images: where they come from, in which order, what is done to them, how they reach the device.

`cnnzoo.data.datamodule.DataModule` puts it together; it alone needs Lightning.
"""

from cnnzoo.data.cache.cache import Cache
from cnnzoo.data.datasets.builtin import Digits, Synthetic
from cnnzoo.data.datasets.folder import ImageFolder
from cnnzoo.data.datasets.torchvision_sets import CIFAR10, CIFAR100, MNIST, FashionMNIST, ImageNet, Imagenette
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
    "Cache",
    "DaliLoader",
    "Digits",
    "FashionMNIST",
    "ImageFolder",
    "ImageNet",
    "Imagenette",
    "Preprocess",
    "Synthetic",
    "TorchLoader",
    "auto_loader",
]
