"""`export`: write a network to a file, and compare what the file computes with the network."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from cnnzoo.errors import UserError
from cnnzoo.export import formats
from cnnzoo.export.program import example_images, export_metadata, with_preprocessing
from cnnzoo.inference.load_run import load_run
from cnnzoo.inference.weights_file import save_safetensors
from cnnzoo.models.custom import is_custom

BATCH_SIZES = (1, 7)
"""The batch sizes for which a file is compared with the network."""
MAX_DIFFERENCE = 1e-4
"""The largest difference of the logits, as a fraction of the largest one."""
TIMING_SECONDS = 0.5


@dataclass(frozen=True)
class Export:
    """A file that was written, and how it compares with the network.

    size: of the file in bytes.
    images: the type and shape of the images that the file takes, with "batch" for their number.
    difference: the largest difference of the logits, as a fraction of the largest one.
    live_ms, file_ms: milliseconds per image of the network and of the file, in batches of 7.
    """

    size: int
    images: str
    difference: float
    live_ms: float
    file_ms: float


def export(
    net: nn.Module,
    out: Path,
    format_name: str,
    *,
    image_size: int | Sequence[int] | None = None,
    preprocess: bool = False,
    device: str = "cpu",
) -> Export:
    """Write `net` to the file `out`, which appears when it computes what the network does.

    net: in evaluation mode on the CPU, built by `create_model`.
    format_name: "pt2" (torch.export), "onnx", "aoti" (AOTInductor), or "safetensors" (weights, for cnnzoo).
    image_size: of the images that the file takes, an int for a square or (height, width); None for that of the
        network's preprocessing.
    preprocess: put the normalization into the graph, which then takes uint8 images.
    device: that AOTInductor compiles for, "cpu" or "cuda".

    Raises UserError if the file computes something else, and for an image size that the network does not accept.
    """
    images = example_images(net, max(BATCH_SIZES), image_size=image_size, is_uint8=preprocess)
    if format_name == "safetensors":
        return write_and_compare(net, images, out, write=partial(save_safetensors, net), load=weights_loader(net))
    write, load = {
        "pt2": (formats.write_pt2, formats.load_pt2),
        "onnx": (formats.write_onnx, formats.load_onnx),
        "aoti": (formats.write_aoti, formats.load_aoti),
    }[format_name]
    metadata = export_metadata(net, images)
    module = with_preprocessing(net) if preprocess else net
    module, images = module.to(device), images.to(device)
    return write_and_compare(module, images, out, write=partial(write, module, images, metadata), load=load)


def write_and_compare(
    module: nn.Module,
    images: Tensor,
    out: Path,
    *,
    write: Callable[[Path], None],
    load: Callable[[Path], formats.Function],
    max_difference: float = MAX_DIFFERENCE,
    timed: nn.Module | None = None,
) -> Export:
    """Write a file beside `out`, load it, compare it with `module`, and move it to `out`.

    images: as many as the largest of `BATCH_SIZES`, on the device of `module`.
    timed: the network for `live_ms`, if it is another one than `module`.

    Raises UserError if the logits differ by more than `max_difference` of the largest one; the file is removed.
    """
    with temporary_path(out) as path, _exact_float32(), torch.no_grad():
        write(path)
        function = load(path)
        difference = max(_difference(module, function, images[:count]) for count in BATCH_SIZES)
        if not difference <= max_difference:
            raise UserError(
                f"out={out}: the file computes other logits than the network (a difference of {difference:.1e} of the "
                f"largest one, expected at most {max_difference:.0e}), so it was removed; choose another format"
            )
        text = f"{str(images.dtype).removeprefix('torch.')} (batch, {', '.join(map(str, images.shape[1:]))})"
        times = [_milliseconds_per_image(function, images) for function in (timed or module, function)]
        return Export(path.stat().st_size, text, difference, *times)


def weights_loader(net: nn.Module) -> Callable[[Path], nn.Module]:
    """`load_run` for a file of the weights of `net`, which imports no code for a network of the user."""
    arguments: dict[str, Any] = dict(net.arguments)  # type: ignore[arg-type]
    return partial(load_run, network=deepcopy(net)) if is_custom(arguments) else load_run


@contextmanager
def temporary_path(out: Path) -> Iterator[Path]:
    """A file of the same name in a hidden directory beside `out`, which is moved to `out` at the end."""
    try:
        with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as directory:
            path = Path(directory) / out.name
            yield path
            path.rename(out)
    except OSError as error:
        raise UserError(f"out={out}: cannot be written: {error.strerror or error}; type another file") from error


def float32_size(net: nn.Module) -> int:
    """The size in bytes of the .safetensors file of the network."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "network.safetensors"
        save_safetensors(net, path)
        return path.stat().st_size


def _difference(module: nn.Module, function: formats.Function, images: Tensor) -> float:
    """The largest difference of the logits, as a fraction of the largest one; nan if there is one."""
    expected, logits = module(images), function(images)
    return float((logits - expected).abs().max() / expected.abs().max())


def _milliseconds_per_image(function: formats.Function, images: Tensor) -> float:
    """The shortest of several calls, which have been warmed up by the comparison."""
    durations: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < TIMING_SECONDS or len(durations) < 3:
        call_start = time.perf_counter()
        function(images)
        if images.is_cuda:
            torch.cuda.synchronize()
        durations.append(time.perf_counter() - call_start)
    return 1000 * min(durations) / len(images)


@contextmanager
def _exact_float32() -> Iterator[None]:
    """Compute convolutions on a GPU in float32, not in TF32, whose rounding is larger than the differences sought."""
    with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
        yield
