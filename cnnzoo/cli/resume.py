"""`resume=DIR`: the overrides and the configuration with which a run continues."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf

from cnnzoo.cli.overrides import config_tree, override_args, parse_override, path_value, quote, quote_path
from cnnzoo.errors import UserError
from cnnzoo.runtime import distributed
from cnnzoo.runtime.command import config_options

FIXED_KEYS = (
    "model",
    "seed",
    "data.name",
    "data._target_",
    "data.source",
    "data.split_seed",
    "data.image_size",
    "data.fit",
    "data.channels",
    "data.bits",
    "optimizer._target_",
    "scheduler._target_",
    "first_layer_lr_ratio",
)
"""Keys that a resumed run cannot change: the result would be another run, or the saved state would not fit."""
RUN_KEYS = ("run_dir", "resume")
OLD_INTERVAL = "callbacks.checkpoint.every_minutes"
"""What runs of earlier versions have instead of `callbacks.checkpoint.every_n_seconds`."""


def expand_resume(argv: list[str]) -> tuple[list[str], Path | None]:
    """Replace `resume=DIR` by the overrides that the run in DIR was started with.

    Overrides of this command line take precedence. `resume=auto` resumes the run in `run_dir`, or starts it there if
    there is none yet. Returns the new arguments, and the run directory if a run is resumed. Raises UserError if the
    directory holds no run.
    """
    args, _ = get_args_parser().parse_known_args(argv)
    values: dict[str, str] = {}
    for override in args.overrides:
        key = override.partition("=")[0]
        if key in RUN_KEYS and key in values:
            raise UserError(f"{key}={values[key]} and {override}: {key} is set twice; leave one out")
        if key in RUN_KEYS:
            values[key] = path_value(override)
    resume = values.get("resume", "null")
    if resume == "null":
        return argv, None
    if args.multirun:
        raise UserError(f"resume={resume}: a sweep is resumed by its own command with run_dir=DIR; leave resume out")
    rest = [argument for argument in argv if argument not in args.overrides or not argument.startswith("resume=")]
    if resume == "auto":
        if values.get("run_dir") in (None, ""):
            raise UserError("resume=auto needs run_dir=DIR: the run in DIR is resumed, or started if there is none yet")
        resume = values["run_dir"]
        if not _run_exists(Path(resume)):
            return rest, None
    elif "run_dir" in values:
        raise UserError(f"resume={resume}: a resumed run stays in its own directory; leave run_dir out")
    run_dir = Path(resume)
    recorded = recorded_overrides(run_dir)
    if not os.access(run_dir, os.W_OK):
        raise UserError(f"resume={run_dir}: the directory is not writable; resume a copy of it elsewhere")
    new_keys = {parse_override(quote_path(o)).key_or_group for o in rest if o in args.overrides} | set(RUN_KEYS)
    recorded = [override for override in recorded if parse_override(override).key_or_group not in new_keys]
    rest = [argument for argument in rest if not argument.startswith("run_dir=")]
    own = [quote("resume", str(run_dir)), quote("hydra.run.dir", str(run_dir)), "hydra.output_subdir=null"]
    if not any(argument.startswith(("--config-dir", "hydra.searchpath=")) for argument in rest):
        own += recorded_options(run_dir)
    return [*recorded, *rest, *(override for override in own if override not in rest)], run_dir


def resumed_config(run_dir: Path, argv: list[str], job: str) -> DictConfig:
    """The configuration of a resumed run; `argv` are the arguments that `expand_resume` and `prepare` returned."""
    tree = config_tree(argv, job)
    current = [override for override in override_args(argv) if not override.startswith(("hydra.", "hydra/"))]
    recorded = [override for override in recorded_overrides(run_dir) if not override.startswith("run_dir=")]
    new = [override for override in current if override not in recorded and not override.startswith("resume=")]
    return merge_run_config(run_dir, tree.compose(recorded), tree.compose(current), new)


def _run_exists(run_dir: Path) -> bool:
    """Whether an earlier command started a run in `run_dir`.

    Ranks start at different times, so another rank of this command may have written `.hydra/` already. Checkpoints are
    written only after all ranks have started.
    """
    if distributed.launched_by_torchrun() or distributed.launched_by_slurm():
        return any(run_dir.glob("checkpoints/*.ckpt"))
    return (run_dir / ".hydra" / "overrides.yaml").is_file()


def recorded_overrides(run_dir: Path) -> list[str]:
    """The overrides that a run was started with, from its `.hydra/overrides.yaml`. Raises UserError without a run."""
    path = run_dir / ".hydra" / "overrides.yaml"
    if not run_dir.is_dir():
        raise UserError(f"resume={run_dir}: no such directory; expected a run directory, which contains checkpoints/")
    if not path.is_file():
        raise UserError(f"resume={run_dir}: the directory holds no run; .hydra/overrides.yaml is missing")
    overrides = [_replace_old_interval(str(override)) for override in OmegaConf.load(path)]
    # A job of a sweep has the values of the sweep in its other overrides.
    return [override for override in overrides if not override.startswith("sweep=")]


def _replace_old_interval(override: str) -> str:
    key, _, minutes = override.partition("=")
    return override if key != OLD_INTERVAL else f"callbacks.checkpoint.every_n_seconds={60 * float(minutes) or 'null'}"


def recorded_options(run_dir: Path) -> list[str]:
    """The options with which a run was started that select its configuration files, from its `.hydra/hydra.yaml`."""
    path = run_dir / ".hydra" / "hydra.yaml"
    return config_options(OmegaConf.load(path).hydra) if path.is_file() else []


def merge_run_config(run_dir: Path, before: DictConfig, after: DictConfig, new_overrides: Sequence[str]) -> DictConfig:
    """The saved configuration of the run in `run_dir`, with every difference between `before` and `after` applied.

    before: the configuration composed with the recorded overrides.
    after: the configuration composed with the recorded and the new overrides.
    new_overrides: stored as `resume` in the result.

    So a run keeps its settings even if a default in `conf/` has changed since it started. Raises UserError if one of
    `FIXED_KEYS` differs.
    """
    saved = OmegaConf.load(run_dir / ".hydra" / "config.yaml")
    assert isinstance(saved, DictConfig)
    OmegaConf.set_struct(saved, False)
    if (minutes := OmegaConf.select(saved, OLD_INTERVAL)) is not None:
        del saved.callbacks.checkpoint.every_minutes
        saved.callbacks.checkpoint.every_n_seconds = 60 * minutes or None
    old_values, new_values = dict(_leaves(before)), dict(_leaves(after))
    for key in [*old_values, *(key for key in new_values if key not in old_values)]:
        if key in RUN_KEYS or (key in new_values and key in old_values and new_values[key] == old_values[key]):
            continue
        if any(f"{key}.".startswith(f"{fixed}.") for fixed in FIXED_KEYS):
            saved_value = OmegaConf.select(saved, key, default=None)
            raise UserError(
                f"{key}={new_values.get(key)}: the run in {run_dir} has {saved_value}, and a resumed run keeps its "
                "network, data, seed, optimizer and schedule; leave it out, or start a new run"
            )
        parent, _, name = key.rpartition(".")
        if key in new_values:
            OmegaConf.update(saved, key, new_values[key], force_add=True)
        elif OmegaConf.select(saved, parent) is not None:
            del OmegaConf.select(saved, parent)[name]
    saved.run_dir, saved.resume = str(run_dir), list(new_overrides)
    OmegaConf.set_struct(saved, True)
    return saved


def _leaves(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each dotted key with its value; interpolations are not resolved."""
    for name in map(str, cfg):
        node: Any = cfg._get_node(name)
        if isinstance(node, DictConfig) and not node._is_interpolation() and len(node):
            yield from _leaves(node, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", OmegaConf.to_container(OmegaConf.create({"x": node}), resolve=False)["x"]  # type: ignore[index, call-overload]
