"""Importing torch and Lightning in less time, names that are imported by their first use, and missing packages."""

import atexit
import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from cnnzoo.errors import MissingPackageError

DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "hydra": "hydra-core",
    "pytorch_lightning": "pytorch-lightning",
    "yaml": "pyyaml",
}
"""What pip calls a package, where its name in Python is another one."""


def lazy_attributes(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose names are imported by their first use.

    modules: for each name its module, relative to the package.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        with require_packages(f"{package}.{name}"):
            return getattr(import_module(f"{package}.{modules[name]}"), name)

    return get


@contextmanager
def require_packages(user: str) -> Iterator[None]:
    """Raise MissingPackageError if an import in the block fails because a package of others is not installed.

    user: what needs it, for the message.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "cnnzoo"):
            raise
        name = DISTRIBUTIONS.get(package, package)
        message = f"{user} needs {name}, which is not installed; type pip install cnnzoo"
        raise MissingPackageError(message, name=package) from error


@contextmanager
def imports_without_gc() -> Iterator[None]:
    """Turn off garbage collection during the imports in the block, and exclude the imported objects from later ones.

    Torch and Lightning create half a million objects that live until the process ends. Visiting them again and again
    takes a sixth of the time to the first step, and later a quarter of a second in each full collection. Not collecting
    what the imports leave behind costs 12 MB of 840.

    Does nothing if torch is imported already, as in the second job of a multirun: what a job leaves behind has to be
    collected.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
        atexit.register(gc.unfreeze)  # otherwise triton's bindings report at the exit that their types have leaked
    finally:
        gc.enable()
