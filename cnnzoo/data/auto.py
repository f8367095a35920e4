"""`loader=auto`: which loader suits the images, the device and what is installed."""

import logging
from functools import cache
from typing import Any, Literal

import torch

from cnnzoo.data.augment import Augment
from cnnzoo.data.dali_loader import DaliLoader, missing, unexecutable
from cnnzoo.data.order import Order
from cnnzoo.data.split import Split
from cnnzoo.data.torch_loader import TorchLoader

Name = Literal["dali", "torch"]

log = logging.getLogger(__name__)


def choose(*, files: bool, on_gpu: bool, installed: bool, executable: bool) -> Name:
    """DALI for image files that are decoded for a GPU, where it is installed and can do what is drawn; else torch."""
    return "dali" if files and on_gpu and installed and executable else "torch"


def chosen(split: Split, augment: Augment, device: torch.device | None, kind: str = "auto") -> Name:
    """What `auto_loader` takes; one line in the log, once, where DALI would be taken but for what is installed.

    A `kind` of workers that was asked for is the torch loader's, which alone has it.
    """
    asked = {
        "files": split.paths is not None and kind == "auto",
        "on_gpu": device is not None and device.type == "cuda" and torch.version.cuda is not None,
        "executable": unexecutable(augment) is None,
    }
    if choose(installed=True, **asked) == "torch":
        return "torch"
    problem = missing(torch.version.cuda)
    if problem is not None:
        _tell(f"{problem}; loader=torch goes on without it")
    return choose(installed=problem is None, **asked)


def auto_loader(
    split: Split,
    order: Order,
    *,
    augment: Augment,
    device: torch.device | None = None,
    workers: int | Literal["auto"] = "auto",
    kind: Literal["auto", "threads", "processes"] = "auto",
    **options: Any,
) -> TorchLoader | DaliLoader:
    """The loader that `chosen` names. The options are those that both have, and `kind`."""
    options |= {"augment": augment, "device": device, "workers": workers}
    if chosen(split, augment, device, kind) == "dali":
        return DaliLoader(split, order, **options)
    return TorchLoader(split, order, kind=kind, **options)


@cache
def _tell(line: str) -> None:
    log.warning("%s", line)
