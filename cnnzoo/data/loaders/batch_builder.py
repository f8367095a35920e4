"""Builds one batch: reads, decodes and augments the images of a request. Workers and the training process run this."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cnnzoo.data.split import Split
from cnnzoo.data.transforms.arrays import ByteBuffer
from cnnzoo.data.transforms.augment import Augment, AugmentParams
from cnnzoo.data.transforms.decode import (
    BadFile,
    Pixels,
    check_header,
    decode_bytes,
    error_reason,
)
from cnnzoo.data.transforms.geometry import augment_batch, augment_images
from cnnzoo.data.transforms.pixel_format import convert_channels, pixel_dtype
from cnnzoo.sizes import Size

SAMPLED_IMAGES = 1024  # images whose parameters are sampled in one call, which costs less than one call per batch
MAX_BUFFERED_BYTES = 64 * 2**20  # file contents that a worker holds in memory before it decodes them

Indices = npt.NDArray[np.int64]


class BatchRequest(NamedTuple):
    """The images of one batch, and the epoch, which their random augmentation depends on."""

    epoch: int
    indices: Indices  # (N,) of images of the split; + k * len(split) for the k-th repetition within the epoch


class Batch(NamedTuple):
    """Images and labels of one batch, and the requested files that could not be read."""

    images: Tensor  # uint8, or uint16 for 16 bits, (N, channels, height, width), channels last in memory
    labels: Tensor  # int64 (N,), or uint8 (N, num_classes) of a multi-label set
    bad_files: list[BadFile]


@dataclass(frozen=True)
class BatchBuilder:
    """Builds one batch from a request; the result has the same bytes in every thread or process.

    Each worker process has a copy of the builder; the arrays of the split and its cache are shared memory. In
    evaluation, the image of a bad file is left out. In training, the next good image of the batch replaces it.
    """

    split: Split
    augment: Augment
    train: bool
    image_size: Size  # height and width of the result
    channels: int
    seed: int
    bits: int = 8  # of each value: 8 gives uint8 images, 16 uint16

    def build(self, request: BatchRequest, out: Pixels | None = None) -> Batch:
        """Build the batch of a request.

        out: (N, *image_size, channels), memory to write the images to. It may stay unused: the
            caller compares addresses to see where the images are.
        """
        epoch, indices = request
        if self.split.pixels is not None:
            return self._build_from_pixels(
                indices, self.params_for(epoch, indices, image_sizes(self.split, len(indices)))
            )
        images, positions, bad_files = self._build_from_files(epoch, indices, out)
        if bad_files and self.train and positions:
            rows = self.replacement_rows(positions, len(indices))
            images, positions = images[torch.from_numpy(rows)], [positions[row] for row in rows]
        return Batch(images, torch.from_numpy(self.split.labels[indices[positions] % len(self.split)]), bad_files)

    def build_batches(self, requests: Iterable[BatchRequest]) -> Iterator[Batch]:
        """Iterate over the batches of the requests, built one at a time."""
        if self.split.pixels is None:  # the sizes of the images are not known before they are read
            yield from map(self.build, requests)
            return
        for chunk in chunk_requests(requests):
            indices = np.concatenate([request.indices for request in chunk])
            params = self.params_for(chunk[0].epoch, indices, image_sizes(self.split, len(indices)))
            for request, rows in zip(chunk, batch_rows(chunk), strict=True):
                yield self._build_from_pixels(request.indices, params.select(rows))

    def _build_from_pixels(self, indices: Indices, params: AugmentParams) -> Batch:
        assert self.split.pixels is not None
        indices = indices % len(self.split)
        images = augment_batch(convert_channels(self.split.pixels[indices], self.channels), params)
        return Batch(images, torch.from_numpy(self.split.labels[indices]), [])

    def _build_from_files(
        self, epoch: int, indices: Indices, out: Pixels | None
    ) -> tuple[Tensor, list[int], list[BadFile]]:
        """Return (images of the good files, their positions in the batch, the bad files)."""
        image_chunks: list[Tensor] = []
        positions: list[int] = []
        bad_files: list[BadFile] = []
        image_indices = indices % len(self.split)  # repetitions of an image differ only in their parameters
        for chunk, files, sizes in self._read_chunks(image_indices, bad_files):
            params = self.params_for(epoch, indices[chunk], np.array(sizes, np.int64).reshape(-1, 2))
            good_rows: list[int] = []
            chunk_out = None if out is None else out[len(positions) : len(positions) + len(chunk)]
            frames = self._decode(image_indices[chunk], files, good_rows, bad_files)
            images = augment_images(frames, params, self.channels, chunk_out, pixel_dtype(self.bits))
            image_chunks.append(images if len(good_rows) == len(chunk) else images[good_rows])
            positions += [chunk[row] for row in good_rows]
        if not image_chunks:
            empty = np.empty((0, self.channels, *self.image_size), pixel_dtype(self.bits))
            return torch.from_numpy(empty), [], bad_files
        return image_chunks[0] if len(image_chunks) == 1 else torch.cat(image_chunks), positions, bad_files

    def _decode(
        self, indices: Indices, files: list[ByteBuffer | Pixels], good_rows: list[int], bad_files: list[BadFile]
    ) -> Iterator[Pixels | None]:
        """Decode the files lazily, one per step; None for a bad file. Fills `good_rows` and `bad_files`."""
        for row, file in enumerate(files):
            try:
                pixels = file if isinstance(file, np.ndarray) else decode_bytes(file, self.channels, self.bits)
            except Exception as error:  # decoders raise many types of exceptions for broken files
                bad_files.append(BadFile(self.split.name(indices[row]), error_reason(error)))
                yield None
            else:
                good_rows.append(row)
                yield pixels

    def _read_chunks(
        self, indices: Indices, bad_files: list[BadFile]
    ) -> Iterator[tuple[list[int], list[ByteBuffer | Pixels], list[tuple[int, int]]]]:
        """Yield chunks of (positions in the batch, files or pixels, sizes), of about `MAX_BUFFERED_BYTES` at most.

        Cached images are views of shared memory and do not count towards the limit.
        """
        positions: list[int] = []
        files: list[ByteBuffer | Pixels] = []
        sizes: list[tuple[int, int]] = []
        buffered_bytes = 0
        for position, index in enumerate(indices.tolist()):
            image: tuple[ByteBuffer | Pixels, tuple[int, int]] | None
            image = None if self.split.store is None else self.split.store.get(index)
            if image is None:
                try:
                    data = self.split.read(index)
                    image = data, check_header(data, self.channels, self.bits)
                except Exception as error:
                    bad_files.append(BadFile(self.split.name(index), error_reason(error)))
                    continue
                buffered_bytes += len(data)
            positions.append(position)
            files.append(image[0])
            sizes.append(image[1])
            if buffered_bytes > MAX_BUFFERED_BYTES:
                yield positions, files, sizes
                positions, files, sizes, buffered_bytes = [], [], [], 0
        if positions:
            yield positions, files, sizes

    @staticmethod
    def replacement_rows(positions: list[int], size: int) -> Indices:
        """Return int64 (size,): for each position of a training batch, the row of the good image to put there.

        `positions` lists the good images' positions in ascending order. A bad image is replaced by the next good one;
        after the last good one, by the first.
        """
        return np.searchsorted(positions, np.arange(size)) % len(positions)

    def params_for(self, epoch: int, indices: Indices, sizes: Indices) -> AugmentParams:
        """Return the augmentation parameters of the images `indices` (N,) of `sizes` (N, 2) in that epoch."""
        if self.train:
            params = self.augment.sample(self.seed, epoch, indices, sizes, self.image_size)
            if self.bits == 16 and params.erase_boxes is not None:
                fill = tuple(round(65535 * mean) for mean in self.augment.mean or (0.0,))
                params = replace(params, erase_fill=fill)
            return params
        return self.augment.eval_params(sizes, self.image_size)


def image_sizes(split: Split, count: int) -> Indices:
    """(count, 2): the height and width of the images of a split that has `pixels`, repeated."""
    assert split.pixels is not None
    return np.tile(np.array(split.pixels.shape[1:3], np.int64), (count, 1))


def chunk_requests(requests: Iterable[BatchRequest]) -> Iterator[list[BatchRequest]]:
    """Group successive requests of one epoch until they have `SAMPLED_IMAGES` images together."""
    chunk: list[BatchRequest] = []
    count = 0
    for request in requests:
        if chunk and request.epoch != chunk[0].epoch:
            yield chunk
            chunk, count = [], 0
        chunk.append(request)
        count += len(request.indices)
        if count >= SAMPLED_IMAGES:
            yield chunk
            chunk, count = [], 0
    if chunk:
        yield chunk


def batch_rows(chunk: list[BatchRequest]) -> list[slice]:
    """The rows of each request's images among those of the whole chunk."""
    ends = np.cumsum([len(request.indices) for request in chunk]).tolist()
    return [slice(end - len(request.indices), end) for request, end in zip(chunk, ends, strict=True)]
