"""Load a trained network from its run directory, from a file, or from the Hugging Face Hub."""

import os
from pathlib import Path
from typing import Literal, TypeVar, overload

from torch import nn

from cnnzoo.checks import check_bool
from cnnzoo.errors import UserError, unknown
from cnnzoo.inference.hub import download, is_hub_name
from cnnzoo.inference.networks import attach_info
from cnnzoo.models import create_model
from cnnzoo.models.custom import is_custom, rebuild_custom
from cnnzoo.models.network import Network
from cnnzoo.models.weights_file import Weights, other_version, read_weights_file

CHECKPOINTS = ("best", "last")
CheckpointName = Literal["best", "last"]
CustomNetwork = TypeVar("CustomNetwork", bound=nn.Module)


@overload
def load_run(
    run_dir: str | Path,
    *,
    checkpoint: CheckpointName = "best",
    trust_code: Literal[False] = False,
    network: None = None,
) -> Network: ...


@overload
def load_run(
    run_dir: str | Path, *, checkpoint: CheckpointName = "best", trust_code: bool, network: None = None
) -> nn.Module: ...


@overload
def load_run(
    run_dir: str | Path, *, checkpoint: CheckpointName = "best", trust_code: bool = False, network: CustomNetwork
) -> CustomNetwork: ...


def load_run(
    run_dir: str | Path,
    *,
    checkpoint: CheckpointName = "best",
    trust_code: bool = False,
    network: nn.Module | None = None,
) -> nn.Module:
    """The network of a run, in evaluation mode on the CPU, ready for `net(net.preprocess(image)[None])`.

    run_dir: a run's directory, one of its checkpoints, a .safetensors file that the job export or share wrote, or
        "hf://USER/REPO[@REVISION]", a repository on the Hugging Face Hub that the job share wrote.
    checkpoint: "best" or "last", if `run_dir` is a directory.
    trust_code: for a run with a network of your own (`model=custom`), import the code that the file names and call it.
        Only for a file from a source that you trust.
    network: the network to load the weights into, instead; nothing is imported.

    The network has two more attributes. `.preprocess` turns an image (a path, a PIL image or a uint8 array `(H, W, C)`)
    into the `(C, H, W)` float tensor that the network was evaluated on. `.classes` are the names of its outputs.
    A multi-label network also has `.thresholds`: an image belongs to each class whose probability, the sigmoid of the
    output, is at least the class's threshold.

    Raises `UserError` if the directory has no such checkpoint, if the file was not written by cnnzoo, or by another
    version of it, if it names code that is not trusted, and if the repository cannot be downloaded.
    """
    check_bool("trust_code", trust_code)
    if not isinstance(network, nn.Module | None):
        raise UserError(f"network={network}: expected a torch.nn.Module, or None")
    if not isinstance(run_dir, str | os.PathLike):
        raise UserError(f"run_dir={run_dir}: expected the path of a run directory")
    if is_hub_name(run_dir):
        path = download(str(run_dir), key="run")
    else:
        path = _checkpoint_path(Path(run_dir).expanduser(), checkpoint)
    found = read_weights_file(path, "take last.ckpt (checkpoint='last'), or train again")
    if not found.arguments:
        raise UserError(
            f"{path} does not say which network it is for; type model=FAMILY model.name=NAME model.weights={path}, or "
            "in Python cnnzoo.create_model(NAME, weights=FILE)"
        )
    missing = [name for name in ("preprocess", "classes") if getattr(found, name) is None]
    if missing:
        raise other_version(path, f"it lacks the entry '{missing[0]}'")
    if network is not None or is_custom(found.arguments):
        return _load_custom(found, path, trust_code, network).eval()
    try:
        net = create_model(**found.arguments)
        net.load_state_dict(found.state_dict)
        known = {name: getattr(found, name) for name in ("preprocess", "classes", "thresholds")}
        attach_info(net, known, source=str(path))
    except (UserError, RuntimeError, TypeError, KeyError) as error:  # other arguments, layers or entries
        raise other_version(path, " ".join(str(error).split())[:150]) from error
    return net.eval()


def _load_custom(found: Weights, path: Path, trust_code: bool, network: nn.Module | None) -> nn.Module:
    """The network of the user whose weights are `found`, or `network`, with its weights and attributes."""
    target = found.arguments.get("target", found.arguments["name"])
    if network is not None:
        net = network
        net.arguments = dict(found.arguments)  # type: ignore[assignment]
    elif not trust_code:
        raise UserError(
            f"{path} is of the network {target}, whose code is not a part of cnnzoo: to import and run that code, if "
            "you trust it, type trust_code=true; in Python trust_code=True, or network=NETWORK"
        )
    elif not isinstance(found.arguments.get("args"), dict):
        raise other_version(path, "it lacks the arguments of the network")
    else:
        net = rebuild_custom(found.arguments)
    try:
        net.load_state_dict(found.state_dict)
    except RuntimeError as error:
        reason = " ".join(str(error).split("\n\t", 1)[-1].split())[:150]
        raise UserError(f"{path}: the weights do not fit the network {target}: {reason}") from error
    known = {"preprocess": found.preprocess, "classes": found.classes, "thresholds": found.thresholds}
    attach_info(net, known, source=str(path))
    return net


def _checkpoint_path(path: Path, checkpoint: str) -> Path:
    """The checkpoint's file. Raises UserError if there is none, with what to type instead."""
    if path.is_file():
        return path
    if checkpoint not in CHECKPOINTS:
        raise unknown("checkpoint", str(checkpoint), CHECKPOINTS)
    file = path / "checkpoints" / f"{checkpoint}.ckpt"
    if file.is_file():
        return file
    others = [name for name in CHECKPOINTS if (path / "checkpoints" / f"{name}.ckpt").is_file()]
    runs = sorted(str(best.parent.parent) for best in path.glob("*/checkpoints/*.ckpt"))
    if not path.exists():
        hint = "there is no such file or directory"
    elif others:
        hint = f"type checkpoint='{others[0]}'"
    elif path.name == "checkpoints" and any(path.glob("*.ckpt")):
        hint = f"type {path.parent}"
    elif runs:
        names = list(dict.fromkeys(runs))
        hint = f"it contains the runs {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}; choose one"
    else:
        hint = "expected a run directory that the job train has written"
    raise UserError(f"{path} has no checkpoints/{checkpoint}.ckpt: {hint}")
