"""The sampler: decides which image comes when, for every loader."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from cnnzoo.data.counter_rng import SHUFFLE_STREAM, permutation
from cnnzoo.errors import UserError


class EpochSampler:
    """The batches of one rank, as arrays of indices into a split of `size` images.

    Training: each epoch shuffles all images by (seed, epoch) and cuts them into global batches of `batch_size *
    world_size`. Each rank takes its part of every global batch, so W ranks with batch size B see the same images per
    step as one rank with batch size W * B. The last, incomplete global batch is dropped.

    Evaluation: no shuffling. Rank r takes the images r, r + W, r + 2W, ..., so every image is seen exactly once. The
    last batch may be shorter, and ranks may have different numbers of batches.

    frozen: repeat epoch 0 in every epoch, for `trainer.overfit_batches`.

    Raises UserError if there are fewer training images than one global batch needs.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        train: bool,
        rank: int = 0,
        world_size: int = 1,
        frozen: bool = False,
    ) -> None:
        if train and size < batch_size * world_size:
            processes = f" x {world_size} processes" if world_size > 1 else ""
            maximum = size // world_size
            way_out = f"type data.batch_size={maximum} or less" if maximum else "use fewer processes"
            raise UserError(f"data.batch_size={batch_size}{processes}: more than the {size} training images; {way_out}")
        self.size, self.batch_size, self.seed, self.train = size, batch_size, seed, train
        self.rank, self.world_size, self.frozen = rank, world_size, frozen
        self.epoch = self._first_batch = 0
        self._next_epoch: int | None = 0  # of the next iteration of a loader; None once `set_epoch` was called

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of every iteration until the next call, as in torch's `DistributedSampler`.

        Until the first call, each iteration of a loader is the next epoch. Lightning calls this before each epoch.
        """
        self.epoch = 0 if self.frozen else epoch
        self._next_epoch = None

    def next_epoch(self) -> None:
        """Advance to the next epoch, the first time to epoch 0; does nothing after `set_epoch`.

        A loader calls this at the start of each iteration. Iterating the sampler itself does not change the epoch.
        """
        if self._next_epoch is not None:
            self.epoch = 0 if self.frozen else self._next_epoch
            self._next_epoch += 1

    def start_at(self, batch: int) -> None:
        """Start the next iteration, and only that one, at this batch of its epoch (to resume within an epoch)."""
        self._first_batch = batch

    def __len__(self) -> int:
        """The number of batches of this rank in an epoch."""
        if self.train:
            return self.size // (self.batch_size * self.world_size)
        return -(-len(range(self.rank, self.size, self.world_size)) // self.batch_size)

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the batches of the current epoch: int64 (batch size,)."""
        if self.train:
            indices = permutation(SHUFFLE_STREAM, self.seed, self.epoch, self.size)
            stride, offset = self.batch_size * self.world_size, self.batch_size * self.rank
        else:
            indices = np.arange(self.rank, self.size, self.world_size)
            stride, offset = self.batch_size, 0
        first_batch, self._first_batch = self._first_batch, 0
        for batch in range(first_batch, len(self)):
            start = batch * stride + offset
            yield indices[start : start + self.batch_size]
