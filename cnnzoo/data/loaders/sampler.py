"""The one place that decides which image comes when."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from cnnzoo.data.counter_rng import SHUFFLE_STREAM, permutation
from cnnzoo.errors import UserError


class EpochSampler:
    """The batches of one rank, as arrays of indices into a split of `size` images.

    Training: all images, shuffled anew each epoch by (seed, epoch), are cut into global batches of `batch_size *
    world_size`, of which each rank takes its piece: W ranks of B see together what one rank of W * B sees. The last,
    incomplete one is dropped. Evaluation: in order, rank r takes images r, r + W, r + 2W, ...: each image exactly once,
    the last batch as short as it comes, and ranks may differ in length.

    `frozen`: every epoch is epoch 0, for `trainer.overfit_batches`. Raises UserError where training images do not make
    one global batch.
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
            by = f" x {world_size} processes" if world_size > 1 else ""
            most = size // world_size
            way_out = f"type data.batch_size={most} or less" if most else "use fewer processes"
            raise UserError(f"data.batch_size={batch_size}{by}: more than the {size} training images; {way_out}")
        self.size, self.batch_size, self.seed, self.train = size, batch_size, seed, train
        self.rank, self.world_size, self.frozen = rank, world_size, frozen
        self.epoch = self._first = 0

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration is of; Lightning calls it."""
        self.epoch = 0 if self.frozen else epoch

    def start_at(self, batch: int) -> None:
        """Let the next iteration, and that alone, begin with this batch of its epoch: a resumed one."""
        self._first = batch

    def __len__(self) -> int:
        """How many batches this rank has."""
        if self.train:
            return self.size // (self.batch_size * self.world_size)
        return -(-len(range(self.rank, self.size, self.world_size)) // self.batch_size)

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        """One epoch's batches: int64 (batch size,)."""
        if self.train:
            indices = permutation(SHUFFLE_STREAM, self.seed, self.epoch, self.size)
            stride, first = self.batch_size * self.world_size, self.batch_size * self.rank
        else:
            indices = np.arange(self.rank, self.size, self.world_size)
            stride, first = self.batch_size, 0
        begin, self._first = self._first, 0
        for batch in range(begin, len(self)):
            start = batch * stride + first
            yield indices[start : start + self.batch_size]
