"""`environment.json`: the code, the packages and the machine that a run was trained with."""

import json
import logging
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import cnnzoo
from cnnzoo.runtime.cpu import usable_cores
from cnnzoo.runtime.files import write_json

FILE_NAME = "environment.json"
CHECKOUT = Path(cnnzoo.__file__).resolve().parent.parent
CODE = ("cnnzoo", "conf")
"""The directories of the checkout whose changes count."""
PACKAGES = ("torchvision", "pytorch-lightning", "hydra-core", "numpy")
DALI_PACKAGES = ("nvidia-dali-cuda130", "nvidia-dali-cuda120")
GIT_TIMEOUT_SECONDS = 5

log = logging.getLogger(__name__)


def write_environment(run_dir: Path, *, is_resumed: bool) -> None:
    """Write `describe_environment()` to `environment.json` in a run directory.

    For a resumed run, the file keeps what it has, and the environment is appended to the list "resumed". A file that
    cannot be written is logged as a warning, because the run does not need it.
    """
    path = run_dir / FILE_NAME
    values = describe_environment()
    if is_resumed:
        earlier = read_environment(run_dir)
        values = {**earlier, "resumed": [*earlier.get("resumed", []), values]}
    try:
        write_json(path, values)
    except OSError as error:
        log.warning("%s: cannot be written: %s", path, error.strerror)


def read_environment(run_dir: Path) -> dict[str, Any]:
    """The content of a run's `environment.json`; empty if it is damaged or missing, as in runs of earlier versions."""
    try:
        values = json.loads((run_dir / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def describe_environment() -> dict[str, Any]:
    """The present environment, as plain JSON types. What cannot be found out is None.

    "commit" is that of the checkout of cnnzoo, and "changed" whether its code differs from it; both are None for an
    installed package. "gpus" are all GPUs that this process may use. Names of hosts, users and directories are left
    out, so that the file can be published.
    """
    commit, changed = _git_state(CHECKOUT)
    has_cuda = torch.cuda.is_available()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "changed": changed,
        "packages": {
            "cnnzoo": cnnzoo.__version__,
            "torch": str(torch.__version__),
            **{name: package_version(name) for name in PACKAGES},
            "dali": dali_version(),
        },
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if has_cuda else None,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "cores": usable_cores(),
        "gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())] if has_cuda else [],
    }


def package_version(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def dali_version() -> str | None:
    """The version of DALI, whose package has another name for each version of CUDA; None if it is not installed."""
    return next((found for name in DALI_PACKAGES if (found := package_version(name))), None)


def processor_name() -> str | None:
    """The name of the CPU, such as "AMD EPYC 7B12"; None if the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _git_state(checkout: Path) -> tuple[str | None, bool | None]:
    """The commit of a checkout, and whether `CODE` has changes or new files; None without a repository or without git.

    Only a repository whose root is `checkout` counts: an environment with an installed package may be inside another.
    """
    if not (checkout / ".git").exists():
        return None, None
    command = ["git", "-C", str(checkout), "status", "--porcelain=v2", "--branch", "--", *CODE]
    variables = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # it must not lock the index of a user who commits meanwhile
    try:
        output = subprocess.run(
            command, capture_output=True, text=True, timeout=GIT_TIMEOUT_SECONDS, check=True, env=variables
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return None, None
    lines = output.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), None)
    return commit, any(not line.startswith("#") for line in lines)
