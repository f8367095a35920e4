"""Load a trained network from its run directory."""

from pathlib import Path

from torch import nn

from cnnzoo.data import Preprocess
from cnnzoo.errors import UserError
from cnnzoo.models import create_model
from cnnzoo.models.weights import load_file


def load_run(run_dir: str | Path, *, checkpoint: str = "best") -> nn.Module:
    """The network of a run, in evaluation mode on the CPU, ready for `net(net.preprocess(image)[None])`.

    `checkpoint` is "best" or "last". The network has two more attributes. `.preprocess` turns an image (a path, a PIL
    image or a uint8 array `(H, W, C)`) into the `(C, H, W)` float tensor that the network was evaluated on. `.classes`
    are the names of its outputs.

    Raises `UserError` if the directory has no such checkpoint, or if the file is not a checkpoint of cnnzoo.
    """
    path = Path(run_dir).expanduser() / "checkpoints" / f"{checkpoint}.ckpt"
    if not path.is_file():
        raise UserError(
            f"{run_dir} has no checkpoints/{checkpoint}.ckpt: expected a run directory that train.py has written"
        )
    saved = load_file(path, "take last.ckpt (checkpoint='last'), or train again")
    if not isinstance(saved, dict) or not {"cnnzoo", "state_dict"} <= saved.keys():
        raise UserError(f"{path} is not a checkpoint of cnnzoo: it lacks the entries 'cnnzoo' and 'state_dict'")
    metadata, state = saved["cnnzoo"], saved["state_dict"]
    net = create_model(**metadata["model"])
    net.load_state_dict({name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")})
    net.preprocess = Preprocess(**metadata["preprocess"])  # type: ignore[assignment]
    net.classes = tuple(metadata["classes"])  # type: ignore[assignment]
    return net.eval()
