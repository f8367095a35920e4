"""Write a network as a file that runs without cnnzoo, and load such a file.

Each `write_*` takes a network, images (2 or more of them, the batch of the file is of any size) and the metadata, which
it adds to the file under the name "cnnzoo". Each `load_*` returns a function from images to logits.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnzoo.export.program import export_program

METADATA_KEY = "cnnzoo"
INPUT_NAME, OUTPUT_NAME = "images", "logits"

Function = Callable[[Tensor], Tensor]


def write_pt2(module: nn.Module, images: Tensor, metadata: Mapping[str, Any], path: Path) -> None:
    """Write a program of torch.export; the metadata is its extra file `cnnzoo.json`."""
    program = export_program(module, images)
    program.example_inputs = None  # they would be saved as well
    torch.export.save(program, path, extra_files={f"{METADATA_KEY}.json": json.dumps(metadata)})


def load_pt2(path: Path) -> Function:
    """The function that a program of torch.export computes."""
    return torch.export.load(path).module()


def write_onnx(module: nn.Module, images: Tensor, metadata: Mapping[str, Any], path: Path) -> None:
    """Write an ONNX model, and check it. The metadata is its entry "cnnzoo"."""
    import onnx  # here: of an extra

    with quiet("torch.onnx", "onnxscript", "onnx_ir"):
        program = torch.onnx.export(
            module,
            (images,),
            dynamo=True,
            verbose=False,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )
    assert program is not None
    program.model.metadata_props[METADATA_KEY] = json.dumps(metadata)
    program.save(path)
    onnx.checker.check_model(path, full_check=True)


def load_onnx(path: Path) -> Function:
    """The function that an ONNX model computes in onnxruntime, on the CPU."""
    import onnxruntime  # here: of an extra

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT_NAME], {INPUT_NAME: images.numpy()})[0])


def write_aoti(module: nn.Module, images: Tensor, metadata: Mapping[str, Any], path: Path) -> None:
    """Compile the network for the device of `images` to an AOTInductor package.

    The metadata is the entry "cnnzoo" of the package's `get_metadata()`.
    """
    from torch._inductor import aoti_compile_and_package

    program = export_program(module, images)
    settings = {"aot_inductor.metadata": {METADATA_KEY: json.dumps(metadata)}}
    with quiet("torch._inductor", "torch.utils.cpp_extension"):
        aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)


def load_aoti(path: Path) -> Function:
    """The function that an AOTInductor package computes."""
    return torch._inductor.aoti_load_package(str(path))


class FileNetwork(nn.Module):
    """The function of a file as a module with the attributes of the network that it was made from, for evaluation."""

    def __init__(self, function: Function, net: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.unused = nn.Parameter(torch.zeros(1))  # an optimizer is built, and needs a parameter
        for name in ("arguments", "preprocess", "classes", "thresholds"):
            if hasattr(net, name):
                setattr(self, name, getattr(net, name))

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images.contiguous())


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Silence the warnings of libraries that the user can do nothing about."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
