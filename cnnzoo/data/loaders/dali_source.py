"""What DALI is fed: a batch's JPEGs or pixels, and what was drawn for them. Nothing here knows DALI."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cnnzoo.data.loaders.batch_builder import BatchBuilder, BatchRequest, Indices
from cnnzoo.data.transforms.augment import AugmentParams
from cnnzoo.data.transforms.decode import (
    BadFile,
    ByteBuffer,
    Pixels,
    check_header,
    convert_channels,
    decode_bytes,
    error_reason,
    read_file,
    verify_jpeg,
)
from cnnzoo.data.transforms.geometry import augment_batch, augment_images

UNCHECKED, JPEG, NOT_JPEG = range(3)
"""What is known of a file: nothing yet, a sound JPEG that DALI decodes, or one that is decoded here."""
NO_FILE = np.empty(0, np.uint8)
DaliInputs = tuple[Any, ...]


@dataclass(frozen=True)
class DaliBatch:
    """A batch on its way to DALI: N images that can be read, each as a file's bytes or as pixels."""

    key: BatchRequest
    files: list[Pixels]  # a JPEG's bytes, (bytes,); empty where there are pixels
    pixels: list[Pixels]  # (H, W, C), upright, or finished but for what is erased; empty where there is a file
    are_files: npt.NDArray[np.bool_]  # (N,)
    params: AugmentParams  # of the N
    labels: npt.NDArray[np.int64]  # of the finished batch
    rows: Indices | None  # which of the N stands at each place of the finished batch; None: they as they are
    bad: list[BadFile]


class DaliBatchBuilder:
    """Makes what DALI is fed for a key of `batches`, from files, from the store or from pixels in memory.

    DALI takes damaged files without a word, so each is looked at from end to end the first time it is met; its kind and
    size are kept from then on. What is no plain JPEG is decoded here. Any number of threads may make feeds.

    finish: what is pixels is cropped, resized and flipped here as well, several times as quickly as DALI does it on a
        CPU; else it is handed over as it lies in memory.
    """

    def __init__(self, batches: BatchBuilder, *, finish: bool) -> None:
        self.batches, self.split, self.finish = batches, batches.split, finish
        self.kinds = np.zeros(len(self.split), np.int8)
        self.sizes = np.zeros((len(self.split), 2), np.int64)

    def build(self, key: BatchRequest, *, dali_decodes: bool = True) -> DaliBatch:
        """The feed for `key`; not `by_itself`: files are looked at anew, and all are decoded here."""
        epoch, indices = key
        if self.split.pixels is not None:
            return self._of_pixels(key)
        if not dali_decodes:
            self.kinds[indices] = UNCHECKED
        found: list[Pixels] = []
        good: list[int] = []
        sizes: list[tuple[int, int]] = []
        bad: list[BadFile] = []
        for place, index in enumerate(indices.tolist()):
            try:
                image, size = self._find(index, dali_decodes)
            except Exception as error:  # whatever a broken file makes a decoder raise
                bad.append(BadFile(self.split.path(index), error_reason(error)))
                continue
            found.append(image)
            good.append(place)
            sizes.append(size)
        rows = self.batches.replacement_rows(good, len(indices)) if bad and good and self.batches.train else None
        places = np.array(good, np.int64)
        params = self.batches.params_for(epoch, indices[places], np.array(sizes, np.int64).reshape(-1, 2))
        are_files = np.array([image.ndim == 1 for image in found], bool)
        pixels = [self._no_pixels] * len(found)
        decoded_here = np.flatnonzero(~are_files)
        for row, image in zip(
            decoded_here, self._finished([found[row] for row in decoded_here], params.select(decoded_here)), strict=True
        ):
            pixels[row] = image
        return DaliBatch(
            key,
            files=[image if image.ndim == 1 else NO_FILE for image in found],
            pixels=pixels,
            are_files=are_files,
            params=params,
            labels=self.split.labels[indices[places if rows is None else places[rows]]],
            rows=rows,
            bad=bad,
        )

    def _finished(self, frames: list[Pixels], params: AugmentParams) -> list[Pixels]:
        if not self.finish or not frames:
            return frames
        images = augment_images(frames, replace(params, erase_boxes=None), self.batches.channels)
        return list(images.permute(0, 2, 3, 1).numpy())

    @property
    def _no_pixels(self) -> Pixels:
        return np.empty((0, 0, self.batches.channels), np.uint8)

    def _find(self, index: int, dali_decodes: bool) -> tuple[Pixels, tuple[int, int]]:
        """(a JPEG's bytes or pixels, the size upright) of a file."""
        stored = None if self.split.store is None else self.split.store.get(index)
        data: ByteBuffer | Pixels
        if stored is None:
            data = read_file(self.split.path(index))
            if self.kinds[index] == UNCHECKED:
                self.sizes[index] = check_header(data)
            height, width = self.sizes[index].tolist()
        else:
            data, (height, width) = stored
        if isinstance(data, np.ndarray):
            return data, (height, width)
        if self.kinds[index] == UNCHECKED:
            self.kinds[index] = JPEG if verify_jpeg(data) else NOT_JPEG
        if self.kinds[index] == JPEG and dali_decodes:
            return np.frombuffer(data, np.uint8), (height, width)
        pixels = decode_bytes(data, self.batches.channels)
        return pixels, (pixels.shape[0], pixels.shape[1])

    def _of_pixels(self, key: BatchRequest) -> DaliBatch:
        epoch, indices = key
        assert self.split.pixels is not None
        count, labels = len(indices), self.split.labels[indices]
        sizes = np.tile(np.array(self.split.pixels.shape[1:3], np.int64), (count, 1))
        params = self.batches.params_for(epoch, indices, sizes)
        if self.finish:
            frames = convert_channels(self.split.pixels[indices], self.batches.channels)
            pixels = list(augment_batch(frames, replace(params, erase_boxes=None)).permute(0, 2, 3, 1).numpy())
        else:
            pixels = [convert_channels(self.split.pixels[index], self.batches.channels) for index in indices]
        return DaliBatch(key, [NO_FILE] * count, pixels, np.zeros(count, bool), params, labels, None, [])


class DaliSource:
    """What DALI calls for the next batch's inputs, which it reads where they lie.

    `feeds` gives an epoch's; `flight` keeps alive what was fed and did not come out yet.
    """

    def __init__(self, batches: BatchBuilder) -> None:
        self.batches, self.side, self.channels = batches, batches.image_size, batches.channels
        # Windows of random-resized crops are cut out before resizing, all others after it.
        self.cuts_first = batches.train and batches.augment.crop == "random_resized"
        nothing = batches.params_for(0, np.empty(0, np.int64), np.empty((0, 2), np.int64))
        self.erases, self.fill = nothing.erase_boxes is not None, list(nothing.erase_fill)
        self.feeds: Iterator[DaliBatch] = iter(())
        self.flight: deque[tuple[DaliBatch, DaliInputs]] = deque()

    def __call__(self) -> DaliInputs:
        """Files, pixels, which of them counts, windows' corners, heights and widths, flips; what is erased."""
        fed = next(self.feeds)
        files, pixels, are_files, params = fed.files, fed.pixels, fed.are_files, fed.params
        if not files:  # none of the batch's can be read: DALI wants one image at least
            files, pixels = [NO_FILE], [np.zeros((self.side, self.side, self.channels), np.uint8)]
            are_files, size = np.zeros(1, bool), np.array([[self.side, self.side]], np.int64)
            params = self.batches.params_for(0, np.zeros(1, np.int64), size)
        shapes = params.crops[:, 2:] if self.cuts_first else params.resize_to
        corners = params.crops[:, :2].astype(np.int32)
        inputs: DaliInputs = (files, pixels, are_files, corners, shapes.astype(np.int32), params.flips.astype(np.int32))
        if params.erase_boxes is not None:
            inputs = (*inputs, params.erase_boxes.astype(np.float32))
        self.flight.append((fed, inputs))
        return inputs
