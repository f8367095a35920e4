"""The variants of a network that `job=graph` compares: how each is made, what runs it, and its operators."""

import copy
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnzoo.benchmark.timing import Timing

Function = Callable[[Tensor], Tensor]
Write = Callable[[nn.Module, Tensor, Mapping[str, Any], Path], None]
"""Writes a network as a file; see `cnnzoo.export.formats`."""
Load = Callable[[Path], Function]

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
KERNEL_CALL = re.compile(
    r"^ +(?:\w+ = )?(?:cpp_\w+\(|\w+\.run\(|extern_kernels\.\w+\(|torch\.ops\.(?:aten|mkldnn|quantized)\.)",
    re.MULTILINE,
)
"""A call in Inductor's code: of a kernel that it has generated, or of one of a library."""


@dataclass
class Variant:
    """A network in one form, ready to run, and what was measured.

    run: computes the logits of images.
    path: the file that has to be on the disk.
    prepare_seconds: the time to make it from the network, once: to compile it, or to write the file.
    operators, fused: the number of operators before and after fusion; None if nothing is fused, or for AOTInductor.
    startup_seconds: the times until the first result of a new process.
    difference: of the logits, as a fraction of the largest one of the eager network.
    environment: variables to set for a new process: where the compiler's cache is.
    size_bytes: what has to be on the disk for a new process.
    """

    name: str
    run: Function
    path: Path
    prepare_seconds: float | None = None
    operators: int | None = None
    fused: int | None = None
    timing: Timing = field(default_factory=Timing)
    startup_seconds: list[float] = field(default_factory=list)
    difference: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)
    size_bytes: int = 0

    @property
    def calls(self) -> int | None:
        """The operators or fused kernels that a batch takes; None if it is unknown how many are left after fusion."""
        return None if self.name == "aoti" else self.operators if self.fused is None else self.fused

    def measure_size(self) -> int:
        """Bytes of the file, and of the compiler's cache for a new process."""
        caches = {Path(path) for path in self.environment.values()}
        return _size(self.path) + sum(_size(path) for path in caches if not caches & set(path.parents))


def missing_package(variant: str, device: torch.device) -> str | None:
    """What is missing on this machine to run a variant, and how to install it; None if nothing is."""
    if variant in ("compiled", "aoti"):
        compiler = os.environ.get("CXX", "g++")
        return None if shutil.which(compiler) else f"it needs the C++ compiler {compiler}, which is not installed"
    if variant != "onnx":
        return None
    missing = [package for package in ONNX_PACKAGES if find_spec(package) is None]
    if missing:
        return f'it needs {" and ".join(missing)}; type pip install "cnnzoo[onnx]"'
    if device.type != "cpu":
        import onnxruntime  # here: of an extra

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return "it needs onnxruntime for CUDA; type pip install onnxruntime-gpu"
    return None


class VariantFactory:
    """Makes the variants of `net` for images (N, C, H, W) on a device.

    formats: how the files of "exported", "aoti" and "onnx" are written and loaded.
    directory: for the files.
    cache_dir: of Inductor, empty.
    """

    def __init__(
        self,
        net: nn.Module,
        images: Tensor,
        formats: Mapping[str, tuple[Write, Load]],
        directory: Path,
        cache_dir: Path,
    ) -> None:
        self.net, self.images, self.formats = net, images, formats
        self.directory, self.cache_dir = directory, cache_dir
        self.weights = directory / "weights.pth"
        torch.save(net.state_dict(), self.weights)
        self.logits = net(images)
        self.operators: int | None = None
        with suppress(Exception):  # of a network that cannot be exported, which the variant "exported" reports
            self.operators = count_operators(torch.export.export(net, (images,)).graph)

    def make(self, name: str) -> Variant:
        """Make one of the variants, and compare its logits with those of the network."""
        variant: Variant = getattr(self, f"_{name}")()
        logits = variant.run(self.images)
        variant.difference = float((logits - self.logits).abs().max() / self.logits.abs().max())
        return variant

    def _eager(self) -> Variant:
        return Variant("eager", self.net, self.weights, operators=self.operators)

    def _compiled(self) -> Variant:
        from torch._inductor.utils import run_and_get_code  # here: it imports the compiler

        compiled = torch.compile(self.net, dynamic=False)
        start = time.perf_counter()
        _, codes = run_and_get_code(compiled, self.images)
        seconds = time.perf_counter() - start
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(self.cache_dir), "TRITON_CACHE_DIR": str(self.cache_dir / "triton")}
        fused = sum(map(count_kernels, codes))
        return Variant("compiled", compiled, self.weights, seconds, self.operators, fused, environment=cache)

    def _exported(self) -> Variant:
        path, seconds = self._write("exported", "network.pt2")
        return Variant("exported", self.formats["exported"][1](path), path, seconds, self.operators)

    def _aoti(self) -> Variant:
        path, seconds = self._write("aoti", "network.aoti.pt2")
        return Variant("aoti", self.formats["aoti"][1](path), path, seconds, self.operators)

    def _onnx(self) -> Variant:
        import onnx  # here: of an extra

        path, seconds = self._write("onnx", "network.onnx")
        fused_path = self.directory / "fused.onnx"
        run = load_onnx(path, self.images, self.logits, fused_path)
        before, after = (len(onnx.load(file, load_external_data=False).graph.node) for file in (path, fused_path))
        return Variant("onnx", run, path, seconds, before, after)

    def _write(self, name: str, file_name: str) -> tuple[Path, float]:
        """Write a file for batches of any size; returns its path and the seconds that this took."""
        path, net, images = self.directory / file_name, self.net, self.images
        if name == "onnx" and images.is_cuda:
            net, images = copy.deepcopy(net).cpu(), images.cpu()
        start = time.perf_counter()
        self.formats[name][0](net, images if len(images) > 1 else images.repeat(2, 1, 1, 1), {}, path)
        return path, time.perf_counter() - start


def load_onnx(path: Path, images: Tensor, logits: Tensor, fused_path: Path) -> Function:
    """The function that an ONNX model computes in onnxruntime, on the device of the images, without copies.

    images, logits: of the shapes that the function takes and returns.
    fused_path: the file to which onnxruntime writes the graph that it runs.
    """
    import numpy as np
    import onnxruntime  # here: of an extra

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns that the optimized graph is for this machine only
    options.optimized_model_filepath = str(fused_path)
    provider = "CUDAExecutionProvider" if images.is_cuda else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(path, options, providers=[provider])
    binding, device = session.io_binding(), images.device
    place = {"device_type": device.type, "device_id": device.index or 0, "element_type": np.float32}
    output = torch.empty_like(logits)
    binding.bind_output(session.get_outputs()[0].name, **place, shape=output.shape, buffer_ptr=output.data_ptr())
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        binding.bind_input(name, **place, shape=images.shape, buffer_ptr=images.data_ptr())
        session.run_with_iobinding(binding)
        return output

    return run


def count_operators(graph: torch.fx.Graph) -> int:
    """The number of ATen operators of a graph."""
    return sum(isinstance(node.target, torch._ops.OpOverload) for node in graph.nodes if node.op == "call_function")


def count_kernels(code: str) -> int:
    """The number of kernels that Inductor's code for a graph calls, its own and those of libraries."""
    return len(KERNEL_CALL.findall(code[code.find("def call(") :]))


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a directory."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
