"""What every loader promises to those who iterate over it, however it makes its batches."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch import Tensor

from cnnzoo.data.loaders.batch_builder import Batch, BatchRequest
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.split import Split
from cnnzoo.errors import UserError

MAX_AUTO_WORKERS = 8
LabeledImages = tuple[Tensor, Tensor]

log = logging.getLogger(__name__)


class Loader(ABC):
    """Batches of `split` in `order`, `sampler` to Lightning; a subclass says how they are made.

    It can be iterated any number of times and broken off anywhere. `wait_seconds` is how long its consumer has waited
    for batches, in all.
    """

    batch_sampler = None  # Lightning asks for it where there is a `sampler`

    def __init__(self, split: Split, sampler: EpochSampler, on_bad_file: str) -> None:
        self.split, self.sampler = split, sampler
        self.on_bad_file = on_bad_file
        self.wait_seconds = 0.0
        self._turn = 0
        self._named: set[str] = set()

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[LabeledImages]:
        # A generator: nothing happens before the first batch is asked for, and the epoch is the one set by then.
        self._turn = turn = self._turn + 1
        batches = self._made()
        while True:
            if turn != self._turn:
                raise RuntimeError("this iteration was broken off: another one of the same loader has begun since")
            start = time.perf_counter()
            made = next(batches, None)
            self.wait_seconds += time.perf_counter() - start
            if made is None:
                return
            yield self._without_bad(made)

    @abstractmethod
    def _made(self) -> Iterator[Batch]:
        """One epoch's batches, as the order says now."""

    @abstractmethod
    def close(self) -> None:
        """End the workers. The next iteration starts new ones."""

    def __del__(self) -> None:
        self.close()

    def _without_bad(self, made: Batch) -> LabeledImages:
        images, labels, bad = made
        for file in bad:
            if self.on_bad_file == "error":
                raise UserError(
                    f"{file.path}: cannot be read: {file.reason}; mend the file, remove it, or type "
                    "data.on_bad_file=skip"
                )
            if file.path not in self._named:
                self._named.add(file.path)
                log.warning("bad file, skipped: %s: %s", file.path, file.reason)
        if bad and not len(labels):
            raise UserError(f"no file of a whole batch can be read, {bad[0].path} for one: {bad[0].reason}")
        return images, labels


class BatchRequests:
    """The order's batches with the epoch they are of, which travels along to the workers."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.order = sampler

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[BatchRequest]:
        epoch = self.order.epoch
        for indices in self.order:
            yield epoch, indices
