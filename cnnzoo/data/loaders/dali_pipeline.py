"""The DALI pipeline: it decodes JPEGs, and applies given augmentation parameters on the CPU or on a GPU."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cnnzoo.data.loaders.batch_builder import BatchBuilder
from cnnzoo.data.loaders.dali_source import DaliBatch, DaliInputs, DaliSource

MAX_REASON_LENGTH = 150  # characters of DALI's error message that are shown


class DaliPipeline:
    """A DALI pipeline and the batches in it. After an error it cannot be used any more.

    builder: the torch loader's builder for the same batches.
    device: the GPU that decodes and augments the images; None is the CPU.
    workers, prefetch, hw_decoder_load: see `DaliLoader`.

    `in_flight` holds the unfinished batches of the latest run, the oldest first. `source_error` is the exception that
    reading a batch raised, which is not an error of DALI.
    """

    def __init__(
        self,
        builder: BatchBuilder,
        batch_size: int,
        *,
        device: torch.device | None,
        workers: int,
        prefetch: int,
        hw_decoder_load: float,
    ) -> None:
        self._device, self._source = device, DaliSource(builder)
        self.in_flight = self._source.in_flight
        self._gpu_inputs: deque[tuple[torch.cuda.Event, DaliInputs]] = deque()
        self._pipeline = _define_pipeline(
            self._source,
            batch_size,
            device,
            workers=workers,
            prefetch=prefetch,
            hw_decoder_load=hw_decoder_load,
        )

    @property
    def source_error(self) -> Exception | None:
        return self._source.error

    def run(self, batches: Iterator[DaliBatch]) -> Iterator[tuple[DaliBatch, Tensor]]:
        """Yield each batch with its images: uint8 (N, C, height, width), channels last in memory.

        Discards what an earlier run left unfinished. Raises RuntimeError for every error of DALI.
        """
        self._discard_unfinished()
        # DALI can only be reset at the end of an epoch. The source is empty, so this run ends the epoch.
        self._pipeline.schedule_run()
        self._pipeline.reset()
        self._source.batches, self._source.error = batches, None
        self._pipeline.schedule_run()
        while (output := self._next_output()) is not None:
            # No copy is needed: DALI's executor gives up a batch's memory with the output and does not write to it
            # again. The torch tensor keeps the memory alive. When it is deleted, DALI frees the memory after the work
            # that the GPU has been given until then.
            images = torch.from_dlpack(output.as_tensor()).permute(0, 3, 1, 2)
            self._pipeline.schedule_run()
            batch, inputs = self.in_flight.popleft()
            self._hold_inputs(inputs)
            yield batch, images

    def close(self) -> None:
        """Stop DALI's threads, and only then release the inputs that they read."""
        self._pipeline = None
        self._source.batches = iter(())
        self.in_flight.clear()
        self._gpu_inputs.clear()

    def _discard_unfinished(self) -> None:
        self._source.batches = iter(())
        try:
            while self._next_output() is not None:
                self._hold_inputs(self.in_flight.popleft()[1])
        except RuntimeError:
            self.in_flight.clear()  # they belong to an earlier run, so the caller must not build them again
            raise

    def _hold_inputs(self, inputs: DaliInputs) -> None:
        """Keep a batch's inputs alive while the GPU may still read them: its work can end after the output arrives."""
        if self._device is not None:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self._device))
            self._gpu_inputs.append((event, inputs))
            while self._gpu_inputs[0][0].query() and len(self._gpu_inputs) > 1:
                self._gpu_inputs.popleft()

    def _next_output(self) -> Any:
        """Return the oldest scheduled batch, on a GPU in the order of torch's current stream; None if there is none."""
        # With a stream, the host does not wait for the GPU: the stream waits for DALI's.
        stream = None if self._device is None else torch.cuda.current_stream(self._device)
        try:
            (images,) = self._pipeline.share_outputs(stream)
        except StopIteration:
            return None
        self._pipeline.release_outputs()  # frees the executor's buffer slot; the batch in it stays valid
        return images


def _define_pipeline(
    source: DaliSource,
    batch_size: int,
    device: torch.device | None,
    *,
    workers: int,
    prefetch: int,
    hw_decoder_load: float,
) -> Any:
    """Return a DALI pipeline from the source's inputs to augmented images: uint8 (N, height, width, C).

    DALI builds it, which needs the GPU, when it is first used.
    """
    from nvidia.dali import fn, pipeline_def, types

    on_gpu, image_size, crop_first = device is not None, list(source.image_size), source.crop_before_resize
    device_id = None if device is None else torch.cuda.current_device() if device.index is None else device.index
    decode_options: dict[str, Any] = {
        "device": "mixed" if on_gpu else "cpu",
        "output_type": types.RGB if source.channels == 3 else types.GRAY,
        "jpeg_fancy_upsampling": True,  # interpolates the chroma channels, as libjpeg-turbo does on the CPU
        "hw_decoder_load": hw_decoder_load,
    }
    resize_options: dict[str, Any] = {"interp_type": types.INTERP_LINEAR, "antialias": True}
    pad_options: dict[str, Any] = {"out_of_bounds_policy": "pad", "fill_values": 0}  # black
    optional_inputs = {
        "vertical_flips": (types.INT32, 0),
        "transposes": (types.BOOL, 0),
        "angles": (types.FLOAT, 0),
        "erase_boxes": (types.FLOAT, 1),
    }
    inputs = [(types.UINT8, 1), (types.UINT8, 3), (types.BOOL, 0), (types.INT32, 1), (types.INT32, 1), (types.INT32, 0)]
    inputs += [optional_inputs[name] for name in source.optional_inputs]

    @pipeline_def(
        batch_size=batch_size,
        num_threads=workers,
        device_id=device_id,
        prefetch_queue_depth=prefetch,
        enable_conditionals=True,
        seed=0,
    )
    def pipeline() -> Any:
        jpegs, pixels, is_jpeg, corner, shape, flip, *others = fn.external_source(
            source=source,
            num_outputs=len(inputs),
            dtype=[dtype for dtype, _ in inputs],
            ndim=[ndim for _, ndim in inputs],
            layout=["HWC" if ndim == 3 else "" for _, ndim in inputs],
            no_copy=True,
        )
        optional = dict(zip(source.optional_inputs, others))  # noqa: B905 - DALI's zip has no `strict`

        def crop(images: Any) -> Any:
            return fn.slice(images, start=corner, shape=shape, axis_names="HW")

        def resize_and_flip(images: Any) -> Any:
            if crop_first:
                images = fn.resize(images, size=image_size, **resize_options)
            else:
                images = fn.resize(images, size=fn.cast(shape, dtype=types.FLOAT), **resize_options)
                images = fn.slice(images, start=corner, shape=image_size, axis_names="HW", **pad_options)
            return turn(fn.flip(images, horizontal=flip, vertical=optional.get("vertical_flips", 0)))

        def turn(images: Any) -> Any:
            if optional.get("transposes", False):
                images = fn.transpose(images, perm=[1, 0, 2], transpose_layout=False)
            if "angles" in optional:
                images = fn.rotate(images, angle=optional["angles"], keep_size=True, fill_value=0)
            return images

        if is_jpeg:
            if not crop_first:
                images = fn.decoders.image(jpegs, **decode_options)
            elif on_gpu:  # not image_slice, which crashes on some GPUs with nvImageCodec 0.9 (nvImageCodec issue 55)
                images = crop(fn.decoders.image(jpegs, **decode_options))
            else:
                images = fn.decoders.image_slice(jpegs, start=corner, shape=shape, axis_names="HW", **decode_options)
            if not on_gpu:
                images = resize_and_flip(images)
        else:
            images = pixels  # on the CPU these are already cropped, resized, flipped and turned
            if on_gpu:
                images = (crop(pixels) if crop_first else pixels).gpu()
        if on_gpu:
            images = resize_and_flip(images)
        if "erase_boxes" in optional:
            anchor, extent = optional["erase_boxes"][:2], optional["erase_boxes"][2:]
            images = fn.erase(images, anchor=anchor, shape=extent, axis_names="HW", fill_value=source.erase_fill)
        return images

    return pipeline()


def failure_reason(error: RuntimeError) -> str:
    """The reason in DALI's error message of many lines, in one line."""
    lines = [line.strip() for line in str(error).rpartition("encountered:")[2].splitlines()]
    reasons = [line for line in lines if line and not line.startswith(("Critical error in", "Current pipeline"))]
    return (reasons or [type(error).__name__])[0][:MAX_REASON_LENGTH]
