"""The images to evaluate on: a split of a data set as the network needs it, with its preprocessing and its classes."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from cnnzoo.checks import check_choice
from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.split import SPLITS, Source, Split
from cnnzoo.data.transforms.preprocess import Preprocess
from cnnzoo.errors import UserError, list_choices

SPLIT_CHOICES = (*SPLITS, "all")


class SelectedImages:
    """A source whose test split is `split`, and which has no other splits."""

    def __init__(self, source: Source, split: Split) -> None:
        self._split = split
        for name in ("name", "classes", "channels", "image_size", "mean", "std"):
            setattr(self, name, getattr(source, name))

    def split(self, name: str) -> Split | None:
        return self._split if name == "test" else None


def select_images(data: DataModule, net: nn.Module, split: str) -> DataModule:
    """A copy of `data` whose test split is `split`, preprocessed for `net`, with the labels that `net` predicts.

    split: "train", "val", "test", or "all" for all that exist.

    Raises `UserError` if there is no such split, if a class of the data is none of the network, and if only one of data
    and network is multi-label.
    """
    names = SPLITS if check_choice("split", split, SPLIT_CHOICES) == "all" else (split,)
    splits = [part for name in names if (part := data.split(name)) is not None]
    if not splits:
        existing = [name for name in SPLITS if data.split(name) is not None]
        raise UserError(f"split={split}: {data.name} has no such split; type split={' or split='.join(existing)}")
    classes: Any = getattr(net, "classes", None)
    indices = match_classes(data, classes, dict(getattr(net, "arguments", {})).get("num_classes"))
    images = _concatenate(splits)
    _check_task(data, images, is_multilabel=hasattr(net, "thresholds"))
    if indices is not None:
        images = replace(images, labels=_renumber(images.labels, indices, num_classes=len(classes)))
    names_of_classes = data.classes if classes is None or indices is None else tuple(classes)
    data = data.variant(start_size=None)
    if (preprocess := getattr(net, "preprocess", None)) is not None:
        use_preprocess(data, preprocess)
    selected = data.variant(source=SelectedImages(data.source, images), classes=names_of_classes)
    selected.resolved_cache = data.resolved_cache
    return selected


def _check_task(data: DataModule, images: Split, *, is_multilabel: bool) -> None:
    if is_multilabel and images.num_classes is None:
        raise UserError(
            f"data={data.name}: one label for each image, but the network is for task=multilabel; choose a multi-label "
            "set, or another network"
        )
    if images.num_classes is not None and not is_multilabel:
        raise UserError(
            f"data={data.name}: any number of labels for each image, but the network was not trained with "
            "task=multilabel; choose other images, or another network"
        )


def _renumber(labels: npt.NDArray[Any], indices: npt.NDArray[np.int64], *, num_classes: int) -> npt.NDArray[Any]:
    """The labels with the numbers of the network's classes; `indices` are those of the data's classes."""
    if labels.ndim == 1:
        return indices[labels]
    columns = np.zeros((len(labels), num_classes), labels.dtype)
    columns[:, indices] = labels
    return columns


def use_preprocess(data: DataModule, preprocess: Preprocess) -> None:
    """Make `data` preprocess its images in evaluation as `preprocess` does; drops the cache unless it does already."""
    if data.input_resolved and data.preprocess == preprocess.arguments:
        return
    augment: Any = {name: getattr(preprocess, name) for name in ("mean", "std", "eval_resize", "fit")}
    data.augment, data.bits = replace(data.augment, **augment), preprocess.bits
    data.set_input(image_size=preprocess.image_size, channels=preprocess.channels)


def match_classes(
    data: DataModule, classes: Sequence[str] | None, num_classes: int | None
) -> npt.NDArray[np.int64] | None:
    """For each class of the data its number in the network, by name; None if all numbers are the same.

    A folder may lack classes of the network. ImageNet's folders have WordNet IDs as names, in the order in which
    networks number the classes. `num_classes` is the network's if it has no names.

    Raises `UserError` that names the classes which the network does not have.
    """
    num_classes = num_classes if classes is None else len(classes)
    same_number = num_classes in (None, data.num_classes)
    if classes is not None and data.classes == tuple(classes):
        return None
    has_wordnet_ids = all(re.fullmatch(r"n\d{8}", name) for name in data.classes)
    if same_number and (classes is None or has_wordnet_ids):
        return None
    if classes is None:
        raise UserError(f"data={data.name}: it has {data.num_classes} classes, the network {num_classes}")
    missing = [name for name in data.classes if name not in classes]
    if missing:
        raise UserError(
            f"data={data.name}: it has {len(missing)} of {data.num_classes} classes that the network does not know "
            f"({list_choices(missing, 3)[:80]}); the network's {num_classes} are {list_choices(classes, 3)[:80]}; "
            "choose other images or another network"
        )
    numbers = {name: number for number, name in reversed(list(enumerate(classes)))}  # the first of equal names
    return np.array([numbers[name] for name in data.classes], np.int64)


def fingerprint(data: DataModule) -> str:
    """A hash of the classes, labels and images (pixels, or which files) of the test split."""
    split = data.split("test")
    assert split is not None
    images = split.pixels if split.pixels is not None else np.frombuffer(split.positions(), np.uint8)
    digest = hashlib.blake2b("\n".join(data.classes).encode(), digest_size=16)
    for array in (split.labels, images):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _concatenate(splits: Sequence[Split]) -> Split:
    """One split with the images of all; without their cache, which holds them split by split."""
    arrays: dict[str, Any] = {}
    for name in ("labels", "pixels", "paths", "rows"):
        parts = [getattr(split, name) for split in splits]
        arrays[name] = parts[0] if len(parts) == 1 or parts[0] is None else np.concatenate(parts)
    return Split(**arrays, reader=splits[0].reader)
