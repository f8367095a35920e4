"""Read weights from a file: a state dict, a checkpoint of cnnzoo, or a .safetensors file of cnnzoo.

Only tensors and plain Python types are unpickled, so that a file cannot run code.
"""

import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cnnzoo.errors import UserError
from cnnzoo.runtime.imports import require_packages

SUFFIXES = (".pth", ".pt", ".safetensors", ".ckpt")
METADATA_KEY = "cnnzoo"
"""The entry of a checkpoint, and of the metadata of a .safetensors file, that describes the network."""
WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
"""Entries in which other training scripts save a state dict, beside the optimizer's."""
PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile add to the names of all parameters."""
PREPROCESS_ENTRIES = ("image_size", "eval_resize", "channels", "mean", "std")

StateDict = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Weights:
    """A state dict and what is known about its network.

    arguments: the arguments of `create_model`, "name" among them; empty if unknown.
    preprocess: the arguments of `cnnzoo.data.Preprocess`; None if unknown.
    classes: the names of the network's outputs; None if unknown.
    thresholds: of a multi-label network, the probability from which on an image belongs to each class; else None.
    """

    state_dict: StateDict
    arguments: dict[str, Any] = field(default_factory=dict)
    preprocess: dict[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    thresholds: tuple[float, ...] | None = None


def read_weights_file(path: Path, remedy: str = "save it again, and only from a source that you trust") -> Weights:
    """Read the weights in `path` and, if cnnzoo has written it, what it says about the network.

    remedy: the way out, for the error message of a damaged file.

    A state dict may be wrapped in a dict (see `WRAPPERS`), and all its keys may have the prefixes in `PREFIXES`; both
    are removed. Raises `UserError` for a file that is damaged, that holds more than tensors and plain types, or that
    holds no state dict.
    """
    value = load_file(path, remedy)
    metadata = read_metadata(path) if path.suffix == ".safetensors" else None
    if metadata is not None and "compressed" in metadata:
        from cnnzoo.models.compressed import unpack  # here: few files are compressed

        try:
            value = unpack(value, metadata)
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}): {remedy}") from error
    elif isinstance(value, Mapping) and METADATA_KEY in value and "state_dict" in value:
        metadata, state = value[METADATA_KEY], value["state_dict"]
        if isinstance(state, Mapping):
            state = {str(key): tensor for key, tensor in state.items()}
            state = {key.removeprefix("net."): tensor for key, tensor in state.items() if key.startswith("net.")}
        value = state
    elif path.suffix == ".ckpt":
        raise UserError(f"{path} is not a checkpoint of cnnzoo: it has no entries 'cnnzoo' and 'state_dict'")
    else:
        value = _unwrap(value)
    is_state_dict = isinstance(value, Mapping) and all(
        isinstance(key, str) and isinstance(tensor, torch.Tensor) for key, tensor in value.items()
    )
    if not is_state_dict or not value:
        raise UserError(f"{path} holds no state dict: expected a mapping of names to tensors; save net.state_dict()")
    if metadata is None:
        return Weights(_without_prefixes(dict(value)))
    return _described_weights(path, dict(value), metadata)


def _described_weights(path: Path, state_dict: StateDict, metadata: Any) -> Weights:
    """The weights with what `metadata` says about them. Raises UserError for entries that this version cannot use."""
    metadata = metadata if isinstance(metadata, Mapping) else {}
    arguments, preprocess, classes = (metadata.get(entry) for entry in ("model", "preprocess", "classes"))
    if not isinstance(arguments, Mapping) or "name" not in arguments:
        raise other_version(path, "it lacks the entry 'model' with the network's name")
    if preprocess is not None and not _is_preprocess(preprocess):
        raise other_version(path, f"its entry 'preprocess' should have {', '.join(PREPROCESS_ENTRIES)}")
    if classes is not None and (
        not isinstance(classes, list | tuple) or len(classes) != arguments.get("num_classes", len(classes))
    ):
        raise other_version(path, "its entry 'classes' should have one name for each output")
    thresholds = metadata.get("thresholds")
    if thresholds is not None:
        is_list = isinstance(thresholds, list | tuple) and all(isinstance(value, int | float) for value in thresholds)
        if not is_list or len(thresholds) != len(classes or ()):
            raise other_version(path, "its entry 'thresholds' should have one number for each class")
        thresholds = tuple(map(float, thresholds))
    names = None if classes is None else tuple(map(str, classes))
    return Weights(state_dict, dict(arguments), preprocess, names, thresholds)


def _is_preprocess(value: Any) -> bool:
    """Whether `value` has the arguments of `cnnzoo.data.Preprocess`; `fit` and `bits` are optional."""
    if not isinstance(value, Mapping) or value.keys() - {"fit", "bits"} != set(PREPROCESS_ENTRIES):
        return False
    size, *numbers, mean, std = (value[entry] for entry in PREPROCESS_ENTRIES)
    size = [size] if isinstance(size, int) else size
    if not all(isinstance(values, list | tuple) for values in (size, mean, std)) or len(size) > 2:
        return False
    if value.get("fit", "crop") not in ("crop", "pad", "squash") or value.get("bits", 8) not in (8, 16):
        return False
    return all(isinstance(number, int | float) for number in (*size, *numbers, *mean, *std))


def read_metadata(path: Path) -> dict[str, Any] | None:
    """The metadata that cnnzoo has written to a .safetensors file; None if there is none.

    Raises `UserError` if the file is damaged, or if its metadata is not JSON.
    """
    with require_packages(str(path)):  # here: torch.hub users may not have it
        from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except Exception as error:  # SafetensorError is no subclass of OSError or ValueError
        raise UserError(f"{path} cannot be read ({_first_line(error)}): expected a .safetensors file") from error
    if text is None:
        return None
    try:
        metadata = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: its metadata '{METADATA_KEY}' is not JSON ({error}); save the file again") from error
    if not isinstance(metadata, dict):
        raise other_version(path, f"its metadata '{METADATA_KEY}' is not an object")
    return metadata


def other_version(path: Path, problem: str) -> UserError:
    """The error for a file of another version of cnnzoo."""
    return UserError(
        f"{path} was written by another version of cnnzoo: {problem}; load it with that version, or train again"
    )


def load_file(path: Path, remedy: str) -> Any:
    """Load tensors and plain Python types from a file, on the CPU.

    remedy: the way out, for the error message of a damaged file.

    Raises `UserError` for a damaged file and for a file that holds other types, whose unpickling could run code.
    """
    if path.suffix == ".safetensors":
        with require_packages(str(path)):  # here: torch.hub users may not have it
            from safetensors.torch import load_file as load_safetensors
    try:
        if path.suffix == ".safetensors":
            return load_safetensors(path, device="cpu")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*pickle protocol")  # of a file that is then rejected
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise UserError(
                f"{path} holds more than tensors, which could run code, and was not loaded: save net.state_dict() alone"
            ) from error
        raise UserError(f"{path} is damaged or is not a weights file: {remedy}") from error
    except Exception as error:  # a damaged file raises RuntimeError, EOFError, KeyError, UnicodeDecodeError, ...
        raise UserError(f"{path} cannot be read ({_first_line(error)}): {remedy}") from error


def _unwrap(value: Any) -> Any:
    """The state dict in a dict that holds it in one of the entries `WRAPPERS`, or `value` itself."""
    if not isinstance(value, Mapping):
        return value
    return next((value[name] for name in WRAPPERS if isinstance(value.get(name), Mapping)), value)


def _without_prefixes(state_dict: StateDict) -> StateDict:
    """The state dict without the prefixes that all its keys have."""
    while prefix := next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in state_dict)), None):
        state_dict = {key.removeprefix(prefix): value for key, value in state_dict.items()}
    return state_dict


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
