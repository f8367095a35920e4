"""The loader on NVIDIA's DALI: JPEGs decoded and images augmented by its own threads, or on a GPU.

DALI decides nothing: which image comes when, and what is done to it, is drawn here as for every loader, and fed to it.
"""

import sys
from collections import deque
from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor

from cnnzoo.data.loaders.base import MAX_AUTO_WORKERS, BatchRequests, Loader
from cnnzoo.data.loaders.batch_builder import Batch, BatchBuilder
from cnnzoo.data.loaders.dali_source import DaliBatch, DaliBatchBuilder, DaliInputs, DaliSource
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.workers import ThreadPool
from cnnzoo.data.split import Split
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.errors import UserError
from cnnzoo.runtime.cpu import usable_cores

DEFAULT_CUDA = "13.0"
"""The CUDA that DALI is installed for where no GPU says another."""


class DaliLoader(Loader):
    """Batches of `split` in `order`, as `TorchLoader` makes them but for the last bits of decoding and resizing.

    workers: DALI's threads, and as many that read files ahead of it; "auto" is one per usable core, at most 8.
    prefetch: batches that DALI makes ahead, from 1.
    hw_decoder_load: share of the JPEGs that the GPU's own JPEG decoder gets, where it has one.
    device: the GPU on which images are decoded and augmented, and where batches lie; None or a CPU: here.

    Raises UserError where DALI is missing, and for an augmentation that it cannot execute.
    """

    _readers: ThreadPool[DaliBatch] | None = None
    _pipe: "_Pipeline | None" = None

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
        if isinstance(prefetch, bool) or not isinstance(prefetch, int) or prefetch < 1:
            raise UserError(f"loader.prefetch={prefetch}: a number of batches, at least 1")
        share = isinstance(hw_decoder_load, int | float) and not isinstance(hw_decoder_load, bool)
        if not share or not 0 <= hw_decoder_load <= 1:
            raise UserError(f"loader.hw_decoder_load={hw_decoder_load}: a share of the images, from 0 to 1")
        self.prefetch, self.hw_decoder_load = prefetch, float(hw_decoder_load)
        self.device = device if device is not None and device.type == "cuda" else None
        self._feeds = DaliBatchBuilder(
            BatchBuilder(split, augment, train, image_size, channels, seed), finish=self.device is None
        )

    def close(self) -> None:
        """End DALI's threads and those that read. The next iteration starts new ones."""
        readers, self._readers = self._readers, None
        pipe, self._pipe = self._pipe, None
        if readers is not None:
            readers.close()
        if pipe is not None:
            pipe.close()

    def _made(self) -> Iterator[Batch]:
        if self._readers is None:
            self._readers = ThreadPool(self._feeds, self.workers)
        feeds = self._readers.build(BatchRequests(self.sampler))
        batches: Iterator[tuple[DaliBatch, Tensor]] | None = None
        while True:
            if self._pipe is None:
                self._pipe = self._new_pipe()
            pipe, batches = self._pipe, batches or self._pipe.run(feeds)
            try:
                found = next(batches, None)
            except RuntimeError:
                # DALI takes no more after an error. Which of the batches in flight it was shows when one is made alone.
                left = [fed for fed, _ in pipe.flight]
                pipe.close()
                if not left:
                    raise
                self._pipe = batches = None
                feeds = chain(left[1:], feeds)
                yield self._again(left[0])
                continue
            if found is None:
                return
            yield self._finished(*found)

    def _again(self, fed: DaliBatch) -> Batch:
        """A batch that may have failed, made alone: by DALI, or where it cannot be, with every file decoded here."""
        try:
            return self._alone(fed)
        except RuntimeError:
            return self._alone(self._feeds.build(fed.key, dali_decodes=False))

    def _alone(self, fed: DaliBatch) -> Batch:
        pipe = self._new_pipe()
        try:
            ((_, images),) = pipe.run(iter([fed]))
            return self._finished(fed, images)
        finally:
            pipe.close()

    def _finished(self, fed: DaliBatch, images: Tensor) -> Batch:
        labels = torch.from_numpy(fed.labels)
        if not len(fed.files):
            images = images[:0]
        if fed.rows is not None:
            images = images[torch.from_numpy(fed.rows).to(images.device)]
        if self.device is not None:
            return images, labels.pin_memory().to(self.device, non_blocking=True), fed.bad
        return images, labels, fed.bad

    def _new_pipe(self) -> "_Pipeline":
        return _Pipeline(
            self._feeds.batches,
            self.sampler.batch_size,
            device=self.device,
            workers=self.workers,
            prefetch=self.prefetch,
            hw_decoder_load=self.hw_decoder_load,
        )


class _Pipeline:
    """A DALI pipeline that executes draws; `flight` holds what was fed to it and did not come out yet."""

    def __init__(self, batches: BatchBuilder, batch_size: int, *, device: torch.device | None, **options: Any) -> None:
        self._device, self._source = device, DaliSource(batches)
        self.flight = self._source.flight
        self._read: deque[tuple[torch.cuda.Event, DaliInputs]] = deque()
        self._pipeline = _build_pipeline(self._source, batch_size, device, **options)

    def run(self, feeds: Iterator[DaliBatch]) -> Iterator[tuple[DaliBatch, Tensor]]:
        """What is fed, with its images: uint8 (N, C, side, side), channels last; what an earlier run left is gone."""
        self._source.feeds = iter(())
        while self._next() is not None:
            pass
        if self._device is not None:
            torch.cuda.synchronize(self._device)
        self.flight.clear()
        self._pipeline.schedule_run()  # that there is nothing more ends DALI's epoch, and it can be reset
        self._pipeline.reset()
        self._source.feeds = feeds
        self._pipeline.schedule_run()
        while (images := self._next()) is not None:
            # DALI's executor gives a batch's memory away with it, and torch keeps it: nothing writes there any more.
            made = torch.from_dlpack(images.as_tensor()).permute(0, 3, 1, 2)
            self._pipeline.schedule_run()
            fed, inputs = self.flight.popleft()
            self._keep(inputs)
            yield fed, made

    def close(self) -> None:
        """End DALI's threads, and only then let go of what they read."""
        self._pipeline = None
        self._source.feeds = iter(())
        self.flight.clear()
        self._read.clear()

    def _keep(self, inputs: DaliInputs) -> None:
        """Keep alive what a GPU may still be reading: its work for a batch need not be done when that comes out."""
        if self._device is not None:
            done = torch.cuda.Event()
            done.record(torch.cuda.current_stream(self._device))
            self._read.append((done, inputs))
            while self._read[0][0].query() and len(self._read) > 1:
                self._read.popleft()

    def _next(self) -> Any:
        """The batch that DALI began first, on a GPU in the order of torch's stream; None where it has begun none."""
        if self._pipeline is None:
            raise RuntimeError("this iteration was broken off: its loader has been closed")
        stream = None if self._device is None else torch.cuda.current_stream(self._device)
        try:
            (images,) = self._pipeline.share_outputs(stream)
        except StopIteration:
            return None
        self._pipeline.release_outputs()  # the executor's: the batch itself is ours
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
    """The pipeline: from the source's inputs to finished images, uint8 (N, side, side, C)."""
    from nvidia.dali import fn, pipeline_def, types

    on_gpu, side, cuts_first = device is not None, source.side, source.cuts_first
    decoding: dict[str, Any] = {
        "device": "mixed" if on_gpu else "cpu",
        "output_type": types.RGB if source.channels == 3 else types.GRAY,
        "jpeg_fancy_upsampling": True,  # of colours, as on the CPU
        "hw_decoder_load": hw_decoder_load,
    }
    resizing: dict[str, Any] = {"interp_type": types.INTERP_LINEAR, "antialias": True}
    outside: dict[str, Any] = {"out_of_bounds_policy": "pad", "fill_values": 0}  # black
    inputs = [types.UINT8, types.UINT8, types.BOOL, types.INT32, types.INT32, types.INT32, types.FLOAT]
    ranks, layouts = [1, 3, 0, 1, 1, 0, 1], ["", "HWC", "", "", "", "", ""]
    count = 7 if source.erases else 6

    @pipeline_def(
        batch_size=batch_size,
        num_threads=workers,
        device_id=(device.index or 0) if device is not None else None,
        prefetch_queue_depth=prefetch,
        enable_conditionals=True,
        seed=0,
    )
    def pipeline() -> Any:
        files, pixels, is_file, corner, shape, flip, *erased = fn.external_source(
            source=source,
            num_outputs=count,
            dtype=inputs[:count],
            ndim=ranks[:count],
            layout=layouts[:count],
            no_copy=True,
        )

        def cut(images: Any) -> Any:
            return fn.slice(images, start=corner, shape=shape, axis_names="HW")

        def finished(images: Any) -> Any:
            if cuts_first:
                images = fn.resize(images, size=[side, side], **resizing)
            else:
                images = fn.resize(images, size=fn.cast(shape, dtype=types.FLOAT), **resizing)
                images = fn.slice(images, start=corner, shape=[side, side], axis_names="HW", **outside)
            return fn.flip(images, horizontal=flip)

        if is_file:
            if cuts_first:
                images = fn.decoders.image_slice(files, start=corner, shape=shape, axis_names="HW", **decoding)
            else:
                images = fn.decoders.image(files, **decoding)
            if not on_gpu:
                images = finished(images)
        else:
            images = pixels  # finished, where the images are made on the CPU
            if on_gpu:
                images = (cut(pixels) if cuts_first else pixels).gpu()
        if on_gpu:
            images = finished(images)
        if source.erases:
            anchor, extent = erased[0][:2], erased[0][2:]
            images = fn.erase(images, anchor=anchor, shape=extent, axis_names="HW", fill_value=source.fill)
        return images

    return pipeline()


def check_dali(augment: Augment, device: torch.device | None) -> None:
    """Raise UserError where DALI cannot be used for training so, with what to type instead."""
    on_gpu = device is not None and device.type == "cuda"
    problem = dali_problem(torch.version.cuda if on_gpu else None)
    if on_gpu and torch.version.cuda is None:
        problem = "DALI knows NVIDIA's GPUs alone"
    if problem is not None:
        raise UserError(f"loader=dali: {problem}; or type loader=torch")
    problem = unsupported_augmentation(augment)
    if problem is not None:
        raise UserError(f"{problem}; type loader=torch")


def unsupported_augmentation(augment: Augment) -> str | None:
    """What of an augmentation DALI has no exact counterpart of; None where it can do all."""
    for key, wanted in (("auto_augment", augment.auto_augment), ("color_jitter", any(augment.color_jitter or ()))):
        if wanted:
            return f"augment.{key}={getattr(augment, key)}: loader=dali cannot do it"
    return None


@cache
def dali_problem(cuda: str | None = None) -> str | None:
    """Why DALI cannot be used, with the command that helps; None where it can. `cuda`: the GPU's version, "13.0"."""
    if not sys.platform.startswith("linux"):
        return "DALI runs on Linux alone"
    major = (cuda or DEFAULT_CUDA).split(".")[0]
    install = f"pip install nvidia-dali-cuda{major}0"
    try:
        import nvidia.dali
    except ModuleNotFoundError:
        return f"DALI is not installed: {install}"
    except (ImportError, OSError) as error:
        return f"DALI cannot be loaded ({' '.join(str(error).split())}): {install}"
    built = nvidia.dali.__cuda_version__ // 1000
    if cuda is not None and str(built) != major:
        return f"DALI is built for CUDA {built}, torch for {cuda}: pip uninstall nvidia-dali-cuda{built}0; {install}"
    return None


def resolve_threads(workers: int | str) -> int:
    """`loader.workers` as a number. Raises UserError for what is none."""
    if workers == "auto":
        return min(MAX_AUTO_WORKERS, usable_cores())
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise UserError(f"loader.workers={workers}: it can be auto, or a number of threads, at least 1 for DALI")
    return workers
