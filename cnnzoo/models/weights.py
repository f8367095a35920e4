"""Weights for a network: torchvision's by the name of their enum member, or those of a file.

torchvision downloads its files and keeps them in `$TORCH_HOME/hub/checkpoints`; a file found there is verified by the
hash in its name before it is used. Nothing is ever unpickled beyond tensors and plain types.
"""

import hashlib
import logging
import os
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import torch
from torch import nn
from torchvision.models import WeightsEnum, get_model_weights

from cnnzoo.errors import UserError, unknown
from cnnzoo.models.registry import info as facts_of

if TYPE_CHECKING:
    from cnnzoo.models.registry import Info

log = logging.getLogger(__name__)

SUFFIXES = (".pth", ".pt", ".safetensors", ".ckpt")
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Preprocessing:
    """What published weights expect: the shorter side resized to `resize`, the centre of `image_size`, normalized."""

    image_size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def preprocessing(name: str, weights: str | Path) -> Preprocessing | None:
    """What torchvision's `weights` for the network `name` expect, read from the enum; None for a file, which is silent.

    Raises `UserError` for an unknown network, and for weights that it does not have.
    """
    info = facts_of(name)
    if not is_published(info, weights):
        return None
    transforms = _member(info, str(weights)).transforms()
    return Preprocessing(
        image_size=transforms.crop_size[0],
        resize=transforms.resize_size[0],
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def is_published(info: "Info", weights: str | Path) -> bool:
    """Whether `weights` names a member of the network's enum (True) or a file (False); `UserError` if neither.

    What ends like a file of weights, or holds a slash, is a file, whether it exists or not.
    """
    word = os.fspath(weights)
    if info.weights and word in (*info.weights, "DEFAULT"):
        return True
    if Path(word).suffix.lower() in SUFFIXES or "/" in word or os.sep in word:
        return False
    if not info.weights:
        raise UserError(f"weights={word}: {info.name} has no published weights; name a file ({', '.join(SUFFIXES)})")
    raise unknown(f"weights for {info.name}", word, (*info.weights, "DEFAULT"))


def read_weights(info: "Info", weights: str | Path) -> tuple[State, dict[str, Any]]:
    """The tensors that `weights` names, and the model arguments that a checkpoint of ours recorded with them.

    Raises `UserError` for what cannot be downloaded, a missing, torn or changed file, and one with more than tensors.
    """
    if is_published(info, weights):
        return _published(info, str(weights)), {}
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(f"weights={weights}: there is no such file")
    saved = load_file(path, "save it again, from a trusted place")
    recorded: dict[str, Any] = {}
    if isinstance(saved, dict) and "cnnzoo" in saved and "state_dict" in saved:
        recorded = dict(saved["cnnzoo"].get("model", {}))
        saved = {key[4:]: value for key, value in saved["state_dict"].items() if key.startswith("net.")}
        if recorded.get("name", info.name) != info.name:
            raise UserError(f"{path} is a checkpoint of {recorded['name']}, not of {info.name}")
    elif path.suffix == ".ckpt":
        raise UserError(f"{path} is no checkpoint of cnnzoo: it lacks the entries 'cnnzoo' and 'state_dict'")
    if not isinstance(saved, Mapping) or not saved or not all(isinstance(v, torch.Tensor) for v in saved.values()):
        raise UserError(f"{path} holds no state dict (names with a tensor each): save net.state_dict()")
    return dict(saved), recorded


def fit_weights(
    net: nn.Module, state: State, *, source: str, published: bool, build: Callable[..., nn.Module], num_classes: int
) -> None:
    """Load `state` into `net`, in place.

    A first convolution for another number of channels is folded or spread (in FractalNet that of each column, all of
    which see the image), a head for another number of classes is left as it was drawn, and the log says both. Whatever
    else does not fit raises a `UserError` that lists the keys.
    `build(num_classes=...)` builds the network anew, which shows what its heads are.
    """
    if hasattr(net, "adapt_pretrained"):
        state = net.adapt_pretrained(state, published=published)  # type: ignore[operator]
    own = net.state_dict()

    first = next(f"{name}.weight" for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    if first in state and _differ_at(1, state[first], own[first]):
        given, channels = state[first].shape[1], own[first].shape[1]
        alike = [key for key in own if key in state and _differ_at(1, state[key], own[key])]
        firsts = [key for key in alike if (state[key].shape[1], own[key].shape[1]) == (given, channels)]
        log.info("%s: %s goes from %d to %d channels", source, " and ".join(firsts), given, channels)
        state = {**state, **{key: _channels(state[key], channels) for key in firsts}}

    with torch.device("meta"):
        other = build(num_classes=num_classes + 1).state_dict()
    heads = [key for key in own if own[key].shape != other[key].shape]
    replaced = [key for key in heads if key in state and _differ_at(0, state[key], own[key])]
    if replaced:
        classes = len(state[replaced[0]])
        log.info("%s: %d classes, not %d: %s start anew", source, classes, num_classes, " and ".join(replaced))
        state = {**state, **{key: own[key] for key in replaced}}

    # batch norm itself supplies the counter, which files older than it lack
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    found = (("missing", missing), ("not of this network", extra), ("of another shape", shapes))
    wrong = [f"{what}: {_some(keys)}" for what, keys in found if keys]
    if wrong:
        raise UserError(f"{source} does not fit: {'; '.join(wrong)}")
    net.load_state_dict(state)


def _differ_at(dimension: int, a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether the shapes differ in that dimension and in no other."""
    if a.ndim != b.ndim:
        return False
    return [i for i in range(a.ndim) if a.shape[i] != b.shape[i]] == [dimension]


def _channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """(out, in, k, k) -> (out, channels, k, k) with the same response to an image whose channels are all alike."""
    given = weight.shape[1]
    if channels < given:
        return torch.stack([weight[:, i::channels].sum(1) for i in range(channels)], 1)
    spread = weight[:, [i % given for i in range(channels)]]
    shares = spread.new_tensor([len(range(i % given, channels, given)) for i in range(channels)])
    return spread / shares.view(1, -1, 1, 1)


def _some(keys: Iterable[str], most: int = 8) -> str:
    keys = list(keys)
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")


def _member(info: "Info", weights: str) -> WeightsEnum:
    return get_model_weights(info.torchvision)[weights]


def _published(info: "Info", weights: str) -> State:
    member = _member(info, weights)
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(member.url).path).name)
    if path.is_file():
        _verify(path)
        return load_file(path, "delete it, and it is downloaded again")
    try:
        return member.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot download {member.url} ({reason}): try again, or put the file at {path}") from error


def _verify(path: Path) -> None:
    """Compare a cached file's SHA-256 with the digits at the end of its name."""
    named = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if named is None:
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    found = digest.hexdigest()[: len(named[1])]
    if found != named[1]:
        raise UserError(
            f"{path} is torn or changed (its SHA-256 starts with {found}, not {named[1]}): delete it, and it is "
            "downloaded again"
        )


def load_file(path: Path, remedy: str) -> Any:
    """What the file holds: tensors and plain types, on the CPU."""
    try:
        if path.suffix == ".safetensors":
            return _load_safetensors(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise UserError(
                f"{path} holds more than tensors, which could run code, and is not loaded: save net.state_dict() alone"
            ) from error
        raise UserError(f"{path} is torn or no file of weights: {remedy}") from error
    except Exception as error:  # a torn file shows as anything: RuntimeError, EOFError, KeyError, UnicodeDecodeError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read ({reason}): {remedy}") from error


def _load_safetensors(path: Path) -> State:
    try:
        safetensors = import_module("safetensors.torch")
    except ImportError as error:
        raise UserError(f"{path} needs the package safetensors: pip install safetensors") from error
    return safetensors.load_file(path, device="cpu")
