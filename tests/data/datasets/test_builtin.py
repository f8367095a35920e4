"""Digits and synthetic images."""

import hashlib

import numpy as np
import pytest

from cnnzoo.data.datasets.builtin import DIGITS_FILE, Digits, DigitsMultilabel, Synthetic
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


def test_digits_multilabel_has_the_same_images_and_splits():
    for name in ("train", "val", "test"):
        split, digits = DigitsMultilabel().split(name), Digits().split(name)
        assert np.array_equal(split.pixels, digits.pixels)
        assert split.labels.dtype == np.uint8
        for row, digit in zip(split.labels.tolist(), digits.labels.tolist(), strict=True):
            assert row == [digit % 2 == 0, digit in (2, 3, 5, 7), digit > 4]
    assert DigitsMultilabel().split("anything else") is None
    assert DigitsMultilabel.classes == ("even", "prime", "greater_than_4")


def test_digits_file_is_pinned():
    assert DIGITS_FILE.with_name("digits_NOTICE.txt").is_file()
    with np.load(DIGITS_FILE) as digits:
        images, target = digits["images"], digits["target"]
    assert (images.shape, images.dtype, target.shape, target.dtype) == ((1797, 8, 8), np.uint8, (1797,), np.uint8)
    assert (images.min(), images.max(), int(images.sum())) == (0, 16, 561_718)
    assert np.bincount(target).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    checksum = hashlib.sha256(images.tobytes() + target.tobytes()).hexdigest()
    assert checksum == "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


def test_digits_equal_those_of_scikit_learn():
    data = pytest.importorskip("sklearn.datasets").load_digits()
    with np.load(DIGITS_FILE) as digits:
        assert np.array_equal(digits["images"], data.images)
        assert np.array_equal(digits["target"], data.target)


def test_digits_splits_contain_every_image_once():
    digits = Digits()
    in_splits = [
        (bytes(image), label)
        for split in map(digits.split, ("train", "val", "test"))
        for image, label in zip(split.pixels, split.labels.tolist(), strict=True)
    ]
    with np.load(DIGITS_FILE) as file:
        in_file = [
            (bytes(np.rint(image * (255 / 16)).astype(np.uint8)), label)
            for image, label in zip(file["images"], file["target"].tolist(), strict=True)
        ]
    assert sorted(in_splits) == sorted(in_file)
    assert max(max(pixels) for pixels, _ in in_splits) == 255


def test_digits_pixels_and_splits_are_pinned():
    checksum = hashlib.sha256()
    for split in map(Digits().split, ("train", "val", "test")):
        checksum.update(split.pixels.tobytes() + split.labels.astype("<i8").tobytes())
    assert checksum.hexdigest() == "599ec41a12f2e0a9afa42dc49cddf2b32194a19f0ec15f6c097b420c6430373d"


def test_digits_mean_and_std_are_those_of_train():
    pixels = Digits().split("train").pixels / 255
    assert Digits.mean == pytest.approx([pixels.mean()], abs=1e-4)
    assert Digits.std == pytest.approx([pixels.std()], abs=1e-4)


def test_digits_splits_depend_on_split_seed():
    first, again, other = Digits().split("test"), Digits().split("test"), Digits(split_seed=1).split("test")
    assert np.array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, other.pixels)


@pytest.mark.parametrize("source", [Digits, Synthetic])
def test_root_is_an_error(source):
    with pytest.raises(UserError, match=r"data.root=/somewhere: .*reads no files; .* type data=folder$"):
        source(root="/somewhere")


def test_synthetic_arguments_and_reproducibility():
    source = Synthetic(images=100, classes=4, image_size=12, channels=1)
    train = source.split("train")
    assert train.pixels.shape == (72, 12, 12, 1)
    assert [len(source.split(name)) for name in ("val", "test")] == [8, 20]
    assert source.classes == ("class0", "class1", "class2", "class3")
    again = Synthetic(images=100, classes=4, image_size=12, channels=1).split("train")
    assert np.array_equal(train.pixels, again.pixels)
    assert np.array_equal(train.labels, again.labels)
    other = Synthetic(images=100, classes=4, image_size=12, channels=1, split_seed=1).split("train")
    assert not np.array_equal(train.pixels, other.pixels)


def test_synthetic_can_be_learned():
    """The nearest class mean of train classifies most test images; the images of a class differ."""
    source = Synthetic(images=500)
    train, test = source.split("train"), source.split("test")
    means = np.stack([train.pixels[train.labels == label].mean(0) for label in range(10)])
    distances = ((test.pixels[:, None].astype(float) - means) ** 2).mean((2, 3, 4))
    assert (distances.argmin(1) == test.labels).mean() > 0.95
    assert len(np.unique(train.pixels.reshape(len(train), -1), axis=0)) == len(train)
    scaled = train.pixels / 255
    assert source.mean == pytest.approx([scaled.mean()] * 3, abs=0.03)
    assert source.std == pytest.approx([scaled.std()] * 3, abs=0.03)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 1}, "data.source.classes=1: expected a whole number >= 2"),
        ({"images": 29}, "data.source.images=29: expected a whole number >= 30 .train, val and test need"),
        ({"image_size": 0}, "data.source.image_size=0: expected"),
        ({"channels": 2}, "data.source.channels=2: expected 1 or 3"),
    ],
)
def test_synthetic_invalid_argument_is_an_error(arguments, message):
    with pytest.raises(UserError, match=message):
        Synthetic(**arguments)
