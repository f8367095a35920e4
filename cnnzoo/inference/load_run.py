"""Load a trained network from its run directory, from a file, or from the Hugging Face Hub."""

import os
from pathlib import Path

from torch import nn

from cnnzoo.errors import UserError, unknown
from cnnzoo.inference.hub import download, is_hub_name
from cnnzoo.inference.networks import attach_info
from cnnzoo.models import create_model
from cnnzoo.models.weights_file import other_version, read_weights_file

CHECKPOINTS = ("best", "last")


def load_run(run_dir: str | Path, *, checkpoint: str = "best") -> nn.Module:
    """The network of a run, in evaluation mode on the CPU, ready for `net(net.preprocess(image)[None])`.

    run_dir: a run's directory, one of its checkpoints, a .safetensors file that the job export or share wrote, or
        "hf://USER/REPO[@REVISION]", a repository on the Hugging Face Hub that the job share wrote.
    checkpoint: "best" or "last", if `run_dir` is a directory.

    The network has two more attributes. `.preprocess` turns an image (a path, a PIL image or a uint8 array `(H, W, C)`)
    into the `(C, H, W)` float tensor that the network was evaluated on. `.classes` are the names of its outputs.

    Raises `UserError` if the directory has no such checkpoint, if the file was not written by cnnzoo, or by another
    version of it, and if the repository cannot be downloaded.
    """
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
    try:
        net = create_model(**found.arguments)
        net.load_state_dict(found.state_dict)
        attach_info(net, {"preprocess": found.preprocess, "classes": found.classes}, source=str(path))
    except (UserError, RuntimeError, TypeError, KeyError) as error:  # other arguments, layers or entries
        raise other_version(path, " ".join(str(error).split())[:150]) from error
    return net.eval()


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
