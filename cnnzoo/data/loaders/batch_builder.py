"""What a worker does: from the indices of a batch to its images and labels."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnzoo.data.split import Split
from cnnzoo.data.transforms.augment import Augment, AugmentParams
from cnnzoo.data.transforms.decode import (
    BadFile,
    ByteBuffer,
    Pixels,
    check_header,
    convert_channels,
    decode_bytes,
    error_reason,
    read_file,
)
from cnnzoo.data.transforms.geometry import augment_batch, augment_images

MAX_BUFFERED_BYTES = 64 * 2**20  # bytes of files that a worker holds before it decodes them

Indices = npt.NDArray[np.int64]
BatchRequest = tuple[int, Indices]  # (epoch, indices)
Batch = tuple[Tensor, Tensor, list[BadFile]]  # images, labels, and what took no part in them


@dataclass(frozen=True)
class BatchBuilder:
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

    def build(self, key: BatchRequest, place: Pixels | None = None) -> Batch:
        """The batch. `place`, uint8 (N, image_size, image_size, channels), is where its images may be made."""
        epoch, indices = key
        if self.split.pixels is not None:
            pixels = convert_channels(self.split.pixels[indices], self.channels)
            images = augment_batch(pixels, self.params_for(epoch, indices, image_sizes(self.split, len(indices))))
            return images, torch.from_numpy(self.split.labels[indices]), []
        images, places, bad = self._of_files(epoch, indices, place)
        if bad and self.train and places:
            rows = self.replacement_rows(places, len(indices))
            images, places = images[torch.from_numpy(rows)], [places[row] for row in rows]
        return images, torch.from_numpy(self.split.labels[indices[places]]), bad

    def _of_files(self, epoch: int, indices: Indices, place: Pixels | None) -> tuple[Tensor, list[int], list[BadFile]]:
        """(images, the place in the batch of each, bad files)."""
        made: list[Tensor] = []
        present: list[int] = []
        bad: list[BadFile] = []
        for places, files, sizes in self._parts(indices, bad):
            params = self.params_for(epoch, indices[places], np.array(sizes, np.int64).reshape(-1, 2))
            good: list[int] = []
            part = None if place is None else place[len(present) : len(present) + len(places)]
            images = augment_images(self._frames(indices[places], files, good, bad), params, self.channels, part)
            made.append(images if len(good) == len(places) else images[good])
            present += [places[row] for row in good]
        if not made:
            return torch.empty(0, self.channels, self.image_size, self.image_size, dtype=torch.uint8), [], bad
        return made[0] if len(made) == 1 else torch.cat(made), present, bad

    def _frames(
        self, indices: Indices, files: list[ByteBuffer | Pixels], good: list[int], bad: list[BadFile]
    ) -> Iterator[Pixels | None]:
        """The files' pixels, decoded when asked for; the rows of those that can be come to `good`."""
        for row, file in enumerate(files):
            try:
                frame = file if isinstance(file, np.ndarray) else decode_bytes(file, self.channels)
            except Exception as error:  # whatever a broken file makes a decoder raise
                bad.append(BadFile(self.split.path(indices[row]), error_reason(error)))
                yield None
            else:
                good.append(row)
                yield frame

    def _parts(
        self, indices: Indices, bad: list[BadFile]
    ) -> Iterator[tuple[list[int], list[ByteBuffer | Pixels], list[tuple[int, int]]]]:
        """(places in the batch, files or pixels, sizes), so many at a time as may be held."""
        places: list[int] = []
        files: list[ByteBuffer | Pixels] = []
        sizes: list[tuple[int, int]] = []
        held = 0
        for place, index in enumerate(indices.tolist()):
            found: tuple[ByteBuffer | Pixels, tuple[int, int]] | None
            found = None if self.split.store is None else self.split.store.get(index)
            if found is None:
                try:
                    data = read_file(self.split.path(index))
                    found = data, check_header(data)
                except Exception as error:
                    bad.append(BadFile(self.split.path(index), error_reason(error)))
                    continue
                held += len(data)
            places.append(place)
            files.append(found[0])
            sizes.append(found[1])
            if held > MAX_BUFFERED_BYTES:
                yield places, files, sizes
                places, files, sizes, held = [], [], [], 0
        if places:
            yield places, files, sizes

    @staticmethod
    def replacement_rows(good: list[int], size: int) -> Indices:
        """Which of the good images stands at each place of a training batch of `size`, whose places `good` lists.

        A bad one's place is taken by the next good one, after the last by the first.
        """
        return np.searchsorted(good, np.arange(size)) % len(good)

    def params_for(self, epoch: int, indices: Indices, sizes: Indices) -> AugmentParams:
        """What is done to the images `indices` (N,) of `sizes` (N, 2) in that epoch."""
        if self.train:
            return self.augment.sample(self.seed, epoch, indices, sizes, self.image_size)
        return self.augment.eval_params(sizes, self.image_size)


def image_sizes(split: Split, count: int) -> Indices:
    """(count, 2): the height and width that all images of a split of pixels have."""
    assert split.pixels is not None
    return np.tile(np.array(split.pixels.shape[1:3], np.int64), (count, 1))
