"""The jobs of the command line. Each module has a `main`, which takes the composed configuration.

A module's docstring is the help text of its job; `python -m cnnzoo.jobs.train` runs it.
"""

import sys
from importlib import import_module

from cnnzoo.errors import MissingPackageError
from cnnzoo.runtime.imports import require_packages
from cnnzoo.runtime.interrupts import exit_at_sigint

JOBS = ("train", "evaluate", "predict", "export", "share", "describe", "benchmark")


def run(job: str) -> None:
    """Run a job with the arguments of the command line; Ctrl-C ends it without a traceback from here on."""
    exit_at_sigint()
    check_packages()
    import_module(f"cnnzoo.jobs.{job}").run()


def check_packages() -> None:
    """Exit with one line if a package is not installed that the command line needs."""
    try:
        with require_packages("the command line"):
            import_module("cnnzoo.cli")
    except MissingPackageError as error:
        sys.exit(f"error: {error}")


if sys.argv[:1] == ["-m"]:  # `python -m cnnzoo.jobs.train`, which starts ranks and jobs of sweeps, imports this first
    exit_at_sigint()
