"""The base class of all loaders: what a loader promises, however it builds its batches."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch import Tensor

from cnnzoo.data.loaders.batch_builder import Batch, BatchRequest
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.split import Split
from cnnzoo.errors import UserError

MAX_AUTO_WORKERS = 8  # upper limit of loader.workers=auto
LabeledImages = tuple[Tensor, Tensor]

log = logging.getLogger(__name__)


class Loader(ABC):
    """The batches of `split` in the order of `sampler`. Subclasses implement how they are built.

    Each iteration is the next epoch, from 0, with another order and other augmentation of the training images, unless
    `set_epoch` was called. An iteration can be stopped anywhere, and counts as an epoch if it had requested a batch. A
    new iteration makes the one before it invalid. `wait_seconds` is the total time that iterations have waited for
    batches.
    """

    name: str  # as in `loader=`
    batch_sampler = None  # Lightning reads this attribute of every loader that has a `sampler`

    def __init__(self, split: Split, sampler: EpochSampler, on_bad_file: str) -> None:
        self.split, self.sampler = split, sampler
        self.on_bad_file = on_bad_file
        self.wait_seconds = 0.0
        self._iteration = 0
        self._logged_bad_files: set[str] = set()

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of every iteration until the next call, as in torch's `DistributedSampler`."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[LabeledImages]:
        # As a generator this runs only when the first batch is requested, so `set_epoch` works after `iter()`, too.
        self._iteration = iteration = self._iteration + 1
        self.sampler.next_epoch()
        batches = self._iter_batches()
        while True:
            if iteration != self._iteration:
                raise RuntimeError("this iterator is no longer valid: a newer iteration of the same loader has started")
            start = time.perf_counter()
            batch = next(batches, None)
            self.wait_seconds += time.perf_counter() - start
            if batch is None:
                return
            yield self._handle_bad_files(batch)

    @abstractmethod
    def describe(self) -> str:
        """One line for the run's table: the loader's name and what builds its batches, e.g. "torch, 2 processes"."""

    @abstractmethod
    def _iter_batches(self) -> Iterator[Batch]:
        """Iterate over the batches of the sampler's current epoch."""

    @abstractmethod
    def close(self) -> None:
        """Stop the workers. The next iteration starts new ones."""

    def __del__(self) -> None:
        self.close()

    def _handle_bad_files(self, batch: Batch) -> LabeledImages:
        images, labels, bad_files = batch
        for file in bad_files:
            if self.on_bad_file == "error":
                raise UserError(
                    f"{file.path}: cannot be read: {file.reason}; repair or remove the file, or type "
                    "data.on_bad_file=skip"
                )
            if file.path not in self._logged_bad_files:
                self._logged_bad_files.add(file.path)
                log.warning("bad file, skipped: %s: %s", file.path, file.reason)
        if bad_files and not len(labels):
            raise UserError(
                f"{bad_files[0].path}: cannot be read: {bad_files[0].reason}; no other file of its batch can be read "
                "either"
            )
        return images, labels


class BatchRequests:
    """The sampler's batches as requests, each with its epoch, because workers do not know the current epoch."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[BatchRequest]:
        epoch = self.sampler.epoch
        for indices in self.sampler:
            yield BatchRequest(epoch, indices)
