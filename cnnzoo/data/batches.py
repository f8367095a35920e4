"""What a worker does: from the indices of a batch to its images and labels."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnzoo.data.augment import Augment, Draw
from cnnzoo.data.decode import BadFile, Bytes, Pixels, checked, decoded, read, to_channels, why
from cnnzoo.data.execute import execute, execute_each
from cnnzoo.data.split import Split

HELD = 64 * 2**20  # bytes of files that a worker holds before it decodes them

Indices = npt.NDArray[np.int64]
Key = tuple[int, Indices]  # (epoch, indices)
Made = tuple[Tensor, Tensor, list[BadFile]]  # images, labels, and what took no part in them


@dataclass(frozen=True)
class Batches:
    """Makes the batch for a key: uint8 (N, channels, image_size, image_size), channels last in memory, and labels (N,).

    The same bytes whoever makes it. Worker processes hold a copy, of which the arrays and the store are shared. The
    image of a bad file is left out in evaluation; in training the next good one of the batch takes its place.
    """

    split: Split
    augment: Augment
    train: bool
    image_size: int
    channels: int
    seed: int

    def make(self, key: Key, place: Pixels | None = None) -> Made:
        """The batch. `place`, uint8 (N, image_size, image_size, channels), is where its images may be made."""
        epoch, indices = key
        if self.split.pixels is not None:
            pixels = to_channels(self.split.pixels[indices], self.channels)
            images = execute(pixels, self.draw(epoch, indices, sizes_of(self.split, len(indices))))
            return images, torch.from_numpy(self.split.labels[indices]), []
        images, places, bad = self._of_files(epoch, indices, place)
        if bad and self.train and places:
            rows = self.instead(places, len(indices))
            images, places = images[torch.from_numpy(rows)], [places[row] for row in rows]
        return images, torch.from_numpy(self.split.labels[indices[places]]), bad

    def _of_files(self, epoch: int, indices: Indices, place: Pixels | None) -> tuple[Tensor, list[int], list[BadFile]]:
        """(images, the place in the batch of each, bad files)."""
        made: list[Tensor] = []
        present: list[int] = []
        bad: list[BadFile] = []
        for places, files, sizes in self._parts(indices, bad):
            draw = self.draw(epoch, indices[places], np.array(sizes, np.int64).reshape(-1, 2))
            good: list[int] = []
            part = None if place is None else place[len(present) : len(present) + len(places)]
            images = execute_each(self._frames(indices[places], files, good, bad), draw, self.channels, part)
            made.append(images if len(good) == len(places) else images[good])
            present += [places[row] for row in good]
        if not made:
            return torch.empty(0, self.channels, self.image_size, self.image_size, dtype=torch.uint8), [], bad
        return made[0] if len(made) == 1 else torch.cat(made), present, bad

    def _frames(
        self, indices: Indices, files: list[Bytes | Pixels], good: list[int], bad: list[BadFile]
    ) -> Iterator[Pixels | None]:
        """The files' pixels, decoded when asked for; the rows of those that can be come to `good`."""
        for row, file in enumerate(files):
            try:
                frame = file if isinstance(file, np.ndarray) else decoded(file, self.channels)
            except Exception as error:  # whatever a broken file makes a decoder raise
                bad.append(BadFile(self.split.path(indices[row]), why(error)))
                yield None
            else:
                good.append(row)
                yield frame

    def _parts(
        self, indices: Indices, bad: list[BadFile]
    ) -> Iterator[tuple[list[int], list[Bytes | Pixels], list[tuple[int, int]]]]:
        """(places in the batch, files or pixels, sizes), so many at a time as may be held."""
        places: list[int] = []
        files: list[Bytes | Pixels] = []
        sizes: list[tuple[int, int]] = []
        held = 0
        for place, index in enumerate(indices.tolist()):
            found: tuple[Bytes | Pixels, tuple[int, int]] | None
            found = None if self.split.store is None else self.split.store.get(index)
            if found is None:
                try:
                    data = read(self.split.path(index))
                    found = data, checked(data)
                except Exception as error:
                    bad.append(BadFile(self.split.path(index), why(error)))
                    continue
                held += len(data)
            places.append(place)
            files.append(found[0])
            sizes.append(found[1])
            if held > HELD:
                yield places, files, sizes
                places, files, sizes, held = [], [], [], 0
        if places:
            yield places, files, sizes

    @staticmethod
    def instead(good: list[int], size: int) -> Indices:
        """Which of the good images stands at each place of a training batch of `size`, whose places `good` lists.

        A bad one's place is taken by the next good one, after the last by the first.
        """
        return np.searchsorted(good, np.arange(size)) % len(good)

    def draw(self, epoch: int, indices: Indices, sizes: Indices) -> Draw:
        """What is done to the images `indices` (N,) of `sizes` (N, 2) in that epoch."""
        if self.train:
            return self.augment.draw(self.seed, epoch, indices, sizes, self.image_size)
        return self.augment.for_evaluation(sizes, self.image_size)


def sizes_of(split: Split, count: int) -> Indices:
    """(count, 2): the height and width that all images of a split of pixels have."""
    assert split.pixels is not None
    return np.tile(np.array(split.pixels.shape[1:3], np.int64), (count, 1))
