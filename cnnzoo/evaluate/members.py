"""The evaluated networks, and what is known about them: size, operations, and how their run went."""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from cnnzoo.describe.trace import trace_copy
from cnnzoo.evaluate.results import Evaluation

CURVES = ("train/loss_epoch", "val/loss", "val/acc1", "val/map")
"""Columns of `metrics.csv` that the report draws."""
MAX_POINTS = 400
"""Points of a curve; longer ones are thinned out."""


@dataclass(frozen=True)
class Member:
    """One network with its evaluation.

    label: the run directory, or the network with its weights.
    network: its name in the zoo.
    parameters: trainable ones.
    multiply_accumulates: of convolutions and linear layers, for one image of the size that it was evaluated on; None
        if they cannot be counted.
    data: the name of the data set.
    precision, device: what it was evaluated with.
    run: the facts about its run, see `run_facts`; empty for other networks.
    curves: (epoch, value) by the name of the metric, see `CURVES`.
    """

    label: str
    network: str
    parameters: int
    multiply_accumulates: int | None
    data: str
    split: str
    batch_size: int
    precision: str
    device: str
    test_time_flip: bool
    run: Mapping[str, Any]
    curves: Mapping[str, list[tuple[float, float]]]
    evaluation: Evaluation


@dataclass(frozen=True)
class Group:
    """The networks that were evaluated on the same images.

    members: their positions in the list of all networks.
    ensemble: of all of them; None if there is only one.
    mean: the mean of each metric over the members; empty if there is only one.
    """

    members: list[int]
    ensemble: Evaluation | None = None
    mean: Mapping[str, float] = field(default_factory=dict)


def count_operations(net: nn.Module) -> int | None:
    """The multiply-accumulates of `net` for one image as it preprocesses it; None for a network of another origin."""
    arguments: Any = getattr(net, "arguments", None)
    preprocess: Any = getattr(net, "preprocess", None)
    if arguments is None or preprocess is None:
        return None
    layers = trace_copy(net, (preprocess.channels, *preprocess.image_size))
    return None if layers is None else layers.multiply_accumulates


def run_facts(run_dir: Path | None) -> dict[str, Any]:
    """What the files of a run say, as far as they exist: "epochs", "best_epoch", "train_seconds" and "commit"."""
    if run_dir is None:
        return {}
    metrics, environment = (_read_json(run_dir / f"{name}.json") for name in ("metrics", "environment"))
    facts = {
        "epochs": metrics.get("epochs"),
        "best_epoch": metrics.get("best_epoch"),
        "train_seconds": metrics.get("seconds"),
        "commit": environment.get("commit"),
    }
    return {name: value for name, value in facts.items() if value is not None}


def read_curves(run_dir: Path | None) -> dict[str, list[tuple[float, float]]]:
    """The values by epoch, counted from 1, in a run's `metrics.csv`; empty without that file."""
    curves: dict[str, list[tuple[float, float]]] = {name: [] for name in CURVES}
    path = None if run_dir is None else run_dir / "metrics.csv"
    if path is None or not path.is_file():
        return curves
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name in CURVES:
                if row.get(name) and math.isfinite(float(row[name])):
                    curves[name].append((int(float(row["epoch"])) + 1, float(row[name])))
    return {name: points[:: 1 + len(points) // MAX_POINTS] for name, points in curves.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
