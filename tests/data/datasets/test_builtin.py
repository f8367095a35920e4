"""Digits and synthetic images."""

import numpy as np
import pytest

from cnnzoo.data.datasets.builtin import Digits, Synthetic
from cnnzoo.errors import UserError


def test_digits_sizes_and_labels():
    digits = Digits()
    splits = {name: digits.split(name) for name in ("train", "val", "test")}
    assert {name: len(split) for name, split in splits.items()} == {"train": 1293, "val": 144, "test": 360}
    for split in splits.values():
        assert split.pixels.dtype == np.uint8
        assert split.pixels.shape == (len(split), 8, 8, 1)
        assert split.labels.dtype == np.int64
        assert set(split.labels) == set(range(10))
    assert digits.classes == tuple("0123456789")
    assert (digits.channels, digits.image_size) == (1, 16)
    assert digits.split("anything else") is None


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    digits = Digits()
    ours = [
        (bytes(pixels), label)
        for name in ("train", "val", "test")
        for pixels, label in zip(*_arrays(digits.split(name)), strict=True)
    ]
    data = load_digits()
    theirs = [
        (bytes(np.rint(image * 255 / 16).astype(np.uint8)), label)
        for image, label in zip(data.images, data.target, strict=True)
    ]
    assert sorted(ours) == sorted(theirs)
    assert max(max(pixels) for pixels, _ in ours) == 255


def test_digits_mean_and_std_are_those_of_train():
    pixels = Digits().split("train").pixels / 255
    assert Digits.mean == pytest.approx([pixels.mean()], abs=1e-4)
    assert Digits.std == pytest.approx([pixels.std()], abs=1e-4)


def test_digits_splits_depend_on_split_seed_alone():
    first, again, other = Digits().split("test"), Digits().split("test"), Digits(split_seed=1).split("test")
    assert np.array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, other.pixels)


@pytest.mark.parametrize("source", [Digits, Synthetic])
def test_a_root_that_is_not_taken(source):
    with pytest.raises(UserError, match=r"data.root=/somewhere: .*takes no root"):
        source(root="/somewhere")


def test_synthetic_is_as_asked_and_the_same_again():
    made = Synthetic(images=100, classes=4, image_size=12, channels=1)
    train = made.split("train")
    assert train.pixels.shape == (72, 12, 12, 1)
    assert [len(made.split(name)) for name in ("val", "test")] == [8, 20]
    assert made.classes == ("class0", "class1", "class2", "class3")
    again = Synthetic(images=100, classes=4, image_size=12, channels=1).split("train")
    assert np.array_equal(train.pixels, again.pixels)
    assert np.array_equal(train.labels, again.labels)
    other = Synthetic(images=100, classes=4, image_size=12, channels=1, split_seed=1).split("train")
    assert not np.array_equal(train.pixels, other.pixels)


def test_synthetic_can_be_learnt():
    """The nearest class mean of train names most test images right; the images of a class are not copies."""
    made = Synthetic(images=500)
    train, test = made.split("train"), made.split("test")
    means = np.stack([train.pixels[train.labels == label].mean(0) for label in range(10)])
    distances = ((test.pixels[:, None].astype(float) - means) ** 2).mean((2, 3, 4))
    assert (distances.argmin(1) == test.labels).mean() > 0.95
    assert len(np.unique(train.pixels.reshape(len(train), -1), axis=0)) == len(train)
    scaled = train.pixels / 255
    assert made.mean == pytest.approx([scaled.mean()] * 3, abs=0.03)
    assert made.std == pytest.approx([scaled.std()] * 3, abs=0.03)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"classes": 1}, "classes is 1; it must be at least 2"),
        ({"images": 29}, "images is 29; it must be at least 30"),
        ({"image_size": 0}, "image_size is 0"),
        ({"channels": 2}, "channels is 2; it can be 1"),
    ],
)
def test_synthetic_that_cannot_be(arguments, words):
    with pytest.raises(UserError, match=words):
        Synthetic(**arguments)


def _arrays(split):
    return split.pixels, split.labels.tolist()
