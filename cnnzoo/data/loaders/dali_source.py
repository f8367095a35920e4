"""DALI's inputs: a batch's JPEGs or pixels with their augmentation parameters. This module does not import DALI."""

from collections import deque
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cnnzoo.data.loaders.batch_builder import BatchBuilder, BatchRequest, Indices, image_sizes
from cnnzoo.data.transforms.arrays import ByteBuffer
from cnnzoo.data.transforms.augment import AugmentParams
from cnnzoo.data.transforms.decode import (
    OTHER_FORMAT,
    PLAIN_JPEG,
    UNVERIFIED,
    BadFile,
    Pixels,
    check_header,
    decode_bytes,
    error_reason,
    verify_jpeg,
)
from cnnzoo.data.transforms.geometry import augment_batch, augment_images
from cnnzoo.data.transforms.pixel_format import convert_channels
from cnnzoo.sizes import Size

NO_JPEG = np.empty(0, np.uint8)
OPTIONAL_INPUTS: dict[str, type] = {
    "vertical_flips": np.int32,
    "transposes": np.bool_,
    "angles": np.float32,
    "erase_boxes": np.float32,
}
"""Fields of `AugmentParams` that are inputs only if the augmentation has them, and DALI's types for them."""
DaliInputs = tuple[Any, ...]


@dataclass(frozen=True)
class DaliBatch:
    """The inputs for one batch: N readable images, each either the bytes of a JPEG or pixels."""

    request: BatchRequest
    jpegs: list[Pixels]  # the bytes of a JPEG, uint8 (bytes,); empty for an image that is given as pixels
    pixels: list[Pixels]  # (H, W, C), upright, or augmented except for erasing; empty for a JPEG
    is_jpeg: npt.NDArray[np.bool_]  # (N,)
    params: AugmentParams  # of the N images
    labels: npt.NDArray[Any]  # of the finished batch
    replacement_rows: Indices | None  # for each position of the finished batch the row in the N; None: all in order
    bad_files: list[BadFile]


class DaliBatchBuilder:
    """Builds DALI's inputs for a request, from files, from the cache or from pixels in memory.

    DALI decodes damaged JPEGs without an error. Each file is therefore verified from end to end when it is read for the
    first time, unless that was done when the cache was filled, and its kind and size are remembered. Only plain JPEGs
    are passed on as files; others are decoded here. Any number of threads may call `build` at the same time.

    builder: the torch loader's builder for the same batches.
    augment_pixels: crop, resize and flip images that are already decoded here, which is several times faster than DALI
        on a CPU. Otherwise they are passed to DALI unchanged.
    """

    def __init__(self, builder: BatchBuilder, *, augment_pixels: bool) -> None:
        self.builder, self.split, self.augment_pixels = builder, builder.split, augment_pixels
        self.kinds = np.full(len(self.split), UNVERIFIED, np.int8)
        if self.split.store is not None:
            self.kinds[:] = self.split.store.index["kind"]
        self.sizes = np.zeros((len(self.split), 2), np.int64)  # of the files that are not cached, once they are checked

    def with_image_size(self, image_size: Size) -> "DaliBatchBuilder":
        """A copy for images of another size, which knows the same about the files."""
        other = copy(self)
        other.builder = replace(self.builder, image_size=image_size)
        return other

    def stop_dali_decoding(self, indices: Indices) -> None:
        """Decode the files `indices` here from now on, because DALI failed on one of them."""
        self.kinds[indices % len(self.split)] = OTHER_FORMAT

    def build(self, request: BatchRequest) -> DaliBatch:
        """Build the inputs for a request."""
        epoch, indices = request
        if self.split.pixels is not None:
            return self._build_from_pixels(request)
        images: list[Pixels] = []
        positions: list[int] = []
        sizes: list[tuple[int, int]] = []
        bad_files: list[BadFile] = []
        for position, index in enumerate((indices % len(self.split)).tolist()):
            try:
                image, size = self._load(index)
            except Exception as error:  # decoders raise many types of exceptions for broken files
                bad_files.append(BadFile(self.split.name(index), error_reason(error)))
                continue
            images.append(image)
            positions.append(position)
            sizes.append(size)
        rows = None
        if bad_files and positions and self.builder.train:
            rows = self.builder.replacement_rows(positions, len(indices))
        good = indices[np.array(positions, np.int64)]
        params = self.builder.params_for(epoch, good, np.array(sizes, np.int64).reshape(-1, 2))
        is_jpeg = np.array([image.ndim == 1 for image in images], bool)
        pixels = [np.empty((0, 0, self.builder.channels), np.uint8)] * len(images)
        decoded_rows = np.flatnonzero(~is_jpeg)
        decoded = self._augment([images[row] for row in decoded_rows], params.select(decoded_rows))
        for row, image in zip(decoded_rows, decoded, strict=True):
            pixels[row] = image
        return DaliBatch(
            request,
            jpegs=[image if image.ndim == 1 else NO_JPEG for image in images],
            pixels=pixels,
            is_jpeg=is_jpeg,
            params=params,
            labels=self.split.labels[(good if rows is None else good[rows]) % len(self.split)],
            replacement_rows=rows,
            bad_files=bad_files,
        )

    def _build_from_pixels(self, request: BatchRequest) -> DaliBatch:
        epoch, indices = request
        assert self.split.pixels is not None
        count = len(indices)
        params = self.builder.params_for(epoch, indices, image_sizes(self.split, count))
        indices = indices % len(self.split)
        labels = self.split.labels[indices]
        if self.augment_pixels:
            frames = convert_channels(self.split.pixels[indices], self.builder.channels)
            pixels = list(augment_batch(frames, replace(params, erase_boxes=None)).permute(0, 2, 3, 1).numpy())
        else:
            pixels = [convert_channels(self.split.pixels[index], self.builder.channels) for index in indices]
        return DaliBatch(request, [NO_JPEG] * count, pixels, np.zeros(count, bool), params, labels, None, [])

    def _augment(self, frames: list[Pixels], params: AugmentParams) -> list[Pixels]:
        """Crop, resize and flip decoded images if `augment_pixels`; erasing is left to DALI."""
        if not self.augment_pixels or not frames:
            return frames
        images = augment_images(frames, replace(params, erase_boxes=None), self.builder.channels)
        return list(images.permute(0, 2, 3, 1).numpy())

    def _load(self, index: int) -> tuple[Pixels, tuple[int, int]]:
        """Return (the bytes of a JPEG or pixels, the size after EXIF rotation) of an image."""
        stored = None if self.split.store is None else self.split.store.get(index)
        data: ByteBuffer | Pixels
        if stored is None:
            data = self.split.read(index)
            if self.kinds[index] == UNVERIFIED:
                self.sizes[index] = check_header(data)
            height, width = self.sizes[index].tolist()
        else:
            data, (height, width) = stored
        if isinstance(data, np.ndarray):
            return data, (height, width)
        if self.kinds[index] == UNVERIFIED:
            self.kinds[index] = PLAIN_JPEG if verify_jpeg(data) else OTHER_FORMAT
        if self.kinds[index] == PLAIN_JPEG:
            return np.frombuffer(data, np.uint8), (height, width)
        pixels = decode_bytes(data, self.builder.channels)
        return pixels, (pixels.shape[0], pixels.shape[1])


class DaliSource:
    """The callable that DALI's external source calls for the inputs of the next batch.

    `batches` are those of the current epoch. DALI reads the arrays without copying them, so `in_flight` keeps the
    inputs alive until their batch is finished. `error` is the exception that `batches` raised.
    """

    def __init__(self, builder: BatchBuilder) -> None:
        self.builder, self.image_size, self.channels = builder, builder.image_size, builder.channels
        # A random-resized crop is cut out before resizing, every other crop after it.
        self.crop_before_resize = builder.train and builder.augment.crop == "random_resized"
        no_params = builder.params_for(0, np.empty(0, np.int64), np.empty((0, 2), np.int64))
        self.optional_inputs = [name for name in OPTIONAL_INPUTS if getattr(no_params, name) is not None]
        self.erase_fill = list(no_params.erase_fill)
        self.batches: Iterator[DaliBatch] = iter(())
        self.error: Exception | None = None
        self.in_flight: deque[tuple[DaliBatch, DaliInputs]] = deque()

    def __call__(self) -> DaliInputs:
        """Return (jpegs, pixels, is_jpeg, crop corners, (height, width) of crop or resize, flips, *optional_inputs).

        Raises StopIteration, which DALI expects, at the end of the epoch.
        """
        try:
            batch = next(self.batches)
        except StopIteration:
            raise
        except Exception as error:
            self.error = error
            raise
        jpegs, pixels, is_jpeg, params = batch.jpegs, batch.pixels, batch.is_jpeg, batch.params
        if not jpegs:  # no file of the batch can be read, but DALI needs at least one image
            jpegs, pixels = [NO_JPEG], [np.zeros((*self.image_size, self.channels), np.uint8)]
            is_jpeg, size = np.zeros(1, bool), np.array([self.image_size], np.int64)
            params = self.builder.params_for(0, np.zeros(1, np.int64), size)
        shapes = params.crops[:, 2:] if self.crop_before_resize else params.resize_to
        corners = params.crops[:, :2].astype(np.int32)
        inputs: DaliInputs = (jpegs, pixels, is_jpeg, corners, shapes.astype(np.int32), params.flips.astype(np.int32))
        inputs += tuple(getattr(params, name).astype(OPTIONAL_INPUTS[name]) for name in self.optional_inputs)
        self.in_flight.append((batch, inputs))
        return inputs
