"""`EpochSampler`: which image comes when."""

import numpy as np
import pytest

from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.errors import UserError


def sample_epoch(sampler, epoch=0):
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    return batches


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_sampler_train_ranks_are_disjoint_and_equal(world_size):
    ranks = [EpochSampler(100, 8, seed=1, train=True, rank=rank, world_size=world_size) for rank in range(world_size)]
    for epoch in range(3):
        batches_by_rank = [sample_epoch(sampler, epoch) for sampler in ranks]
        assert {len(batches) for batches in batches_by_rank} == {100 // (8 * world_size)}
        assert {len(batch) for batches in batches_by_rank for batch in batches} == {8}
        indices = np.concatenate([batch for batches in batches_by_rank for batch in batches])
        assert len(set(indices)) == len(indices) == 100 // (8 * world_size) * 8 * world_size


def test_sampler_three_ranks_equal_one_with_triple_batch():
    one = sample_epoch(EpochSampler(103, 12, seed=4, train=True), 2)
    three = [sample_epoch(EpochSampler(103, 4, seed=4, train=True, rank=rank, world_size=3), 2) for rank in range(3)]
    assert [batch.tolist() for batch in one] == [np.concatenate(parts).tolist() for parts in zip(*three, strict=True)]


def test_sampler_train_epoch_has_every_image_once():
    assert sorted(np.concatenate(sample_epoch(EpochSampler(96, 8, seed=0, train=True)))) == list(range(96))


def test_sampler_order_depends_on_epoch_and_seed_only():
    def order(seed, epoch):
        return np.concatenate(sample_epoch(EpochSampler(64, 8, seed=seed, train=True), epoch)).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    sampler = EpochSampler(64, 8, seed=0, train=True)
    sample_epoch(sampler, 5)
    assert np.concatenate(sample_epoch(sampler, 1)).tolist() == order(0, 1)


def test_sampler_frozen_repeats_first_epoch():
    sampler = EpochSampler(64, 8, seed=0, train=True, frozen=True)
    assert np.array_equal(sample_epoch(sampler, 0), sample_epoch(sampler, 3))


def test_sampler_next_epoch_counts_until_set_epoch():
    sampler = EpochSampler(64, 8, seed=0, train=True)
    epochs = []
    for _ in range(3):
        sampler.next_epoch()
        epochs.append(sampler.epoch)
        list(sampler)
    sampler.set_epoch(7)
    sampler.next_epoch()
    assert [*epochs, sampler.epoch] == [0, 1, 2, 7]
    frozen = EpochSampler(64, 8, seed=0, train=True, frozen=True)
    frozen.next_epoch()
    frozen.next_epoch()
    assert frozen.epoch == 0


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 2, 5, 20])
def test_sampler_eval_has_every_image_once(size, world_size):
    ranks = [EpochSampler(size, 4, seed=0, train=False, rank=rank, world_size=world_size) for rank in range(world_size)]
    indices = [index for sampler in ranks for batch in sample_epoch(sampler) for index in batch]
    assert sorted(indices) == list(range(size))


def test_sampler_eval_is_in_order_and_keeps_last_batch():
    batches = sample_epoch(EpochSampler(10, 4, seed=3, train=False), 9)
    assert [batch.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert batches[0].dtype == np.int64


def test_sampler_too_few_images_raises():
    with pytest.raises(
        UserError, match=r"data.batch_size=64: more than the 50 training images; type data.batch_size=50 or"
    ):
        EpochSampler(50, 64, seed=0, train=True)
    with pytest.raises(UserError, match=r"data.batch_size=32 x 2 processes: .* type data.batch_size=25 or less"):
        EpochSampler(50, 32, seed=0, train=True, world_size=2)
    with pytest.raises(UserError, match="use fewer processes"):
        EpochSampler(3, 1, seed=0, train=True, world_size=4)
    assert len(EpochSampler(50, 64, seed=0, train=False)) == 1


SAMPLE_LABELS = np.array([0] * 40 + [2] * 6 + [5] * 14)


def balanced_epoch(epoch, *, batch_size=1, rank=0, world_size=1):
    """The indices of an epoch; an image's repetitions have a multiple of 60 added."""
    sampler = EpochSampler(60, batch_size, seed=3, train=True, rank=rank, world_size=world_size, labels=SAMPLE_LABELS)
    sampler.set_epoch(epoch)
    return np.concatenate(list(sampler))


def test_balanced_sampler_gives_equal_classes():
    first, second = balanced_epoch(0), balanced_epoch(1)
    for indices in (first, second):
        assert np.unique(SAMPLE_LABELS[indices % 60], return_counts=True)[1].tolist() == [20, 20, 20]
    assert not np.array_equal(first, second)
    assert np.array_equal(first, balanced_epoch(0))


def test_balanced_sampler_uses_images_of_a_class_evenly():
    counts = np.bincount(np.concatenate([balanced_epoch(epoch) for epoch in range(7)]) % 60, minlength=60)
    for label, times in ((0, 140 / 40), (2, 140 / 6), (5, 140 / 14)):
        of_class = counts[np.isin(SAMPLE_LABELS, label)]
        assert {of_class.min(), of_class.max()} <= {int(times), -int(-times // 1)}


def test_balanced_sampler_numbers_the_repetitions():
    indices = balanced_epoch(2)
    assert len(set(indices.tolist())) == 60
    for image in range(60):
        repetitions = sorted((indices[indices % 60 == image] // 60).tolist())
        assert repetitions == list(range(len(repetitions)))


def test_balanced_sampler_ranks_share_the_epoch():
    parts = [balanced_epoch(4, batch_size=5, rank=rank, world_size=2) for rank in range(2)]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.sort(balanced_epoch(4)))


@pytest.mark.parametrize(("size", "batch_size", "world_size"), [(9, 2, 2), (10, 5, 3), (3, 2, 4), (8, 2, 2), (7, 2, 2)])
def test_even_batches_of_all_ranks(size, batch_size, world_size):
    def of_ranks(even_batches):
        options = {"seed": 0, "train": False, "world_size": world_size, "even_batches": even_batches}
        return [EpochSampler(size, batch_size, rank=rank, **options) for rank in range(world_size)]

    samplers = of_ranks(True)
    most = max(len(sampler) for sampler in of_ranks(False))
    assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers] == [most] * world_size
    assert {index for sampler in samplers for batch in sampler for index in batch} == set(range(size))
    exact = [index for sampler in of_ranks(False) for batch in sampler for index in batch]
    assert sorted(exact) == list(range(size))
