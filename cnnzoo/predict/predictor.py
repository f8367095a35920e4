"""Classifies image files a batch at a time: loads, preprocesses and classifies them, and reports those that are bad."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cnnzoo.checks import check_choice, check_int
from cnnzoo.data import Preprocess, TorchLoader, auto_loader
from cnnzoo.data.loaders.base import Loader
from cnnzoo.data.loaders.batch_builder import Batch
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.transfer import to_device
from cnnzoo.data.split import Split
from cnnzoo.data.transforms.preprocess import normalize
from cnnzoo.errors import UserError
from cnnzoo.runtime.cpu import usable_cores
from cnnzoo.training.device_defaults import find_device

MAX_BATCH = {"cpu": 64, "mps": 64, "cuda": 256}
"""The largest batch that `batch_size="auto"` chooses, by type of device."""


@dataclass(frozen=True)
class Prediction:
    """What a network says about one image file.

    classes, probabilities, indices: the names, probabilities (0 to 1) and numbers of the most probable classes, the
        most probable one first; empty if the file could not be read. Of a multi-label network, all classes whose
        probability is at least their threshold, possibly none.
    error: why the file could not be read, in one line, or None.
    """

    path: str
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    indices: tuple[int, ...] = ()
    error: str | None = None


def predict_images(
    net: nn.Module,
    paths: Iterable[str | os.PathLike[str]],
    *,
    topk: int = 5,
    batch_size: int | Literal["auto"] = "auto",
    device: str = "auto",
    precision: Literal["auto", "32", "bf16"] = "auto",
    loader: Callable[..., Loader] = auto_loader,
) -> Iterator[Prediction]:
    """Classify image files; yields a `Prediction` for each path, in their order, as soon as its batch is done.

    The arguments are those of `predict_batches`, where they are described.

    >>> net = cnnzoo.create_model("resnet50", weights="DEFAULT")
    >>> for prediction in cnnzoo.predict_images(net, ["tabby.jpg"]):
    ...     print(prediction.path, prediction.classes[0], prediction.probabilities[0])
    """
    batches = predict_batches(
        net, list(paths), topk=topk, batch_size=batch_size, device=device, precision=precision, loader=loader
    )
    return chain.from_iterable(batches)


def predict_batches(
    net: nn.Module,
    paths: Sequence[str | os.PathLike[str]],
    *,
    topk: int = 5,
    batch_size: int | str = "auto",
    device: str = "auto",
    precision: str = "auto",
    loader: Callable[..., Loader] = auto_loader,
) -> Generator[list[Prediction], None, None]:
    """Classify image files; yields the predictions of one batch at a time, in the order of the paths.

    net: (N, C, H, W) -> (N, classes) logits, with `.preprocess` and, for the names, `.classes`, as `create_model`,
        `load_run` and the file formats of cnnzoo give it. With `.thresholds` it is a multi-label network. It is moved
        to the device, and set to evaluation mode.
    topk: the number of classes in a prediction, at most those of the network; of no effect for a multi-label network.
    batch_size: "auto" is at most 64 on a CPU and 256 on a GPU, and less if there are not enough images for all cores.
    device: "cpu", "cuda", "cuda:1" or "mps"; "auto" is a GPU if there is one.
    precision: "32" or "bf16"; "auto" is bf16 on a CUDA device that computes in it.
    loader: a class like `TorchLoader`, with its own options bound by `functools.partial`.

    A file that cannot be read, for whatever reason, is a prediction with an error. Raises UserError for invalid
    arguments, and for a network without preprocessing.
    """
    check_int("topk", topk, minimum=1)
    preprocess = getattr(net, "preprocess", None)
    if not isinstance(preprocess, Preprocess):
        raise UserError("net: it has no preprocessing; set net.preprocess to a cnnzoo.data.Preprocess")
    target = resolve_device(device)
    names = [os.fsdecode(path) for path in paths]
    size = resolve_batch_size(batch_size, len(names), target)
    classifier = _Classifier(net, preprocess, topk, target, resolve_precision(precision, target))
    split = Split(np.arange(len(names)), paths=np.array([os.fsencode(name) for name in names], np.bytes_))
    source = _build_loader(loader, split, preprocess, size, target)
    return _classify(classifier, source, names, size)


def _classify(
    classifier: "_Classifier", source: Loader, names: Sequence[str], size: int
) -> Generator[list[Prediction], None, None]:
    pending: deque[tuple[int, _BatchResult]] = deque()
    try:
        for first, batch in zip(range(0, len(names), size), source.iter_once(), strict=True):
            pending.append((first, classifier(batch)))
            if len(pending) > classifier.max_pending:
                start, result = pending.popleft()
                yield classifier.read(names[start : start + size], start, result)
        while pending:
            start, result = pending.popleft()
            yield classifier.read(names[start : start + size], start, result)
    finally:
        source.close()


@dataclass
class _BatchResult:
    """The results of a batch on their way to the CPU, complete after `done`; without `tensors` all files are bad."""

    tensors: tuple[Tensor, ...]  # probabilities (N, k), class numbers (N, k), rows (N,) of the images that were read
    errors: dict[str, str]  # path -> reason
    done: "torch.cuda.Event | None"


class _Classifier:
    """Classifies batches of a loader on a device. A GPU is not waited for until `read`."""

    def __init__(
        self, net: nn.Module, preprocess: Preprocess, topk: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.net = net.to(device).to(memory_format=torch.channels_last).eval()
        self.preprocess, self.topk, self.device, self.dtype = preprocess, topk, device, dtype
        self.names: Sequence[str] | None = getattr(net, "classes", None)
        self.thresholds: list[float] | None = None
        if hasattr(net, "thresholds"):
            self.thresholds = torch.tensor(net.thresholds).tolist()  # rounded to float32, as the probabilities are
            self.topk = len(self.thresholds)
        self.max_pending = int(device.type == "cuda")  # batches that a GPU works on while earlier results are read

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> _BatchResult:
        # The channels and the bits are the network's, so advice to set those of the data is left out.
        errors = {file.path: file.reason.partition("; type data.")[0] for file in batch.bad_files}
        if not len(batch.labels):
            return _BatchResult((), errors, None)
        is_cuda = self.device.type == "cuda"
        images, _ = to_device((batch.images, batch.labels), self.device)
        images = normalize(images, self.preprocess.mean, self.preprocess.std)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.net(images)
        scores = logits.float().softmax(1) if self.thresholds is None else logits.float().sigmoid()
        probabilities, indices = scores.topk(min(self.topk, logits.shape[1]))
        tensors = tuple(tensor.to("cpu", non_blocking=is_cuda) for tensor in (probabilities, indices, batch.labels))
        return _BatchResult(tensors, errors, torch.cuda.current_stream(self.device).record_event() if is_cuda else None)

    def read(self, paths: Sequence[str], first: int, result: _BatchResult) -> list[Prediction]:
        """The predictions for a batch's paths, which are those from number `first` on."""
        if result.done is not None:
            result.done.synchronize()
        answers: dict[int, Prediction] = {}
        if result.tensors:
            for probabilities, indices, row in zip(*(tensor.tolist() for tensor in result.tensors), strict=True):
                if self.thresholds is not None:
                    ranked = zip(probabilities, indices, strict=True)
                    kept = [(value, index) for value, index in ranked if value >= self.thresholds[index]]
                    probabilities, indices = [value for value, _ in kept], [index for _, index in kept]
                classes = map(str, indices) if self.names is None else (self.names[index] for index in indices)
                path = paths[row - first]
                answers[row] = Prediction(path, tuple(classes), tuple(probabilities), tuple(indices))
        return [
            answers.get(row) or Prediction(path, error=result.errors.get(path, "cannot be read"))
            for row, path in enumerate(paths, first)
        ]


def _build_loader(
    loader: Callable[..., Loader], split: Split, preprocess: Preprocess, batch_size: int, device: torch.device
) -> Loader:
    sampler = EpochSampler(len(split), batch_size, seed=0, train=False)
    options: dict[str, Any] = {
        "augment": preprocess.augment,
        "train": False,
        "image_size": preprocess.image_size,
        "channels": preprocess.channels,
        "bits": preprocess.bits,
        "seed": 0,
        "on_bad_file": "skip",
        "device": device,
    }
    if len(sampler) <= 1 and getattr(loader, "func", loader) is auto_loader:
        return TorchLoader(split, sampler, workers=0, **options)  # starting workers would take longer
    return loader(split, sampler, **options)


def resolve_device(device: str) -> torch.device:
    """The device that `device=` names, a CUDA device with its number. Raises UserError if this machine lacks it."""
    kind, _, number = (find_device("auto").type if device == "auto" else device).partition(":")
    found = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    check_choice("device", kind, found)
    if int(number or 0) >= found[kind]:
        raise UserError(f"device={device}: torch finds no such device; type device=cpu, or leave it out")
    return torch.device(kind, int(number or 0)) if kind == "cuda" else torch.device(kind)


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type that `precision=` stands for. Raises UserError for another value."""
    check_choice("precision", precision, ("auto", "32", "bf16"))
    if precision == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def resolve_batch_size(batch_size: int | str, images: int, device: torch.device) -> int:
    """`batch_size=` as a number: "auto" gives each core a batch if there are enough images."""
    if batch_size == "auto":
        return max(1, min(MAX_BATCH.get(device.type, 64), -(-images // usable_cores())))
    return check_int("batch_size", batch_size, minimum=1, note="or auto")
