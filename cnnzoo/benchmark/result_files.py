"""The files of a benchmark: its results as JSON, with the command and the machine, and a chart of them."""

import logging
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig

from cnnzoo.benchmark.check_config import chart_path
from cnnzoo.errors import UserError
from cnnzoo.runtime.command import job_command
from cnnzoo.runtime.environment import describe_environment
from cnnzoo.runtime.files import atomic_write, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHART_WIDTH = 9.0
"""Inches."""

log = logging.getLogger(__name__)


def write_results(
    cfg: DictConfig, results: Mapping[str, Any], draw: Callable[["Figure"], None], *, height: float
) -> dict[str, str]:
    """Write `results` to `cfg.json`, and their chart beside it. Returns what the final table says about the files.

    draw: draws the chart on an empty figure of `height` inches.

    Without `cfg.json` nothing is written, and without matplotlib no chart. Raises `UserError` if a file cannot be
    written.
    """
    if cfg.json is None:
        return {}
    path = Path(cfg.json)
    machine = {**describe_environment(), "threads": torch.get_num_threads()}
    try:
        write_json(path, {"command": typed_command(), "machine": machine, "job": cfg.job, **results})
        has_chart = save_chart(chart_path(path), draw, height=height)
    except OSError as error:
        raise UserError(f"json={path} cannot be written: {error.strerror}") from error
    return {"results": str(path), **({"chart": str(chart_path(path))} if has_chart else {})}


def typed_command() -> str:
    """The command line of this process."""
    return " ".join([job_command("benchmark"), *map(shlex.quote, sys.argv[1:])])


def save_chart(path: Path, draw: Callable[["Figure"], None], *, height: float) -> bool:
    """Write a chart as a PNG. Returns False, and logs why, if matplotlib is not installed."""
    os.environ.pop("MPLBACKEND", None)  # the chart needs no backend, and an unknown one fails the import
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns about its cache if $HOME cannot be written
    try:
        from matplotlib.figure import Figure
    except ImportError:
        log.info('%s is left out: it needs matplotlib; type pip install "cnnzoo[plot]"', path)
        return False
    figure = Figure(figsize=(CHART_WIDTH, height), dpi=120, layout="constrained")
    draw(figure)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")
    return True
