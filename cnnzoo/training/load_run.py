"""A run, brought back: `load_run` reads what `train.py` left in a run directory."""

from pathlib import Path

from torch import nn

from cnnzoo.data import Preprocess
from cnnzoo.errors import UserError
from cnnzoo.models import create_model
from cnnzoo.models.weights import load_file


def load_run(run_dir: str | Path, *, checkpoint: str = "best") -> nn.Module:
    """The network that a run trained, in evaluation mode on the CPU, ready for `net(net.preprocess(image)[None])`.

    `checkpoint` is "best" or "last". The network carries `.preprocess`, which turns an image (a path, a PIL image or a
    uint8 array `(H, W, C)`) into what it was evaluated on, `(C, H, W)` float, and `.classes`, the names of its outputs.

    Raises `UserError` for a directory without that checkpoint, and for a file that is no checkpoint of ours.
    """
    path = Path(run_dir).expanduser() / "checkpoints" / f"{checkpoint}.ckpt"
    if not path.is_file():
        raise UserError(f"{run_dir} holds no checkpoints/{checkpoint}.ckpt: name a run directory that train.py wrote")
    saved = load_file(path, "take last.ckpt (checkpoint='last'), or train again")
    if not isinstance(saved, dict) or not {"cnnzoo", "state_dict"} <= saved.keys():
        raise UserError(f"{path} is no checkpoint of cnnzoo: it lacks the entries 'cnnzoo' and 'state_dict'")
    facts, state = saved["cnnzoo"], saved["state_dict"]
    net = create_model(**facts["model"])
    net.load_state_dict({name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")})
    net.preprocess = Preprocess(**facts["preprocess"])  # type: ignore[assignment]
    net.classes = tuple(facts["classes"])  # type: ignore[assignment]
    return net.eval()
