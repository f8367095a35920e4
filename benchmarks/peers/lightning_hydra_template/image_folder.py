"""What a user of lightning-hydra-template writes to train a network of cnnzoo on folders of images.

Its README asks for a module and a data module, for which those of its MNIST example are the pattern, and for an
experiment config. The configs are in `configs/`.
"""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from src.models.mnist_module import MNISTLitModule
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.classification.accuracy import Accuracy
from torchvision import datasets, transforms

from cnnzoo.models import create_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageModule(MNISTLitModule):  # type: ignore[misc]
    """The module of the example for any number of classes."""

    def __init__(self, net: nn.Module, optimizer: Any, scheduler: Any, compile: bool, num_classes: int) -> None:
        super().__init__(net, optimizer, scheduler, compile)
        self.train_acc = Accuracy(task="multiclass", num_classes=num_classes)
        self.val_acc = Accuracy(task="multiclass", num_classes=num_classes)
        self.test_acc = Accuracy(task="multiclass", num_classes=num_classes)


def build_network(name: str, num_classes: int) -> nn.Module:
    """A network of cnnzoo, channels last."""
    return create_model(name, num_classes=num_classes).to(memory_format=torch.channels_last)


class ImageFolderDataModule(LightningDataModule):  # type: ignore[misc]
    """Images in DIR/train and DIR/test, with one folder per class in each."""

    def __init__(self, data_dir: str, image_size: int, batch_size: int, num_workers: int, pin_memory: bool) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        normalize = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        augment = [transforms.RandomResizedCrop(image_size), transforms.RandomHorizontalFlip()]
        center = [transforms.Resize(image_size * 8 // 7), transforms.CenterCrop(image_size)]
        self.train_transform = transforms.Compose([*augment, *normalize])
        self.test_transform = transforms.Compose([*center, *normalize])

    def setup(self, stage: str | None = None) -> None:
        folder = Path(self.hparams.data_dir)
        self.data_train = datasets.ImageFolder(folder / "train", self.train_transform)
        self.data_test = datasets.ImageFolder(folder / "test", self.test_transform)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._make_loader(self.data_train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._make_loader(self.data_test, shuffle=False)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._make_loader(self.data_test, shuffle=False)

    def _make_loader(self, dataset: Any, shuffle: bool) -> DataLoader[Any]:
        return DataLoader(
            dataset=dataset,
            batch_size=self.hparams.batch_size,
            num_workers=self.hparams.num_workers,
            pin_memory=self.hparams.pin_memory,
            shuffle=shuffle,
        )
