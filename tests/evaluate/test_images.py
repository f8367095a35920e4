"""The images to evaluate on: splits, preprocessing and the numbers of the classes."""

import numpy as np
import pytest
from torch import nn

from cnnzoo.data import Digits, Preprocess
from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.split import Split
from cnnzoo.errors import UserError
from cnnzoo.evaluate.images import fingerprint, match_classes, select_images


class Source:
    """Three images of the classes `classes`, all in train."""

    name, channels, image_size, mean, std = "pets", 1, 8, (0.5,), (0.5,)

    def __init__(self, classes, root=None, split_seed=0):
        self.classes = classes

    def split(self, name):
        return Split(np.arange(3) % len(self.classes), np.zeros((3, 8, 8, 1), np.uint8)) if name == "train" else None


def pets(*classes):
    return DataModule(lambda **arguments: Source(classes, **arguments))


def network(classes=None, num_classes=None):
    net = nn.Flatten()
    if classes is not None:
        net.classes = classes
    net.arguments = {} if num_classes is None else {"num_classes": num_classes}
    net.preprocess = Preprocess(12, 1.25, 3, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    return net


def test_select_all_has_every_image_in_order():
    data = DataModule(Digits)
    selected = select_images(data, network(tuple("0123456789")), "all")
    labels = np.concatenate([data.split(name).labels for name in ("train", "val", "test")])
    assert np.array_equal(selected.split("test").labels, labels)
    assert np.array_equal(selected.split("test").pixels[1293], data.split("val").pixels[0])
    assert selected.split("train") is None


def test_select_uses_the_preprocessing_of_the_network():
    net = network(tuple("0123456789"))
    data = select_images(DataModule(Digits), net, "test")
    assert str(data.preprocessor()) == str(net.preprocess)


def test_select_missing_split_names_the_existing_one():
    with pytest.raises(UserError, match="split=test: pets has no such split; type split=train"):
        select_images(pets("cat", "dog"), network(("cat", "dog")), "test")


def test_select_unknown_split_raises():
    with pytest.raises(UserError, match="split=tset: expected"):
        select_images(pets("cat", "dog"), network(("cat", "dog")), "tset")


def test_classes_in_another_order_get_the_numbers_of_the_network():
    selected = select_images(pets("cat", "dog"), network(("ant", "dog", "cat")), "train")
    assert selected.split("test").labels.tolist() == [2, 1, 2]
    assert selected.classes == ("ant", "dog", "cat")


def test_unknown_classes_are_named():
    with pytest.raises(UserError, match=r"1 of 2 classes .*\(cow\).*ant, dog, cat") as error:
        select_images(pets("cat", "cow"), network(("ant", "dog", "cat")), "train")
    assert len(str(error.value)) < 300


def test_wordnet_ids_are_matched_by_position():
    ids = ("n01440764", "n01443537")
    assert match_classes(pets(*ids), ("tench", "goldfish"), None) is None
    assert select_images(pets(*ids), network(("tench", "goldfish")), "train").classes == ids
    with pytest.raises(UserError, match="n01440764"):
        match_classes(pets(*ids), ("tench", "goldfish", "shark"), None)


def test_network_without_names_needs_the_same_number_of_classes():
    assert match_classes(pets("cat", "dog"), None, 2) is None
    with pytest.raises(UserError, match="2 classes, the network 3"):
        match_classes(pets("cat", "dog"), None, 3)


def test_fingerprint_depends_on_images_labels_and_classes():
    net = network(tuple("0123456789"))
    prints = [fingerprint(select_images(DataModule(Digits, split_seed=seed), net, "test")) for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]
    named = [fingerprint(select_images(pets(*names), network(names), "train")) for names in (("a", "b"), ("a", "c"))]
    assert named[0] != named[1]
