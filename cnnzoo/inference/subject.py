"""The subject of a job: the network that `run=` or `model=` selects for evaluate, predict, export and share."""

import logging
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import nn

from cnnzoo.errors import UserError
from cnnzoo.inference.hub import is_hub_name, local_weights
from cnnzoo.inference.load_run import CheckpointName, load_run
from cnnzoo.inference.networks import attach_info, create_model
from cnnzoo.models import info
from cnnzoo.models.custom import (
    DEFAULT_IMAGE_SIZE,
    KEY,
    build_custom,
    image_channels,
    load_custom_weights,
    read_custom_weights,
)
from cnnzoo.models.factory import config_overrides
from cnnzoo.models.output_check import check_output
from cnnzoo.sizes import check_size

log = logging.getLogger(__name__)

LATEST = "latest"
RUNS_DIR = "runs"
FINISHED = "metrics.json"
"""The file that a run writes last."""


@dataclass(frozen=True)
class Subject:
    """A network in evaluation mode on the CPU, with `.preprocess` and `.classes`, and where it comes from.

    label: what the user calls it, such as "runs/digits/resnet18/2026-11-21_10-15-00" or "resnet18 with DEFAULT".
    run_dir: the directory of the run; None for a network of the zoo and for a file.
    """

    net: nn.Module
    label: str
    run_dir: Path | None

    @property
    def name(self) -> str:
        """The network's name in the zoo."""
        arguments: dict[str, Any] = dict(self.net.arguments)  # type: ignore[arg-type]
        return str(arguments["name"])


def load_subject(cfg: Any, *, needs_weights: bool = True) -> Subject:
    """The only subject of a job; see `load_subjects`. Raises UserError if `cfg.run` matches several runs."""
    if cfg.run is not None and not is_hub_name(cfg.run) and len(runs := find_runs(str(cfg.run), cfg.checkpoint)) > 1:
        raise UserError(f"run={cfg.run}: matches {len(runs)} runs; type one of them, for example run={runs[0]}")
    return load_subjects(cfg, needs_weights=needs_weights)[0]


def load_subjects(cfg: Any, *, needs_weights: bool = True) -> list[Subject]:
    """The networks that the configuration of a job selects, one or more.

    cfg: has `run` (see `find_runs`; also a name on the Hugging Face Hub), `checkpoint` ("best", "last" or None),
        `trust_code` (see `load_run`) and, if the user chose one, `model`.
    needs_weights: whether a network with random weights is an error.

    Raises UserError if both `run` and `model` are given, or neither, and for what cannot be loaded.
    """
    model, trust_code = cfg.get("model"), cfg.get("trust_code", False)
    if cfg.run is not None and model is not None:
        raise UserError(f"run={cfg.run} and model={model.family}: expected one of them; leave the other out")
    if is_hub_name(cfg.run):
        return [Subject(load_run(cfg.run, trust_code=trust_code), cfg.run, None)]
    if cfg.run is not None:
        paths = find_runs(str(cfg.run), cfg.checkpoint)
        return [load_run_subject(path, cfg.checkpoint, trust_code=trust_code) for path in paths]
    if model is None:
        raise UserError(
            "run: nothing to work on; type run=DIR (a run directory, or latest), or model=resnet model.weights=DEFAULT"
        )
    if cfg.checkpoint is not None:
        raise UserError(f"checkpoint={cfg.checkpoint}: it selects a checkpoint of run=DIR; leave it out")
    if "target" in model:
        return [_load_custom_network(model, needs_weights)]
    return [_load_zoo_network(model, needs_weights)]


def find_runs(run: str, checkpoint: str | None = None) -> list[Path]:
    """The run directories or files that `run` names.

    run: a run directory, a file that `load_run` accepts, a pattern such as "runs/**", or "latest" for the finished run
        in `runs/` that was changed last. A pattern matches finished runs only, sorted by path.
    checkpoint: if given, unfinished runs are accepted as well.

    Raises UserError if there is none, and for an unfinished run.
    """
    path = Path(run).expanduser()
    if run == LATEST or (has_magic(run) and not path.exists()):
        found = _finished_runs(f"{RUNS_DIR}/**" if run == LATEST else run)
        if not found:
            where = f"{RUNS_DIR}/" if run == LATEST else run
            raise UserError(f"run={run}: found no finished run in {where}; type the directory of a run")
        return found if run != LATEST else [max(found, key=lambda path: (path / FINISHED).stat().st_mtime)]
    has_checkpoints = (path / "checkpoints").is_dir()
    if has_checkpoints and checkpoint is None and not (path / FINISHED).is_file():
        raise UserError(
            f"run={run}: the run has not finished; type checkpoint=best or checkpoint=last as well to use what it has "
            "saved so far"
        )
    return [path]


def _finished_runs(pattern: str) -> list[Path]:
    root = Path(pattern).expanduser()
    parts = root.parts
    first = next(i for i, part in enumerate(parts) if has_magic(part))
    base, rest = Path(*parts[:first]), str(Path(*parts[first:]))
    return sorted(path for path in base.glob(rest) if (path / FINISHED).is_file() and (path / "checkpoints").is_dir())


def load_run_subject(path: Path, checkpoint: CheckpointName | None, *, trust_code: bool = False) -> Subject:
    """The network of a run directory or file that `find_runs` has found; None is the best checkpoint."""
    net = load_run(path, checkpoint=checkpoint or "best", trust_code=trust_code)
    return Subject(net, str(path), path if path.is_dir() else None)


def _load_custom_network(model: Any, needs_weights: bool) -> Subject:
    """The network of the user that `model.target` builds; typing it is asking for it."""
    if model.weights is None and needs_weights:
        raise UserError(
            f"model.target={model.target}: its weights would be random; type model.weights=FILE, or run=DIR"
        )
    args: Any = OmegaConf.to_container(model.args, resolve=True)
    found = (
        None
        if model.weights is None
        else read_custom_weights(model.target, local_weights(model.weights, key="model.weights"))
    )
    saved: dict[str, Any] = {} if found is None else found.arguments
    net = build_custom(
        model.target,
        {**saved.get("args", {}), **args},
        name=model.name,
        num_classes=model.num_classes,
        classes_argument=model.classes_argument,
        channels_argument=model.channels_argument,
    )
    channels = saved.get("in_channels") or image_channels(net) or 3
    preprocess = None if found is None else found.preprocess
    size = check_size("image_size", DEFAULT_IMAGE_SIZE if preprocess is None else preprocess["image_size"])
    hint = "its weights are for other images, or need other model.args; HYDRA_FULL_ERROR=1 shows the traceback"
    classes = check_output(net, f"{KEY}={model.target}", [(channels, *size)], None, error_hint=hint)
    described: dict[str, Any] = dict(net.arguments)  # type: ignore[arg-type]
    net.arguments = {**described, "num_classes": classes, "in_channels": channels}  # type: ignore[assignment]
    source = f"model.weights={model.weights}"
    if found is not None:
        load_custom_weights(net, found, source=f"{source} for {model.target}")
        if net.replaced_parameters:
            raise UserError(
                f"{source}: has another number of classes than {model.target}; type model.num_classes=NUMBER"
            )
    attach_info(net, getattr(net, "weights_info", {}), source=source)
    return Subject(net.eval(), f"{model.target} with {model.weights or 'random weights'}", None)


def _load_zoo_network(model: Any, needs_weights: bool) -> Subject:
    facts = info(model.name)
    if facts.family != model.family:
        raise UserError(f"model.name={model.name}: it is of the family {facts.family}; also type model={facts.family}")
    if model.weights is None and needs_weights:
        choices = " or ".join([*(["model.weights=DEFAULT"] if facts.weights else []), "model.weights=FILE"])
        raise UserError(f"model.name={model.name}: its weights would be random; type {choices}, or run=DIR")
    net = create_model(
        model.name,
        num_classes=model.num_classes,
        weights=model.weights,
        stem=None if model.stem == "auto" else model.stem,
        **config_overrides(dict(model.args)),
    )
    if model.weights is None:
        attach_info(net, {}, source=f"model.name={model.name}")
    elif net.replaced_parameters:
        raise UserError(
            f"model.num_classes={model.num_classes}: the weights have another number of classes, and the outputs would "
            "be random; leave model.num_classes out"
        )
    if not hasattr(net, "preprocess"):
        raise UserError(f"model.weights={model.weights}: the network takes images that are neither grey nor RGB")
    label = f"{model.name} with {'random weights' if model.weights is None else model.weights}"
    return Subject(net.eval(), label, None)
