"""The DALI loader: NVIDIA's DALI decodes JPEGs and augments images, with its own threads or on a GPU.

DALI decides nothing: the order of the images and their augmentation parameters are computed here, as for every loader,
and passed to DALI as inputs.
"""

import sys
from collections import deque
from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor

from cnnzoo.checks import check_int, check_number
from cnnzoo.data.loaders.base import MAX_AUTO_WORKERS, BatchRequests, Loader
from cnnzoo.data.loaders.batch_builder import Batch, BatchBuilder
from cnnzoo.data.loaders.dali_source import DaliBatch, DaliBatchBuilder, DaliInputs, DaliSource
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.workers import ThreadPool
from cnnzoo.data.split import Split
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.errors import UserError
from cnnzoo.runtime.cpu import usable_cores
from cnnzoo.runtime.formatting import plural

DEFAULT_CUDA = "13.0"
"""The CUDA version to install DALI for when there is no GPU to tell it."""


class DaliLoader(Loader):
    """Batches of `split` in the order of `sampler`, equal to `TorchLoader`'s up to rounding in decoding and resizing.

    workers: number of DALI's threads, and also of the threads that read files ahead; "auto" is one per usable core, at
        most 8.
    prefetch: batches that DALI prepares ahead, at least 1.
    hw_decoder_load: fraction of the JPEGs that the GPU's hardware decoder gets, where there is one.
    device: the GPU that decodes and augments the images and receives the batches. With None or a CPU, this happens on
        the CPU.

    Raises UserError if DALI is missing or does not support the augmentation.
    """

    name = "dali"
    _reader_pool: ThreadPool[DaliBatch] | None = None
    _pipeline: "_Pipeline | None" = None

    def __init__(
        self,
        split: Split,
        sampler: EpochSampler,
        *,
        augment: Augment,
        train: bool,
        image_size: int,
        channels: int,
        seed: int,
        workers: int | Literal["auto"] = "auto",
        prefetch: int = 2,
        hw_decoder_load: float = 0.65,
        on_bad_file: Literal["error", "skip"] = "error",
        device: torch.device | None = None,
    ) -> None:
        check_dali(augment if train else Augment(), device)
        super().__init__(split, sampler, on_bad_file)
        self.workers = resolve_threads(workers)
        self.prefetch = check_int("loader.prefetch", prefetch, minimum=1, note="(batches)")
        fraction = check_number("loader.hw_decoder_load", hw_decoder_load, minimum=0, maximum=1, note="(of the JPEGs)")
        self.hw_decoder_load = float(fraction)
        self.device = device if device is not None and device.type == "cuda" else None
        self._builder = DaliBatchBuilder(
            BatchBuilder(split, augment, train, image_size, channels, seed), augment_pixels=self.device is None
        )

    def describe(self) -> str:
        return f"dali, {plural(self.workers, 'thread')}, decoding on the {'CPU' if self.device is None else 'GPU'}"

    def close(self) -> None:
        """Stop DALI's threads and the reader threads. The next iteration starts new ones."""
        reader_pool, self._reader_pool = self._reader_pool, None
        pipeline, self._pipeline = self._pipeline, None
        if reader_pool is not None:
            reader_pool.close()
        if pipeline is not None:
            pipeline.close()

    def _iter_batches(self) -> Iterator[Batch]:
        if self._reader_pool is None:
            self._reader_pool = ThreadPool(self._builder, self.workers)
        batches = self._reader_pool.build_batches(BatchRequests(self.sampler))
        results: Iterator[tuple[DaliBatch, Tensor]] | None = None
        while True:
            if self._pipeline is None:
                self._pipeline = self._new_pipeline()
            pipeline, results = self._pipeline, results or self._pipeline.run(batches)
            try:
                result = next(results, None)
            except RuntimeError:
                # A pipeline cannot be used after an error. Retry the oldest batch in flight alone, as it may be the one
                # that failed, and start a new pipeline with the others.
                in_flight = [batch for batch, _ in pipeline.in_flight]
                pipeline.close()
                if not in_flight:
                    raise
                self._pipeline = results = None
                batches = chain(in_flight[1:], batches)
                yield self._retry(in_flight[0])
                continue
            if result is None:
                return
            yield self._finish(*result)

    def _retry(self, batch: DaliBatch) -> Batch:
        """Build a batch that may have failed: with DALI again, or else with every file decoded here."""
        try:
            return self._run_alone(batch)
        except RuntimeError:
            return self._run_alone(self._builder.build(batch.request, dali_decodes=False))

    def _run_alone(self, batch: DaliBatch) -> Batch:
        """Build a batch with a pipeline of its own."""
        pipeline = self._new_pipeline()
        try:
            ((_, images),) = pipeline.run(iter([batch]))
            return self._finish(batch, images)
        finally:
            pipeline.close()

    def _finish(self, batch: DaliBatch, images: Tensor) -> Batch:
        """Join DALI's images with the labels, and replace the images of bad files."""
        labels = torch.from_numpy(batch.labels)
        if not len(batch.jpegs):
            images = images[:0]
        if batch.replacement_rows is not None:
            images = images[torch.from_numpy(batch.replacement_rows).to(images.device)]
        if self.device is not None:
            return Batch(images, labels.pin_memory().to(self.device, non_blocking=True), batch.bad_files)
        return Batch(images, labels, batch.bad_files)

    def _new_pipeline(self) -> "_Pipeline":
        return _Pipeline(
            self._builder.builder,
            self.sampler.batch_size,
            device=self.device,
            workers=self.workers,
            prefetch=self.prefetch,
            hw_decoder_load=self.hw_decoder_load,
        )


class _Pipeline:
    """A DALI pipeline that applies augmentation parameters. `in_flight` holds the inputs of unfinished batches."""

    def __init__(self, builder: BatchBuilder, batch_size: int, *, device: torch.device | None, **options: Any) -> None:
        self._device, self._source = device, DaliSource(builder)
        self.in_flight = self._source.in_flight
        self._gpu_inputs: deque[tuple[torch.cuda.Event, DaliInputs]] = deque()
        self._pipeline = _build_pipeline(self._source, batch_size, device, **options)

    def run(self, batches: Iterator[DaliBatch]) -> Iterator[tuple[DaliBatch, Tensor]]:
        """Yield each batch with its images: uint8 (N, C, image_size, image_size), channels last in memory.

        Discards what an earlier run left unfinished.
        """
        self._source.batches = iter(())
        while self._next_output() is not None:
            pass
        if self._device is not None:
            torch.cuda.synchronize(self._device)
        self.in_flight.clear()
        # DALI can only be reset at the end of an epoch. The source is empty, so this run ends the epoch.
        self._pipeline.schedule_run()
        self._pipeline.reset()
        self._source.batches = batches
        self._pipeline.schedule_run()
        while (output := self._next_output()) is not None:
            # No copy is needed: DALI's executor gives up a batch's memory with the output and does not write to it
            # again. The torch tensor keeps the memory alive.
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
        if self._pipeline is None:
            raise RuntimeError("this iterator is no longer valid: its loader has been closed")
        stream = None if self._device is None else torch.cuda.current_stream(self._device)
        try:
            (images,) = self._pipeline.share_outputs(stream)
        except StopIteration:
            return None
        self._pipeline.release_outputs()  # frees the executor's buffer slot; the batch in it stays valid
        return images


def _build_pipeline(
    source: DaliSource,
    batch_size: int,
    device: torch.device | None,
    *,
    workers: int,
    prefetch: int,
    hw_decoder_load: float,
) -> Any:
    """Return a DALI pipeline from the source's inputs to augmented images: uint8 (N, image_size, image_size, C)."""
    from nvidia.dali import fn, pipeline_def, types

    on_gpu, side, crop_first = device is not None, source.image_size, source.crop_before_resize
    decode_options: dict[str, Any] = {
        "device": "mixed" if on_gpu else "cpu",
        "output_type": types.RGB if source.channels == 3 else types.GRAY,
        "jpeg_fancy_upsampling": True,  # interpolates the chroma channels, as libjpeg-turbo does on the CPU
        "hw_decoder_load": hw_decoder_load,
    }
    resize_options: dict[str, Any] = {"interp_type": types.INTERP_LINEAR, "antialias": True}
    pad_options: dict[str, Any] = {"out_of_bounds_policy": "pad", "fill_values": 0}  # black
    dtypes = [types.UINT8, types.UINT8, types.BOOL, types.INT32, types.INT32, types.INT32, types.FLOAT]
    ndims, layouts = [1, 3, 0, 1, 1, 0, 1], ["", "HWC", "", "", "", "", ""]
    num_inputs = 7 if source.has_erase else 6

    @pipeline_def(
        batch_size=batch_size,
        num_threads=workers,
        device_id=(device.index or 0) if device is not None else None,
        prefetch_queue_depth=prefetch,
        enable_conditionals=True,
        seed=0,
    )
    def pipeline() -> Any:
        jpegs, pixels, is_jpeg, corner, shape, flip, *erase_box = fn.external_source(
            source=source,
            num_outputs=num_inputs,
            dtype=dtypes[:num_inputs],
            ndim=ndims[:num_inputs],
            layout=layouts[:num_inputs],
            no_copy=True,
        )

        def crop(images: Any) -> Any:
            return fn.slice(images, start=corner, shape=shape, axis_names="HW")

        def resize_and_flip(images: Any) -> Any:
            if crop_first:
                images = fn.resize(images, size=[side, side], **resize_options)
            else:
                images = fn.resize(images, size=fn.cast(shape, dtype=types.FLOAT), **resize_options)
                images = fn.slice(images, start=corner, shape=[side, side], axis_names="HW", **pad_options)
            return fn.flip(images, horizontal=flip)

        if is_jpeg:
            if crop_first:
                images = fn.decoders.image_slice(jpegs, start=corner, shape=shape, axis_names="HW", **decode_options)
            else:
                images = fn.decoders.image(jpegs, **decode_options)
            if not on_gpu:
                images = resize_and_flip(images)
        else:
            images = pixels  # on the CPU these are already cropped, resized and flipped
            if on_gpu:
                images = (crop(pixels) if crop_first else pixels).gpu()
        if on_gpu:
            images = resize_and_flip(images)
        if source.has_erase:
            anchor, extent = erase_box[0][:2], erase_box[0][2:]
            images = fn.erase(images, anchor=anchor, shape=extent, axis_names="HW", fill_value=source.erase_fill)
        return images

    return pipeline()


def check_dali(augment: Augment, device: torch.device | None) -> None:
    """Raise UserError if DALI cannot be used on `device` with this training augmentation.

    The error says what to type instead.
    """
    on_gpu = device is not None and device.type == "cuda"
    problem = dali_problem(torch.version.cuda if on_gpu else None)
    if on_gpu and torch.version.cuda is None:
        problem = "DALI supports only NVIDIA GPUs"
    if problem is not None:
        raise UserError(f"loader=dali: {problem}; or type loader=torch")
    problem = unsupported_augmentation(augment)
    if problem is not None:
        raise UserError(f"{problem}; type loader=torch")


def unsupported_augmentation(augment: Augment) -> str | None:
    """Return an error message if DALI has no exact counterpart of the augmentation, else None."""
    if augment.auto_augment:
        return f"augment.auto_augment={augment.auto_augment}: loader=dali does not support it"
    if any(augment.color_jitter or ()):
        return f"augment.color_jitter={augment.color_jitter}: loader=dali does not support it"
    return None


@cache
def dali_problem(cuda: str | None = None) -> str | None:
    """Return why DALI cannot be used, with the command that helps; None if it can.

    cuda: the CUDA version of torch, e.g. "13.0"; None if no GPU is used.
    """
    if not sys.platform.startswith("linux"):
        return "DALI runs only on Linux"
    major = (cuda or DEFAULT_CUDA).split(".")[0]
    package = '"cnnzoo[dali]"' if major == DEFAULT_CUDA.split(".")[0] else f"nvidia-dali-cuda{major}0"
    install = f"pip install {package}"
    try:
        import nvidia.dali
    except ModuleNotFoundError:
        return f"DALI is not installed: {install}"
    except (ImportError, OSError) as error:
        return f"DALI cannot be loaded ({' '.join(str(error).split())}): {install}"
    dali_major = nvidia.dali.__cuda_version__ // 1000
    if cuda is not None and str(dali_major) != major:
        uninstall = f"pip uninstall nvidia-dali-cuda{dali_major}0"
        return f"DALI is built for CUDA {dali_major}, torch for {cuda}: {uninstall}; {install}"
    return None


def resolve_threads(workers: int | str) -> int:
    """Return `loader.workers` as a number of threads. Raises UserError unless it is "auto" or an integer >= 1."""
    if workers == "auto":
        return min(MAX_AUTO_WORKERS, usable_cores())
    return check_int("loader.workers", workers, minimum=1, note="for DALI, or auto")
