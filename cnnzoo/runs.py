"""A run, brought back: `load_run` reads what `train.py` left in a run directory."""

import pickle
from pathlib import Path

import torch
from torch import nn

from cnnzoo.data import Preprocess
from cnnzoo.errors import UserError
from cnnzoo.models import create_model


def load_run(run_dir: str | Path, *, checkpoint: str = "best") -> nn.Module:
    """The network that a run trained, in evaluation mode on the CPU, ready for `net(net.preprocess(image)[None])`.

    `checkpoint` is "best" or "last". The network carries `.preprocess`, which turns an image (a path, a PIL image or a
    uint8 array `(H, W, C)`) into what it was evaluated on, `(C, H, W)` float, and `.classes`, the names of its outputs.

    Raises `UserError` for a directory without that checkpoint, and for a file that is no checkpoint of ours.
    """
    path = Path(run_dir).expanduser() / "checkpoints" / f"{checkpoint}.ckpt"
    if not path.is_file():
        raise UserError(f"{run_dir} holds no checkpoints/{checkpoint}.ckpt: name a run directory that train.py wrote")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        facts, state = saved["cnnzoo"], saved["state_dict"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise UserError(f"{path} is torn, or no checkpoint of cnnzoo: {str(error).splitlines()[0]}") from error
    net = create_model(**facts["model"])
    net.load_state_dict({name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")})
    net.preprocess = Preprocess(**facts["preprocess"])  # type: ignore[assignment]
    net.classes = tuple(facts["classes"])  # type: ignore[assignment]
    return net.eval()
