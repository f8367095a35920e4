"""The loader on PyTorch: small sets gathered a batch at a time in this process, files by threads or processes."""

from collections.abc import Generator, Iterator
from typing import Literal

import torch

from cnnzoo.data.augment import Augment
from cnnzoo.data.batches import Batches, Made
from cnnzoo.data.crew import Crew, Processes, Threads
from cnnzoo.data.device import Resident, fits, one_ahead
from cnnzoo.data.loader import MOST_WORKERS, Keys, Loader, usable_cores
from cnnzoo.data.order import Order
from cnnzoo.data.split import Split
from cnnzoo.errors import UserError

KINDS = ("auto", "threads", "processes")
ON_BAD_FILE = ("error", "skip")


class TorchLoader(Loader):
    """Batches of `split` in `order`: uint8 (N, channels, image_size, image_size), and int64 labels (N,).

    The images are channels last in memory, the same bytes with any number of workers of either kind.

    workers: who makes batches ahead, 0 for nobody; "auto" is 0 for pixels in memory and one per usable core, at most 8,
        for files. They start with the first batch and live until `close`.
    kind: "processes", or "threads" of this process, which take turns with the training loop at running Python, and slow
        it down; "auto" is processes.
    on_bad_file: "error" raises UserError, from the iteration, for a file that cannot be decoded; "skip" names it once
        in the log and goes on with the next image of the batch (evaluation: without it).
    device: where batches are used. To a GPU they are brought one ahead, from pinned memory; a set of pixels for which
        there is room lies there, and is gathered, cropped and flipped there. Elsewhere they lie in ordinary memory. On
        the CPU, whose cores training wants for itself, worker processes and training take turns.
    """

    _crew: Crew | None = None
    _resident: Resident | None = None
    _moving: Generator[Made, None, None] | None = None

    def __init__(
        self,
        split: Split,
        order: Order,
        *,
        augment: Augment,
        train: bool,
        image_size: int,
        channels: int,
        seed: int,
        workers: int | Literal["auto"] = "auto",
        kind: Literal["auto", "threads", "processes"] = "auto",
        on_bad_file: Literal["error", "skip"] = "error",
        device: torch.device | None = None,
    ) -> None:
        if kind not in KINDS:
            raise UserError(f"loader.kind={kind}: it can be {', '.join(KINDS)}")
        super().__init__(split, order, on_bad_file)
        self.workers = count_workers(workers, split)
        self.kind = "threads" if kind == "threads" else "processes"
        self.device = device if device is not None and device.type == "cuda" else None
        self._in_turn = device is not None and device.type == "cpu"
        self._batches = Batches(split, augment, train, image_size, channels, seed)

    def close(self) -> None:
        """End the workers. The next iteration starts new ones."""
        self._end_moving()
        crew, self._crew, self._resident = self._crew, None, None
        if crew is not None:
            crew.close()

    def _made(self) -> Iterator[Made]:
        keys = Keys(self.sampler)
        if self.device is not None and self._resident is None and fits(self._batches, self.device):
            self._resident = Resident(self._batches, self.device)
        if self._resident is not None:
            return self._resident.make(keys)
        if self.device is None:
            return self._by_crew(keys)
        self._end_moving()
        self._moving = one_ahead(self._by_crew(keys), self.device)
        return self._moving

    def _end_moving(self) -> None:
        """Let an iteration that was broken off end with its thread, before another one uses the crew."""
        moving, self._moving = self._moving, None
        if moving is not None:
            moving.close()

    def _by_crew(self, keys: Keys) -> Iterator[Made]:
        if not self.workers:
            return map(self._batches.make, keys)
        if self._crew is None and self.kind == "threads":
            self._crew = Threads(self._batches, self.workers)
        elif self._crew is None:
            self._crew = Processes(self._batches, self.workers, self.sampler.batch_size, in_turn=self._in_turn)
        return self._crew.make(keys)


def count_workers(workers: int | str, split: Split) -> int:
    """`loader.workers` as a number. Raises UserError for what is none."""
    if workers == "auto":
        return 0 if split.paths is None else min(MOST_WORKERS, usable_cores())
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise UserError(f"loader.workers={workers}: it can be auto, or a number from 0")
    return workers
