"""`loader=auto`: which loader suits the images, the device and what is installed."""

import logging
from functools import cache
from typing import Any, Literal

import torch

from cnnzoo.data.loaders.dali_loader import DaliLoader, dali_problem, unsupported_augmentation
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.split import Split
from cnnzoo.data.transforms.augment import Augment

LoaderName = Literal["dali", "torch"]

log = logging.getLogger(__name__)


def choose_loader(*, files: bool, on_gpu: bool, installed: bool, executable: bool) -> LoaderName:
    """DALI for image files that are decoded for a GPU, where it is installed and can do what is drawn; else torch."""
    return "dali" if files and on_gpu and installed and executable else "torch"


def resolve_auto_loader(split: Split, augment: Augment, device: torch.device | None, kind: str = "auto") -> LoaderName:
    """What `auto_loader` takes; one line in the log, once, where DALI would be taken but for what is installed.

    A `kind` of workers that was asked for is the torch loader's, which alone has it.
    """
    asked = {
        "files": split.paths is not None and kind == "auto",
        "on_gpu": device is not None and device.type == "cuda" and torch.version.cuda is not None,
        "executable": unsupported_augmentation(augment) is None,
    }
    if choose_loader(installed=True, **asked) == "torch":
        return "torch"
    problem = dali_problem(torch.version.cuda)
    if problem is not None:
        _warn_once(f"{problem}; loader=torch goes on without it")
    return choose_loader(installed=problem is None, **asked)


def auto_loader(
    split: Split,
    sampler: EpochSampler,
    *,
    augment: Augment,
    device: torch.device | None = None,
    workers: int | Literal["auto"] = "auto",
    kind: Literal["auto", "threads", "processes"] = "auto",
    **options: Any,
) -> TorchLoader | DaliLoader:
    """The loader that `chosen` names. The options are those that both have, and `kind`."""
    options |= {"augment": augment, "device": device, "workers": workers}
    if resolve_auto_loader(split, augment, device, kind) == "dali":
        return DaliLoader(split, sampler, **options)
    return TorchLoader(split, sampler, kind=kind, **options)


@cache
def _warn_once(line: str) -> None:
    log.warning("%s", line)
