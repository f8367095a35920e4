"""The DALI loader: NVIDIA's DALI decodes JPEGs and augments images, with its own threads or on a GPU.

DALI decides nothing: the order of the images and their augmentation parameters are computed here, as for every loader,
and passed to DALI as inputs.
"""

import logging
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain
from typing import Literal

import torch
from torch import Tensor

from cnnzoo.checks import check_int, check_number
from cnnzoo.data.loaders.base import Loader
from cnnzoo.data.loaders.batch_builder import Batch, BatchBuilder, BatchRequest
from cnnzoo.data.loaders.dali_pipeline import DaliPipeline, failure_reason
from cnnzoo.data.loaders.dali_source import DaliBatch, DaliBatchBuilder
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.thread_pool import ThreadPool
from cnnzoo.data.split import Split
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.transforms.pixel_format import is_plain
from cnnzoo.errors import UserError
from cnnzoo.runtime.cpu import cores_per_rank
from cnnzoo.runtime.formatting import plural
from cnnzoo.sizes import Size, as_size

DEFAULT_CUDA = "13.0"
"""The CUDA version to install DALI for when there is no GPU to tell it."""
MAX_FAILURES = 3  # of the pipeline in a row, with no batch between them, that are an error

log = logging.getLogger(__name__)


class DaliLoader(Loader):
    """Batches of `split` in the order of `sampler`, equal to `TorchLoader`'s up to rounding in decoding and resizing.

    workers: number of DALI's threads, and also of the threads that read files ahead; "auto" is the result of
        `cores_per_rank(local_ranks)`.
    prefetch: batches that DALI prepares ahead, at least 1.
    hw_decoder_load: fraction of the JPEGs that the GPU's hardware decoder gets, where there is one. 0, because that
        decoder can overwrite memory that other work on the GPU still reads (PyTorch's torchcodec, pull request 1634).
    device: the GPU that decodes and augments the images and receives the batches. With None or a CPU, this happens on
        the CPU.
    local_ranks: how many ranks share this machine's cores.
    channels, bits: 1 or 3 channels of 8 bits; others raise UserError.

    `num_rebuilds` counts the errors of DALI after which a new pipeline was built; each is logged.

    Raises UserError if DALI is missing or does not support the augmentation, and from an iteration if DALI fails
    repeatedly.
    """

    name = "dali"
    verifies_jpegs = True
    _reader_pool: ThreadPool[DaliBatch] | None = None
    _pipeline: DaliPipeline | None = None

    def __init__(
        self,
        split: Split,
        sampler: EpochSampler,
        *,
        augment: Augment,
        train: bool,
        image_size: int | Size,
        channels: int,
        seed: int,
        workers: int | Literal["auto"] = "auto",
        prefetch: int = 2,
        hw_decoder_load: float = 0.0,
        on_bad_file: Literal["error", "skip"] = "error",
        device: torch.device | None = None,
        local_ranks: int | None = None,
        bits: int = 8,
    ) -> None:
        check_dali(augment if train else Augment(), device)
        problem = unsupported_format(channels, bits)
        if problem is not None:
            raise UserError(f"{problem}; type loader=torch")
        super().__init__(split, sampler, on_bad_file)
        self.workers = resolve_threads(workers, local_ranks)
        self.prefetch = check_int("loader.prefetch", prefetch, minimum=1, note="(batches)")
        fraction = check_number("loader.hw_decoder_load", hw_decoder_load, minimum=0, maximum=1, note="(of the JPEGs)")
        self.hw_decoder_load = float(fraction)
        self.device = device if device is not None and device.type == "cuda" else None
        self.num_rebuilds = self._failures_in_a_row = 0
        self._builder = DaliBatchBuilder(
            BatchBuilder(split, augment, train, as_size(image_size), channels, seed), augment_pixels=self.device is None
        )

    def describe(self) -> str:
        return f"dali, {plural(self.workers, 'thread')}, decoding on the {'CPU' if self.device is None else 'GPU'}"

    @property
    def image_size(self) -> Size:
        return self._builder.builder.image_size

    def set_image_size(self, image_size: Size) -> None:
        self.close()
        self._builder = self._builder.with_image_size(image_size)

    def close(self) -> None:
        """Stop DALI's threads and the reader threads. The next iteration starts new ones."""
        self._discard_ahead()
        reader_pool, self._reader_pool = self._reader_pool, None
        pipeline, self._pipeline = self._pipeline, None
        if reader_pool is not None:
            reader_pool.close()
        if pipeline is not None:
            pipeline.close()

    def _iter_batches(self, requests: Iterable[BatchRequest]) -> Iterator[Batch]:
        if self._reader_pool is None:
            self._reader_pool = ThreadPool(self._builder, self.workers)
        batches = self._reader_pool.build_batches(requests)
        results: Iterator[tuple[DaliBatch, Tensor]] | None = None
        while True:
            if self._reader_pool is None:
                raise RuntimeError("this iterator is no longer valid: its loader has been closed")
            pipeline = self._pipeline = self._pipeline or self._new_pipeline()
            results = results or pipeline.run(batches)
            try:
                result = next(results, None)
            except RuntimeError as error:
                if pipeline.source_error is not None:
                    raise  # a reader thread failed, not DALI
                # A pipeline cannot be used after an error. Retry the oldest batch in flight alone, as it may be the one
                # that failed, and start a new pipeline with the others.
                in_flight = [batch for batch, _ in pipeline.in_flight]
                self._drop_pipeline(error)
                results, batches = None, chain(in_flight[1:], batches)
                if in_flight:
                    yield self._retry(in_flight[0])
                continue
            if result is None:
                return
            self._failures_in_a_row = 0
            yield self._finish(*result)

    def _drop_pipeline(self, error: RuntimeError) -> None:
        """Close the pipeline after an error and log the reason. Raises UserError for `MAX_FAILURES` in a row."""
        assert self._pipeline is not None
        self._pipeline.close()
        self._pipeline = None
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= MAX_FAILURES:
            raise _failure(error, f"{MAX_FAILURES} times in a row") from error
        self.num_rebuilds += 1
        log.warning("loader=dali: DALI failed and is started again: %s", failure_reason(error))

    def _retry(self, batch: DaliBatch) -> Batch:
        """Build a batch that may have failed: with DALI again, or else with its files decoded here."""
        try:
            return self._run_alone(batch)
        except RuntimeError:
            self._builder.stop_dali_decoding(batch.request.indices)
        try:
            return self._run_alone(self._builder.build(batch.request))
        except RuntimeError as error:
            raise _failure(error, "on images that are already decoded") from error

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
        if not len(batch.jpegs):
            images = images[:0]
        if batch.replacement_rows is not None:
            images = images[self._to_device(torch.from_numpy(batch.replacement_rows))]
        return Batch(images, self._to_device(torch.from_numpy(batch.labels)), batch.bad_files)

    def _to_device(self, tensor: Tensor) -> Tensor:
        """Copy a tensor to the GPU, if there is one, without waiting for it: that needs pinned memory."""
        return tensor if self.device is None else tensor.pin_memory().to(self.device, non_blocking=True)

    def _new_pipeline(self) -> DaliPipeline:
        return DaliPipeline(
            self._builder.builder,
            self.sampler.batch_size,
            device=self.device,
            workers=self.workers,
            prefetch=self.prefetch,
            hw_decoder_load=self.hw_decoder_load,
        )


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


def unsupported_format(channels: int, bits: int) -> str | None:
    """Return an error message if DALI cannot be used for images of this format, else None."""
    if is_plain(channels, bits):
        return None
    setting = "data.bits=16" if bits == 16 else f"data.channels={channels}"
    return f"{setting}: loader=dali supports only 8 bits and 1 or 3 channels"


def _failure(error: RuntimeError, when: str) -> UserError:
    return UserError(f"loader=dali: DALI failed {when}: {failure_reason(error)}; type loader=torch, or report it")


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


def resolve_threads(workers: int | str, local_ranks: int | None = None) -> int:
    """Return `loader.workers` as a number of threads. Raises UserError unless it is "auto" or an integer >= 1."""
    if workers == "auto":
        return cores_per_rank(local_ranks)
    return check_int("loader.workers", workers, minimum=1, note="for DALI, or auto")
