"""Load weights into a network: torchvision's published weights by the name of their enum member, or a file.

torchvision downloads its files to `$TORCH_HOME/hub/checkpoints`. A file that is already there is verified by the hash
in its name. `weights_file.py` reads the files.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

import torch
from torch import nn
from torchvision.models import WeightsEnum, get_model_weights

from cnnzoo.errors import UserError, unknown
from cnnzoo.models import registry
from cnnzoo.models.weights_file import SUFFIXES, StateDict, Weights, load_file, read_weights_file

if TYPE_CHECKING:
    from cnnzoo.models.registry import Info

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing that published weights were trained with.

    The shorter side is resized to `resize` pixels, the central `image_size` pixels are cropped, and the result is
    normalized by `mean` and `std`.
    """

    image_size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def published_preprocessing(name: str, weights: str | Path) -> Preprocessing | None:
    """The preprocessing of torchvision's `weights` for the network `name`; None if `weights` is a file.

    Raises `UserError` for an unknown network and for weights that the network does not have.
    """
    info = registry.info(name)
    if not is_published(info, weights):
        return None
    return _preprocessing(_weights_enum_member(info, str(weights)))


def is_published(info: "Info", weights: str | Path) -> bool:
    """Return True if `weights` is a member of the network's weights enum and False if it is a path to a file.

    A string with a slash or with one of `SUFFIXES` is a path, even if the file does not exist; so is the name of a run
    directory. Raises `UserError` for any other string.
    """
    name = os.fspath(weights)
    if info.weights and name in (*info.weights, "DEFAULT"):
        return True
    if Path(name).suffix.lower() in SUFFIXES or "/" in name or os.sep in name or Path(name, "checkpoints").is_dir():
        return False
    if not info.weights:
        raise UserError(
            f"weights={name}: {info.name} has no published weights; type the path of a file ({', '.join(SUFFIXES)})"
        )
    raise unknown(f"weights for {info.name}", name, (*info.weights, "DEFAULT"))


def read_weights(info: "Info", weights: str | Path) -> Weights:
    """Read the state dict that `weights` refers to, and what is known about it.

    Raises `UserError` if the download fails, and for a file that is missing, damaged, for another network, or that
    holds more than tensors.
    """
    if is_published(info, weights):
        return _read_published_weights(info, str(weights))
    path = Path(weights).expanduser()
    if path.is_dir():
        best = path / "checkpoints" / "best.ckpt"
        way_out = f"type {best}" if best.is_file() else f"type a file ({', '.join(SUFFIXES)})"
        raise UserError(f"weights={weights}: is a directory; {way_out}")
    if not path.is_file():
        raise UserError(f"weights={weights}: there is no such file")
    found = read_weights_file(path)
    if (name := found.arguments.get("target", found.arguments.get("name", info.name))) != info.name:
        raise UserError(f"{path} is a checkpoint of {name}, not of {info.name}")
    return found


def inferred_arguments(state_dict: StateDict, build: Callable[..., nn.Module], num_classes: int) -> dict[str, int]:
    """`num_classes` and `in_channels` as the shapes in `state_dict` show them; empty if they show neither.

    build: as for `head_keys`; it builds a network with `num_classes` classes by default.
    """
    with torch.device("meta"):
        net, other = build(), build(num_classes=num_classes + 1).state_dict()
    expected, first, arguments = net.state_dict(), _first_conv(net), {}
    for key in (key for key in expected if key in state_dict):
        shape = state_dict[key].shape
        if expected[key].shape != other[key].shape and _differs_only_in_dim(0, state_dict[key], expected[key]):
            arguments["num_classes"] = shape[0]
        elif key == first and _differs_only_in_dim(1, state_dict[key], expected[key]):
            arguments["in_channels"] = shape[1]
    return arguments


def load_weights(
    net: nn.Module,
    state_dict: StateDict,
    *,
    source: str,
    published: bool,
    heads: Collection[str],
    num_classes: int,
) -> list[str]:
    """Load `state_dict` into `net`, in place, and adapt it to another number of channels or classes.

    If the number of input channels differs, the weight of the first convolution is folded or spread. In FractalNet this
    applies to the first convolution of every column, because each of them receives the image. If the number of classes
    differs, the head keeps its random initialization. Both changes are logged.

    source: the beginning of log and error messages.
    published: whether the weights are torchvision's.
    heads: names of the parameters that have one row for each class.

    Returns the names of the parameters that keep their random initialization.

    Raises `UserError` that lists the first other keys which do not fit.
    """
    if hasattr(net, "adapt_pretrained"):
        state_dict = net.adapt_pretrained(state_dict, published=published)  # type: ignore[operator]
    expected = net.state_dict()

    first = _first_conv(net)
    if first in state_dict and _differs_only_in_dim(1, state_dict[first], expected[first]):
        old, new = state_dict[first].shape[1], expected[first].shape[1]
        first_convs = [
            key
            for key in expected
            if key in state_dict
            and _differs_only_in_dim(1, state_dict[key], expected[key])
            and (state_dict[key].shape[1], expected[key].shape[1]) == (old, new)
        ]
        log.info("%s: %s changed from %d to %d channels", source, " and ".join(first_convs), old, new)
        state_dict = {**state_dict, **{key: _convert_channels(state_dict[key], new) for key in first_convs}}

    replaced = [key for key in heads if key in state_dict and _differs_only_in_dim(0, state_dict[key], expected[key])]
    if replaced:
        old = len(state_dict[replaced[0]])
        names = " and ".join(replaced)
        log.info("%s: has %d classes, expected %d: %s keep their initialization", source, old, num_classes, names)
        state_dict = {**state_dict, **{key: expected[key] for key in replaced}}

    # Old files have no num_batches_tracked; load_state_dict of batch norm supplies it.
    missing = [key for key in expected if key not in state_dict and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state_dict if key not in expected]
    mismatched = [
        f"{key} {tuple(state_dict[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in expected
        if key in state_dict and state_dict[key].shape != expected[key].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "wrong shape": mismatched}
    problems = {problem: keys for problem, keys in problems.items() if keys}
    if problems:
        limit = 4 - len(problems)  # the error is one line of the terminal or two
        listed = "; ".join(f"{problem}: {_shorten(keys, limit)}" for problem, keys in problems.items())
        raise UserError(f"{source} does not fit: {listed}")
    net.load_state_dict(state_dict)
    return replaced


def head_keys(net: nn.Module, build: Callable[..., nn.Module], num_classes: int) -> list[str]:
    """The keys of the state dict whose shape depends on the number of classes.

    build: `build(num_classes=...)` builds the network again.
    """
    with torch.device("meta"):
        other = build(num_classes=num_classes + 1).state_dict()
    return [key for key, value in net.state_dict().items() if value.shape != other[key].shape]


def _first_conv(net: nn.Module) -> str:
    """The name of the first convolution's weight; empty without a convolution."""
    names = (f"{name}.weight" for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    return next(names, "")


def _differs_only_in_dim(dim: int, a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether the shapes of `a` and `b` differ in dimension `dim` and in no other."""
    if a.ndim != b.ndim:
        return False
    return [i for i in range(a.ndim) if a.shape[i] != b.shape[i]] == [dim]


def _convert_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """(out, in, k, k) -> (out, channels, k, k).

    The response to an image whose channels are all equal stays the same.
    """
    old = weight.shape[1]
    if channels < old:
        return torch.stack([weight[:, i::channels].sum(1) for i in range(channels)], 1)
    repeated = weight[:, [i % old for i in range(channels)]]
    counts = repeated.new_tensor([len(range(i % old, channels, old)) for i in range(channels)])
    return repeated / counts.view(1, -1, 1, 1)


def _shorten(items: Iterable[str], limit: int) -> str:
    items = list(items)
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")


def _weights_enum_member(info: "Info", weights: str) -> WeightsEnum:
    return get_model_weights(info.torchvision)[weights]


def _preprocessing(member: WeightsEnum) -> Preprocessing:
    transforms = member.transforms()
    return Preprocessing(
        image_size=transforms.crop_size[0],
        resize=transforms.resize_size[0],
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _read_published_weights(info: "Info", weights: str) -> Weights:
    member = _weights_enum_member(info, weights)
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(member.url).path).name)
    if path.is_file():
        _verify_hash(path)
        state_dict = load_file(path, "delete it, and it will be downloaded again")
    else:
        try:
            state_dict = member.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu")
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"cannot download {member.url} ({reason}): try again, or put the file at {path}") from error
    published = _preprocessing(member)
    preprocess = {
        "image_size": published.image_size,
        "eval_resize": published.resize / published.image_size,
        "channels": len(published.mean),
        "mean": list(published.mean),
        "std": list(published.std),
    }
    return Weights(state_dict, preprocess=preprocess, classes=tuple(member.meta["categories"]))


def _verify_hash(path: Path) -> None:
    """Compare the SHA-256 of a downloaded file with the digits at the end of its name; raises `UserError`."""
    match = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if match is None:
        return
    expected = match[1]
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    actual = digest.hexdigest()[: len(expected)]
    if actual != expected:
        raise UserError(
            f"{path} is damaged (its SHA-256 starts with {actual}, expected {expected}): delete it, and it will be "
            "downloaded again"
        )
