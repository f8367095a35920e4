"""The base class of all loaders: what a loader promises, however it builds its batches."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from copy import copy

import torch
from torch import Tensor

from cnnzoo.data.loaders.batch_builder import Batch, BatchRequest
from cnnzoo.data.loaders.gpu_placement import place_on_all_ranks
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.wait_timer import GpuWaitTimer, WaitTimer
from cnnzoo.data.split import Split
from cnnzoo.errors import UserError
from cnnzoo.sizes import Size, size_text

LabeledImages = tuple[Tensor, Tensor]

log = logging.getLogger(__name__)


class Loader(ABC):
    """The batches of `split` in the order of `sampler`. Subclasses implement how they are built.

    Each iteration is the next epoch, from 0, with another order and other augmentation of the training images, unless
    `set_epoch` was called. An iteration can be stopped anywhere, and counts as an epoch if it had requested a batch. A
    new iteration makes the one before it invalid.

    If it `works_ahead`, the first batches of the next epoch are built before the present one ends. The next one is
    assumed to be the following epoch, or the same one again in evaluation and if the sampler is frozen. If the next
    iteration starts elsewhere, these batches are discarded.
    """

    name: str  # as in `loader=`
    verifies_jpegs = False  # whether it reads each JPEG from end to end before it is decoded for the first time
    batch_sampler = None  # Lightning reads this attribute of every loader that has a `sampler`
    device: torch.device | None = None  # the GPU that batches are yielded on; None: they are in the CPU's memory
    size_of_epoch: Callable[[int], Size] | None = None  # the image size of each epoch; None: always the same
    # Class attributes, because `close` also runs if `__init__` raises.
    _endless_batches: Iterator[Batch] | None = None  # of this epoch and all after it
    _endless_position: tuple[int, int] | None = None  # epoch and number of their next batch; None after an error

    def __init__(self, split: Split, sampler: EpochSampler, on_bad_file: str) -> None:
        self.split, self.sampler = split, sampler
        self.on_bad_file = on_bad_file
        self._wait_timer: WaitTimer | None = None
        self._iteration = 0
        self.skipped_files: set[str] = set()  # that could not be read

    def __len__(self) -> int:
        return len(self.sampler)

    @property
    def wait_seconds(self) -> float:
        """The total time that iterations have waited for batches. With a GPU, only the time in which it had no work."""
        return 0.0 if self._wait_timer is None else self._wait_timer.seconds

    @property
    def works_ahead(self) -> bool:
        """Whether it builds batches of the next epoch in advance: with a GPU.

        On the CPU they would slow down validation between the epochs, which uses the same cores.
        """
        return self.device is not None

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of every iteration until the next call, as in torch's `DistributedSampler`."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[LabeledImages]:
        # As a generator this runs only when the first batch is requested, so `set_epoch` works after `iter()`, too.
        self._iteration = iteration = self._iteration + 1
        self.sampler.next_epoch()
        timer = self._wait_timer or (WaitTimer() if self.device is None else GpuWaitTimer(self.device))
        self._wait_timer = timer
        if self.size_of_epoch is not None:
            timer.start()
            self._set_size_of_epoch(self.size_of_epoch(self.sampler.epoch))
            timer.stop()
        batches = self._iter_ahead() if self.works_ahead else self._iter_batches(BatchRequests(self.sampler))
        while True:
            if iteration != self._iteration:
                raise RuntimeError("this iterator is no longer valid: a newer iteration of the same loader has started")
            timer.start()
            batch = next(batches, None)
            timer.stop()
            if batch is None:
                return
            yield self._handle_bad_files(batch)

    def iter_once(self) -> Iterator[Batch]:
        """Iterate over the present epoch without working ahead, and leave bad files to the caller.

        A batch has its own bad files, and in evaluation it lacks their images, down to an empty batch. `on_bad_file`
        has no effect.
        """
        self._iteration += 1
        self._discard_ahead()
        yield from self._iter_batches(BatchRequests(self.sampler))

    @abstractmethod
    def describe(self) -> str:
        """One line for the run's table: the loader's name and what builds its batches, e.g. "torch, 2 processes"."""

    @abstractmethod
    def _iter_batches(self, requests: Iterable[BatchRequest]) -> Iterator[Batch]:
        """Iterate over the batches of the requests, in their order. If it `works_ahead`, the requests never end."""

    @property
    @abstractmethod
    def image_size(self) -> Size:
        """Height and width of the images in pixels."""

    @abstractmethod
    def set_image_size(self, image_size: Size) -> None:
        """Build images of this size from the next iteration on. Closes the loader."""

    def _set_size_of_epoch(self, image_size: Size) -> None:
        if image_size == self.image_size:
            return
        self.set_image_size(image_size)
        if self.sampler.rank == 0:
            log.info("training images: %s from epoch %d on", size_text(image_size), self.sampler.epoch + 1)
        if self.device is not None:  # all ranks are here, because they have equally many training batches
            place_on_all_ranks([self], self.sampler.world_size)

    @abstractmethod
    def close(self) -> None:
        """Stop the workers. The next iteration starts new ones. Subclasses call `_discard_ahead` first."""

    def _iter_ahead(self) -> Iterator[Batch]:
        """Iterate over the sampler's current epoch, and continue the iterator of the epoch before if possible."""
        sampler = self.sampler
        same_each_epoch = sampler.frozen or not sampler.train
        epoch = 0 if same_each_epoch else sampler.epoch
        first_batch, num_batches = sampler.take_first_batch(), len(sampler)
        if first_batch < num_batches and self._endless_position != (epoch, first_batch):
            self._discard_ahead()
            self._endless_batches = self._iter_batches(EndlessRequests(sampler, first_batch))
        for batch in range(first_batch, num_batches):
            if self._endless_batches is None:
                raise RuntimeError("this iterator is no longer valid: its loader has been closed")
            self._endless_position = None
            result = next(self._endless_batches)
            is_last = batch + 1 == num_batches
            self._endless_position = (epoch if same_each_epoch else epoch + 1, 0) if is_last else (epoch, batch + 1)
            yield result

    def _discard_ahead(self) -> None:
        """Drop the batches that were built ahead. When this returns, no thread uses the workers any more."""
        batches, self._endless_batches, self._endless_position = self._endless_batches, None, None
        if isinstance(batches, Generator):
            batches.close()

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
            if file.path not in self.skipped_files:
                self.skipped_files.add(file.path)
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

    def __iter__(self) -> Iterator[BatchRequest]:
        epoch = self.sampler.epoch
        for indices in self.sampler:
            yield BatchRequest(epoch, indices)


class EndlessRequests:
    """The requests of the sampler's current epoch from `first_batch` on, and of all epochs after it.

    Later changes of the sampler have no effect, so another thread can iterate this.
    """

    def __init__(self, sampler: EpochSampler, first_batch: int) -> None:
        self.sampler = copy(sampler)
        self.sampler.start_at(first_batch)

    def __iter__(self) -> Iterator[BatchRequest]:
        while True:
            yield from BatchRequests(self.sampler)
            self.sampler.set_epoch(self.sampler.epoch + 1)
