"""Write a network with its preprocessing and class names to a .safetensors file, and read such a file's metadata."""

import json
from pathlib import Path
from typing import Any

from torch import nn

import cnnzoo
from cnnzoo.data import Preprocess
from cnnzoo.errors import UserError
from cnnzoo.models.weights_file import METADATA_KEY, read_metadata
from cnnzoo.runtime.files import atomic_write
from cnnzoo.runtime.imports import require_packages

__all__ = ["network_metadata", "read_metadata", "save_safetensors"]


def network_metadata(net: nn.Module) -> dict[str, Any]:
    """What rebuilds `net` for inference, apart from its weights, as plain JSON types.

    The entries are "model" (the arguments of `create_model`), "classes", "preprocess" (the arguments of
    `cnnzoo.data.Preprocess`), "version" (of cnnzoo) and, of a multi-label network, "thresholds". Raises UserError if
    the network lacks one of the first three.
    """
    for attribute, remedy in (
        ("arguments", "build it with cnnzoo.create_model"),
        ("preprocess", "set net.preprocess = cnnzoo.data.Preprocess(...)"),
        ("classes", "set net.classes to the names of its outputs"),
    ):
        if not hasattr(net, attribute):
            raise UserError(f"the network has no attribute '{attribute}'; {remedy}")
    preprocess = net.preprocess
    assert isinstance(preprocess, Preprocess)
    metadata = {
        "model": dict(net.arguments),  # type: ignore[arg-type]
        "classes": list(net.classes),  # type: ignore[arg-type]
        "preprocess": preprocess.arguments,
        "version": cnnzoo.__version__,
    }
    if hasattr(net, "thresholds"):
        metadata["thresholds"] = list(net.thresholds)  # type: ignore[arg-type]
    try:
        return json.loads(json.dumps(metadata))
    except TypeError as error:
        raise UserError(f"the network's arguments cannot be saved: {error}") from error


def save_safetensors(net: nn.Module, path: Path) -> None:
    """Write the state dict of `net` and `network_metadata(net)` to `path`, atomically.

    The metadata of the file has one entry, "cnnzoo", whose value is JSON. Raises UserError if the network lacks
    preprocessing or class names, and OSError if the file cannot be written.
    """
    with require_packages("save_safetensors"):  # here: it is needed only to write
        from safetensors.torch import save

    metadata = network_metadata(net)
    tensors = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    with atomic_write(path, "wb") as file:
        file.write(save(tensors, {METADATA_KEY: json.dumps(metadata)}))
