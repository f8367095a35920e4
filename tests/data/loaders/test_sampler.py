"""Which image comes when."""

import numpy as np
import pytest

from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.errors import UserError


def epoch_of(sampler, epoch=0):
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    return batches


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_training_ranks_are_disjoint_and_equal(world_size):
    ranks = [EpochSampler(100, 8, seed=1, train=True, rank=rank, world_size=world_size) for rank in range(world_size)]
    for epoch in range(3):
        batches = [epoch_of(sampler, epoch) for sampler in ranks]
        assert {len(of_rank) for of_rank in batches} == {100 // (8 * world_size)}
        assert {len(batch) for of_rank in batches for batch in of_rank} == {8}
        seen = np.concatenate([batch for of_rank in batches for batch in of_rank])
        assert len(set(seen)) == len(seen) == 100 // (8 * world_size) * 8 * world_size


def test_many_ranks_see_together_what_one_sees():
    one = epoch_of(EpochSampler(103, 12, seed=4, train=True), 2)
    three = [epoch_of(EpochSampler(103, 4, seed=4, train=True, rank=rank, world_size=3), 2) for rank in range(3)]
    assert [batch.tolist() for batch in one] == [np.concatenate(parts).tolist() for parts in zip(*three, strict=True)]


def test_every_image_comes_up_once_in_an_epoch_of_training():
    assert sorted(np.concatenate(epoch_of(EpochSampler(96, 8, seed=0, train=True)))) == list(range(96))


def test_epoch_and_seed_change_the_order_and_nothing_else_does():
    def flat(seed, epoch):
        return np.concatenate(epoch_of(EpochSampler(64, 8, seed=seed, train=True), epoch)).tolist()

    assert flat(0, 0) == flat(0, 0)
    assert flat(0, 0) != flat(0, 1)
    assert flat(0, 0) != flat(1, 0)
    sampler = EpochSampler(64, 8, seed=0, train=True)
    epoch_of(sampler, 5)
    assert np.concatenate(epoch_of(sampler, 1)).tolist() == flat(0, 1)


def test_frozen_repeats_the_first_epoch():
    sampler = EpochSampler(64, 8, seed=0, train=True, frozen=True)
    assert np.array_equal(epoch_of(sampler, 0), epoch_of(sampler, 3))


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 2, 5, 20])
def test_evaluation_sees_every_image_once(size, world_size):
    ranks = [EpochSampler(size, 4, seed=0, train=False, rank=rank, world_size=world_size) for rank in range(world_size)]
    seen = [index for sampler in ranks for batch in epoch_of(sampler) for index in batch]
    assert sorted(seen) == list(range(size))


def test_evaluation_is_in_order_and_keeps_the_last_batch():
    batches = epoch_of(EpochSampler(10, 4, seed=3, train=False), 9)
    assert [batch.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert batches[0].dtype == np.int64


def test_too_few_images_for_one_batch():
    with pytest.raises(
        UserError, match=r"data.batch_size=64: more than the 50 training images; type data.batch_size=50 or"
    ):
        EpochSampler(50, 64, seed=0, train=True)
    with pytest.raises(UserError, match=r"data.batch_size=32 x 2 processes: .* type data.batch_size=25 or less"):
        EpochSampler(50, 32, seed=0, train=True, world_size=2)
    with pytest.raises(UserError, match="use fewer processes"):
        EpochSampler(3, 1, seed=0, train=True, world_size=4)
    assert len(EpochSampler(50, 64, seed=0, train=False)) == 1
