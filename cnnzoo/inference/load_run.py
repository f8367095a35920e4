"""Load a trained network from its run directory."""

import os
from pathlib import Path

from torch import nn

from cnnzoo.data import Preprocess
from cnnzoo.errors import UserError, unknown
from cnnzoo.models import create_model
from cnnzoo.models.weights import load_file

CHECKPOINTS = ("best", "last")


def load_run(run_dir: str | Path, *, checkpoint: str = "best") -> nn.Module:
    """The network of a run, in evaluation mode on the CPU, ready for `net(net.preprocess(image)[None])`.

    run_dir: a run's directory, or one of its checkpoints.
    checkpoint: "best" or "last", if `run_dir` is a directory.

    The network has two more attributes. `.preprocess` turns an image (a path, a PIL image or a uint8 array `(H, W, C)`)
    into the `(C, H, W)` float tensor that the network was evaluated on. `.classes` are the names of its outputs.

    Raises `UserError` if the directory has no such checkpoint, or if the file is not a checkpoint of cnnzoo.
    """
    if not isinstance(run_dir, str | os.PathLike):
        raise UserError(f"run_dir={run_dir}: expected the path of a run directory")
    path = _checkpoint_path(Path(run_dir).expanduser(), checkpoint)
    saved = load_file(path, "take last.ckpt (checkpoint='last'), or train again")
    if not isinstance(saved, dict) or not {"cnnzoo", "state_dict"} <= saved.keys():
        raise UserError(f"{path} is not a checkpoint of cnnzoo: it lacks the entries 'cnnzoo' and 'state_dict'")
    metadata, state = saved["cnnzoo"], saved["state_dict"]
    net = create_model(**metadata["model"])
    net.load_state_dict({name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")})
    net.preprocess = Preprocess(**metadata["preprocess"])  # type: ignore[assignment]
    net.classes = tuple(metadata["classes"])  # type: ignore[assignment]
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
