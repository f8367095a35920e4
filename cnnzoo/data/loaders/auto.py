"""`loader=auto`: chooses the loader that suits the images, the device and the installed packages."""

import logging
from functools import cache
from typing import Any, Literal

import torch

from cnnzoo.data.loaders.dali_loader import DaliLoader, dali_problem, unsupported_augmentation, unsupported_format
from cnnzoo.data.loaders.sampler import EpochSampler
from cnnzoo.data.loaders.torch_loader import TorchLoader
from cnnzoo.data.split import Split
from cnnzoo.data.transforms.augment import Augment

LoaderName = Literal["dali", "torch"]

log = logging.getLogger(__name__)


def choose_loader(*, from_files: bool, decoded: bool, on_gpu: bool, installed: bool, supported: bool) -> LoaderName:
    """DALI for image files that a GPU trains on, if it is installed and supports the augmentation; else torch.

    decoded: the cache keeps the images as pixels, so that there is nothing to decode, which is what DALI is fast at.
    """
    return "dali" if from_files and not decoded and on_gpu and installed and supported else "torch"


def resolve_auto_loader(
    split: Split,
    augment: Augment,
    device: torch.device | None,
    kind: str = "auto",
    *,
    channels: int = 3,
    bits: int = 8,
) -> LoaderName:
    """Return the name of the loader that `auto_loader` builds.

    Logs one warning per process if only the installation keeps it from using DALI. A `kind` other than "auto" selects
    torch, because only the torch loader has kinds of workers.
    """
    conditions = {
        "from_files": split.has_files and kind == "auto",
        "decoded": split.cache_decodes or (split.store is not None and split.store.channels is not None),
        "on_gpu": device is not None and device.type == "cuda" and torch.version.cuda is not None,
        "supported": unsupported_augmentation(augment) is None and unsupported_format(channels, bits) is None,
    }
    if choose_loader(installed=True, **conditions) == "torch":
        return "torch"
    problem = dali_problem(torch.version.cuda)
    if problem is not None:
        _warn_once(f"{problem}; using loader=torch instead")
    return choose_loader(installed=problem is None, **conditions)


def auto_loader(
    split: Split,
    sampler: EpochSampler,
    *,
    augment: Augment,
    device: torch.device | None = None,
    workers: int | Literal["auto"] = "auto",
    kind: Literal["auto", "threads", "processes"] = "auto",
    gpu_budget: float = 0.25,
    channels: int,
    bits: int = 8,
    **options: Any,
) -> TorchLoader | DaliLoader:
    """Build the loader that `resolve_auto_loader` names. Takes the options of torch that DALI does not have, too."""
    options |= {"augment": augment, "device": device, "workers": workers, "channels": channels, "bits": bits}
    if resolve_auto_loader(split, augment, device, kind, channels=channels, bits=bits) == "dali":
        return DaliLoader(split, sampler, **options)
    return TorchLoader(split, sampler, kind=kind, gpu_budget=gpu_budget, **options)


@cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)
