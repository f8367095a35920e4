"""How splits are taken, and the random numbers behind it."""

import numpy as np
import pytest

from cnnzoo.data.counter_rng import AUGMENT_STREAM, SHUFFLE_STREAM, permutation, uniform
from cnnzoo.data.split import stratified_split, train_val_test_split


def test_stratified_parts_are_disjoint_complete_and_fair():
    labels = np.repeat(np.arange(4), [100, 50, 30, 20]).astype(np.int64)
    rest, part = stratified_split(labels, 0.1, seed=0)
    assert sorted([*rest, *part]) == list(range(200))
    assert np.bincount(labels[part]).tolist() == [10, 5, 3, 2]


def test_stratified_rounds_up_and_gives_every_class_both_parts():
    labels = np.array([0] * 7 + [1] * 2 + [2] * 5, np.int64)
    rest, part = stratified_split(labels, 0.2, seed=3)
    assert np.bincount(labels[part]).tolist() == [1, 1, 1]
    assert np.bincount(labels[rest]).tolist() == [6, 1, 4]
    eleven = np.array([0] * 6 + [1] * 5, np.int64)
    assert np.bincount(eleven[stratified_split(eleven, 0.2, 0)[1]]).tolist() == [
        2,
        1,
    ]  # 3 of 11: the odd one from the larger


def test_stratified_depends_on_the_seed_alone():
    labels = np.arange(300, dtype=np.int64) % 3
    assert np.array_equal(stratified_split(labels, 0.2, 5)[1], stratified_split(labels, 0.2, 5)[1])
    assert not np.array_equal(stratified_split(labels, 0.2, 5)[1], stratified_split(labels, 0.2, 6)[1])


def test_a_class_of_one_cannot_be_split():
    with pytest.raises(ValueError, match="class 1 has one image"):
        stratified_split(np.array([0, 0, 1]), 0.2, 0)


def test_three_ways():
    labels = np.arange(1000, dtype=np.int64) % 10
    at = train_val_test_split(labels, 0)
    assert {name: len(indices) for name, indices in at.items()} == {"train": 720, "val": 80, "test": 200}
    assert sorted(np.concatenate(list(at.values()))) == list(range(1000))


def test_a_row_of_random_numbers_belongs_to_its_index_alone():
    together = uniform(AUGMENT_STREAM, 1, 2, [7, 3, 9], 5)
    assert np.array_equal(together[1], uniform(AUGMENT_STREAM, 1, 2, [3], 5)[0])
    assert np.array_equal(together[:, [4]], uniform(AUGMENT_STREAM, 1, 2, [7, 3, 9], [4]))
    others = [
        uniform(SHUFFLE_STREAM, 1, 2, [3], 5),
        uniform(AUGMENT_STREAM, 2, 2, [3], 5),
        uniform(AUGMENT_STREAM, 1, 3, [3], 5),
    ]
    assert all(not np.array_equal(together[1], other[0]) for other in others)


def test_random_numbers_are_what_they_were():
    """With these fixed values, splits, orders and images stay what they were in the first release."""
    assert uniform(SHUFFLE_STREAM, 0, 0, [0, 1], 2).tolist() == [
        [0.9477707979038982, 0.8833960690906554],
        [0.040829157456919285, 0.518277044844757],
    ]
    assert permutation(SHUFFLE_STREAM, 0, 0, 8).tolist() == [1, 2, 4, 7, 6, 5, 0, 3]


def test_random_numbers_are_uniform_and_independent():
    numbers = uniform(AUGMENT_STREAM, 0, 0, np.arange(20_000), 4)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    shares = np.stack([np.histogram(column, 20, (0, 1))[0] for column in numbers.T]) / 1000
    assert np.abs(shares - 1).max() < 0.15  # 5 standard deviations of a bin
    assert np.abs(np.corrcoef(numbers.T) - np.eye(4)).max() < 0.035
    assert abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.035  # from one image to the next
