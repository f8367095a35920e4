"""The sampler: decides which image comes when, for every loader."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from cnnzoo.data.counter_rng import BALANCE_STREAM, SHUFFLE_STREAM, permutation
from cnnzoo.errors import UserError


class EpochSampler:
    """The batches of one rank, as arrays of indices into a split of `size` images.

    Training: each epoch shuffles all images by (seed, epoch) and cuts them into global batches of `batch_size *
    world_size`. Each rank takes its part of every global batch, so W ranks with batch size B see the same images per
    step as one rank with batch size W * B. The last, incomplete global batch is dropped.

    Evaluation: no shuffling. Rank r takes the images r, r + W, r + 2W, ..., so every image is seen exactly once. The
    last batch may be shorter, and ranks may have different numbers of batches.

    frozen: repeat epoch 0 in every epoch, for `trainer.overfit_batches`.
    labels: (size,) for balanced training: each epoch has equally many images of each class, as many as `size` allows.
        Images of small classes are repeated, and those of large classes take turns. None: every image once.
    even_batches: in evaluation, a rank that would have one batch fewer than the others gets its first image once more,
        for loops in which the ranks wait for each other in each batch.

    Raises UserError if there are fewer training images than one global batch needs, and for the labels of a multi-label
    set, whose images belong to several classes.
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
        labels: npt.NDArray[Any] | None = None,
        even_batches: bool = False,
    ) -> None:
        if train and size < batch_size * world_size:
            processes = f" x {world_size} processes" if world_size > 1 else ""
            maximum = size // world_size
            way_out = f"type data.batch_size={maximum} or less" if maximum else "use fewer processes"
            raise UserError(f"data.batch_size={batch_size}{processes}: more than the {size} training images; {way_out}")
        if labels is not None and labels.ndim == 2:
            raise UserError(
                "data.balance=true: an image of a multi-label set may belong to several classes; leave it out, or type "
                "class_weights=balanced"
            )
        self.size, self.batch_size, self.seed, self.train = size, batch_size, seed, train
        self.rank, self.world_size, self.frozen = rank, world_size, frozen
        self.even_batches = even_batches
        self._class_images = [] if labels is None else [np.flatnonzero(labels == label) for label in np.unique(labels)]
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

    def start_at(self, batch: int, epoch: int | None = None) -> None:
        """Start the next iteration, and only that one, at this batch of its epoch (to resume within an epoch).

        epoch: the next iteration's, from which on the epochs are counted again. None leaves it as it is.
        """
        self._first_batch = batch
        if epoch is not None:
            self._next_epoch = epoch

    def take_first_batch(self) -> int:
        """The batch that the next iteration starts at. The one after it starts at 0 again."""
        first_batch, self._first_batch = self._first_batch, 0
        return first_batch

    def _balanced_images(self) -> npt.NDArray[np.int64]:
        """The images of the current epoch, (size,): a stretch of each class's endless sequence of shuffled images.

        An image that comes again within the epoch has `size` added to its index each time, so that it is augmented in
        another way; see `BatchRequest`.

        The sequence of a class shuffles all its images, then all of them again, and so on. Each epoch continues it
        where the epoch before ended, so that no image falls behind the others of its class by more than one.
        """
        quotas = np.full(len(self._class_images), self.size // len(self._class_images))
        quotas[: self.size - quotas.sum()] += 1
        parts = []
        for label, (images, quota) in enumerate(zip(self._class_images, quotas.tolist(), strict=True)):
            first, last = self.epoch * quota, (self.epoch + 1) * quota
            rounds = range(first // len(images), -(-last // len(images)))
            orders = [permutation(BALANCE_STREAM + label, self.seed, number, len(images)) for number in rounds]
            start = first - rounds.start * len(images)
            positions = np.concatenate(orders)[start : start + quota]
            parts.append(images[positions] + self.size * _repetitions(positions))
        return np.concatenate(parts)

    def __len__(self) -> int:
        """The number of batches of this rank in an epoch."""
        if self.train:
            return self.size // (self.batch_size * self.world_size)
        return -(-len(self._eval_indices()) // self.batch_size)

    def _eval_indices(self) -> npt.NDArray[np.int64]:
        indices = np.arange(self.rank, self.size, self.world_size)
        if self.even_batches and len(indices) * self.world_size < self.size and len(indices) % self.batch_size == 0:
            return np.append(indices, self.rank % self.size)
        return indices

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the batches of the current epoch: int64 (batch size,)."""
        if self.train:
            indices = permutation(SHUFFLE_STREAM, self.seed, self.epoch, self.size)
            if self._class_images:
                indices = self._balanced_images()[indices]
            stride, offset = self.batch_size * self.world_size, self.batch_size * self.rank
        else:
            indices = self._eval_indices()
            stride, offset = self.batch_size, 0
        for batch in range(self.take_first_batch(), len(self)):
            start = batch * stride + offset
            yield indices[start : start + self.batch_size]


def _repetitions(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each value, how often it has occurred before: [7, 3, 7, 7] -> [0, 0, 1, 2]."""
    order = np.argsort(values, kind="stable")
    _, first, counts = np.unique(values[order], return_index=True, return_counts=True)
    repetitions = np.empty_like(values)
    repetitions[order] = np.arange(len(values)) - np.repeat(first, counts)
    return repetitions
