"""Stratified splits, and the random numbers behind them."""

import numpy as np
import pytest

from cnnzoo.data.counter_rng import AUGMENT_STREAM, SHUFFLE_STREAM, permutation, uniform
from cnnzoo.data.split import rarest_classes, stratified_split, train_val_test_split
from cnnzoo.errors import UserError


def test_stratified_split_is_a_partition_by_class():
    labels = np.repeat(np.arange(4), [100, 50, 30, 20]).astype(np.int64)
    rest, part = stratified_split(labels, 0.1, seed=0)
    assert sorted([*rest, *part]) == list(range(200))
    assert np.bincount(labels[part]).tolist() == [10, 5, 3, 2]


def test_stratified_split_rounding():
    labels = np.array([0] * 7 + [1] * 2 + [2] * 5, np.int64)
    rest, part = stratified_split(labels, 0.2, seed=3)
    assert np.bincount(labels[part]).tolist() == [1, 1, 1]
    assert np.bincount(labels[rest]).tolist() == [6, 1, 4]
    eleven = np.array([0] * 6 + [1] * 5, np.int64)
    part = stratified_split(eleven, 0.2, 0)[1]
    assert np.bincount(eleven[part]).tolist() == [2, 1]  # 3 of 11: the larger class gives the third


def test_stratified_split_depends_on_the_seed():
    labels = np.arange(300, dtype=np.int64) % 3
    assert np.array_equal(stratified_split(labels, 0.2, 5)[1], stratified_split(labels, 0.2, 5)[1])
    assert not np.array_equal(stratified_split(labels, 0.2, 5)[1], stratified_split(labels, 0.2, 6)[1])


def test_stratified_split_of_one_image_is_an_error():
    with pytest.raises(ValueError, match="class 1 has one image"):
        stratified_split(np.array([0, 0, 1]), 0.2, 0)


@pytest.mark.parametrize("seed", ["a", -1])
def test_stratified_split_of_a_bad_seed_is_an_error(seed):
    with pytest.raises(UserError, match=rf"^data\.split_seed={seed}: expected a whole number >= 0"):
        stratified_split(np.array([0, 0, 1, 1]), 0.2, seed)


def test_train_val_test_split_sizes():
    labels = np.arange(1000, dtype=np.int64) % 10
    splits = train_val_test_split(labels, 0)
    assert {name: len(indices) for name, indices in splits.items()} == {"train": 720, "val": 80, "test": 200}
    assert sorted(np.concatenate(list(splits.values()))) == list(range(1000))


def test_uniform_row_depends_on_its_index_only():
    numbers = uniform(AUGMENT_STREAM, 1, 2, [7, 3, 9], 5)
    assert np.array_equal(numbers[1], uniform(AUGMENT_STREAM, 1, 2, [3], 5)[0])
    assert np.array_equal(numbers[:, [4]], uniform(AUGMENT_STREAM, 1, 2, [7, 3, 9], [4]))
    others = [
        uniform(SHUFFLE_STREAM, 1, 2, [3], 5),
        uniform(AUGMENT_STREAM, 2, 2, [3], 5),
        uniform(AUGMENT_STREAM, 1, 3, [3], 5),
    ]
    assert all(not np.array_equal(numbers[1], other[0]) for other in others)


def test_rarest_classes_of_multi_hot_rows():
    labels = np.zeros((20, 3), np.uint8)
    labels[:12, 0], labels[3:9, 1], labels[8:11, 2] = 1, 1, 1
    assert rarest_classes(labels).tolist() == [0] * 3 + [1] * 5 + [2] * 3 + [0] + [-1] * 8
    labels[8:10, 2] = 0  # class 2 has one image left, which joins the largest group
    assert rarest_classes(labels).tolist() == [0] * 3 + [1] * 6 + [0, -1, 0] + [-1] * 8


def test_train_val_test_split_of_multi_hot_rows():
    rng = np.random.default_rng(0)
    fractions = np.array([0.5, 0.2, 0.05, 0.01])
    labels = (rng.random((5000, 4)) < fractions).astype(np.uint8)
    parts = train_val_test_split(labels, seed=0)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(5000))
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 3600, "val": 400, "test": 1000}
    for name, fraction in (("train", 0.72), ("val", 0.08), ("test", 0.2)):
        counts = labels[parts[name]].sum(axis=0)
        np.testing.assert_allclose(counts, fraction * labels.sum(axis=0), rtol=0.1, atol=1)
    again = train_val_test_split(labels, seed=0)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)


def test_uniform_and_permutation_are_pinned():
    """Fixed values, so that splits, shuffling and augmentation stay the same in later releases."""
    assert uniform(SHUFFLE_STREAM, 0, 0, [0, 1], 2).tolist() == [
        [0.9477707979038982, 0.8833960690906554],
        [0.040829157456919285, 0.518277044844757],
    ]
    assert permutation(SHUFFLE_STREAM, 0, 0, 8).tolist() == [1, 2, 4, 7, 6, 5, 0, 3]


def test_uniform_is_uniform_and_independent():
    numbers = uniform(AUGMENT_STREAM, 0, 0, np.arange(20_000), 4)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    densities = np.stack([np.histogram(column, 20, (0, 1))[0] for column in numbers.T]) / 1000
    assert np.abs(densities - 1).max() < 0.15  # 5 standard deviations of a bin
    assert np.abs(np.corrcoef(numbers.T) - np.eye(4)).max() < 0.035
    assert abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.035  # consecutive images
