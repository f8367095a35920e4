"""Checks of the command line before Hydra runs, so that a mistake is reported on one line with the closest names."""

import os
import re
import sys
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from textwrap import wrap
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from cnnzoo.cli import sweep
from cnnzoo.cli.overrides import CONF, choices, compose, default_choices, groups, parse_override, quote, quote_path
from cnnzoo.errors import UserError, unknown
from cnnzoo.runtime import distributed

OPEN_GROUPS = (
    "model.args",
    "data",
    "loader",
    "augment",
    "optimizer",
    "scheduler",
    "trainer",
    "callbacks",
    "logger",
    "hydra",
)
"""Parts of the configuration to which `+key=value` may add a key. Each becomes the arguments of a call, which raises
for a name that it does not know."""


def prepare(argv: list[str], *, config: str, help_text: str) -> tuple[list[str], list[str]]:
    """Check the overrides of a command line, and complete them for Hydra.

    config: the name of the job's primary configuration, `conf/<config>.yaml`.
    help_text: the text that `--help` prints above the choices; `--help` exits.

    Returns the arguments for Hydra, and the errors of the sweep values that were removed because they name no existing
    choice. Raises UserError for what Hydra would reject, and for what Hydra would accept although nothing reads it.
    """
    args, _ = get_args_parser().parse_known_args(argv)
    if args.help:
        print(_help_page(help_text, config))
        sys.exit(0)
    quoted = {override: quote_path(override) for override in args.overrides}
    argv = [quoted.get(argument, argument) for argument in argv]
    overrides = [parse_override(quoted[override]) for override in args.overrides]
    if args.hydra_help or args.info or args.shell_completion or args.config_dir or args.config_path or args.config_name:
        return argv, []  # an option of Hydra's own, or another configuration than conf/
    first_job, dropped = [], []  # the overrides of the sweep's first job; those of the only job without a sweep
    for override in overrides:
        if not override.is_sweep_override() or (args.multirun and not override.is_discrete_sweep()):
            _check_choice(override)
            first_job.append(override)
            continue
        if not args.multirun:
            raise UserError(f"{override.input_line}: several values need a multirun; add -m")
        valid, errors = _split_sweep_values(override)
        dropped += errors
        argv[argv.index(str(override.input_line))] = f"{override.get_key_element()}={','.join(valid)}"
        first_job.append(parse_override(f"{override.get_key_element()}={valid[0]}"))
    sweepers = [override for override in overrides if override.key_or_group == "sweep" and override.value()]
    if sweepers and not args.multirun and "hydra.mode=RUN" not in argv:  # that is how one job of a sweep is started
        raise UserError(f"{sweepers[0].input_line} needs a multirun; add -m")
    cfg = _check_keys(first_job, config, multirun=args.multirun)
    if "run_dir" in cfg:
        keys = {override.key_or_group for override in overrides}
        argv = _set_sweep_dir(argv, cfg, keys) if args.multirun else _set_run_dir(argv, cfg, keys)
    return argv, dropped


def error_line(error: Exception) -> str:
    """The line that reports an error: `error: rank 1: <message>`; the rank only if it is not 0."""
    rank = distributed.global_rank()
    return ("error: " if rank == 0 else f"error: rank {rank}: ") + " ".join(str(error).split("\n"))


def _split_sweep_values(override: Override) -> tuple[list[str], list[str]]:
    """The values of a sweep that exist, and the errors of the others. Raises UserError if none exists."""
    valid, errors = [], []
    for value in override.sweep_string_iterator():
        try:
            _check_choice(parse_override(f"{override.get_key_element()}={value}"))
            valid.append(value)
        except UserError as error:
            print(error_line(error), file=sys.stderr)
            errors.append(str(error))
    if not valid:
        raise UserError(f"{override.input_line}: none of these values exists")
    return valid, errors


def _set_sweep_dir(argv: list[str], cfg: DictConfig, keys: set[str]) -> list[str]:
    """The arguments of a multirun, with `run_dir=` as the directory of the sweep; `keys` are those that they set."""
    if distributed.launched_by_torchrun() or distributed.launched_by_slurm():
        raise UserError("-m starts the ranks of each job itself; run it without torchrun or srun")
    argv = [re.sub(r"^\+{0,2}run_dir=", "hydra.sweep.dir=", argument) for argument in argv]
    if not keys & {"run_dir", "hydra.sweep.dir"}:
        argv.append(quote("hydra.sweep.dir", cfg.hydra.sweep.dir))
    return [*argv, f"hydra.output_subdir={sweep.PENDING_CONFIG_DIR}"]


def _set_run_dir(argv: list[str], cfg: DictConfig, keys: set[str]) -> list[str]:
    """The arguments of one rank, with the run directory that all ranks share; `keys` are those that they set."""
    argv = list(argv)
    if distributed.is_distributed() and cfg.resume is None:  # a resumed run has its directory
        run_dir = distributed.broadcast_run_dir(cfg.run_dir, explicit="run_dir" in keys)
        argv.append(quote("hydra.run.dir", run_dir))
    if not distributed.is_rank_zero():
        argv += ["hydra.output_subdir=null", "hydra/job_logging=rank"]  # rank 0 writes .hydra/ and train.log
    return argv


def _check_choice(override: Override) -> None:
    """Raise UserError if `group=choice` names a choice that does not exist, or a sweep whose plugin is missing."""
    group, value = override.key_or_group, override.value()
    if override.is_delete() or override.is_hydra_override() or group not in groups() or value is None:
        return
    for name in value if isinstance(value, list) else [value]:
        if str(name) in choices(group):
            if group == "sweep":
                sweep.check_plugins(str(name), (CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))
            continue
        error = unknown(group, str(name), choices(group), limit=20)
        if group == "model":
            error = UserError(f"{error} (model= takes a family, model.name= one of its networks)")
        raise error


def _check_keys(overrides: list[Override], config: str, *, multirun: bool) -> DictConfig:
    """Compose the configuration of one job, with Hydra's settings for a multirun.

    Raises UserError for an unknown key, a key without a value, and a run directory that cannot be used.
    """
    config_groups = default_choices(config)
    overrides = [override for override in overrides if not override.is_hydra_override()]
    on_groups = [override for override in overrides if override.key_or_group in config_groups]
    on_keys = [override for override in overrides if override.key_or_group not in config_groups]
    base = compose(config, [str(override.input_line) for override in on_groups])
    for override in on_keys:
        _check_key(override, base, config)
    lines = [str(o.input_line) for o in on_groups + on_keys if not (multirun and o.is_sweep_override())]
    cfg = compose(config, lines, with_hydra=multirun)
    missing = OmegaConf.missing_keys(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]))
    if missing:
        key = sorted(missing)[0]
        raise UserError(f"{key} has no value; type {key}=...")
    sets_run_dir = any(override.key_or_group == "run_dir" for override in on_keys)
    if sets_run_dir and distributed.is_rank_zero():
        _check_run_dir(Path(cfg.run_dir), multirun=multirun)
    return cfg


def _check_key(override: Override, base: DictConfig, config: str) -> None:
    """Raise UserError if nothing would read the key of `override` in the configuration `base`."""
    key = override.key_or_group
    if has_key(base, key):
        return
    if override.is_add() or override.is_force_add():
        parent = key.rpartition(".")[0]
        if not any(f"{parent}.".startswith(f"{group}.") for group in OPEN_GROUPS):
            raise UserError(f"+{key}: nothing reads this key{_did_you_mean(key, base, config)}")
        return
    if key.startswith("model.") and "model" not in base:
        raise UserError(f"{key}: no model is chosen; type its family as well, for example model=resnet")
    raise UserError(f"unknown key '{key}'{_did_you_mean(key, base, config)}")


def _check_run_dir(run_dir: Path, *, multirun: bool) -> None:
    """Raise UserError if a run cannot be written to `run_dir`, or would overwrite another run."""
    existing = next(path for path in (run_dir.absolute(), *run_dir.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"run_dir={run_dir}: {existing} is a file, not a directory")
    if not os.access(existing, os.W_OK):
        raise UserError(f"run_dir={run_dir}: {existing} is not writable")
    finished = (run_dir / "metrics.json").exists()
    if not finished and not any(run_dir.glob("checkpoints/*.ckpt")):
        return
    if multirun:
        raise UserError(f"run_dir={run_dir} holds a run, not a sweep; choose another run_dir")
    if finished:
        raise UserError(f"run_dir={run_dir} already holds a finished run; choose another run_dir, or delete this one")
    raise UserError(
        f"run_dir={run_dir} already holds an unfinished run; type resume={run_dir} to continue it, choose another "
        "run_dir, or delete this one"
    )


def has_key(cfg: DictConfig, key: str) -> bool:
    """Whether the configuration has this dotted key."""
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            return OmegaConf.is_list(node) and part.isdigit()
        node = node._get_node(part)
    return True


def _all_keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key of the configuration. Interpolations are not followed, so each key occurs once."""
    for name in map(str, cfg):
        node: Any = cfg._get_node(name)
        if not name.startswith("_"):
            yield f"{prefix}{name}"
            if isinstance(node, DictConfig) and not node._is_interpolation():
                yield from _all_keys(node, f"{prefix}{name}.")


def _did_you_mean(key: str, cfg: DictConfig, config: str) -> str:
    """A suggestion of similar keys. Also compares last parts alone, so that `lr` suggests `optimizer.lr`."""

    def similarity(candidate: str) -> float:
        by_key = SequenceMatcher(None, key, candidate).ratio()
        return max(by_key, 0.85 * SequenceMatcher(None, key.split(".")[-1], candidate.split(".")[-1]).ratio())

    # A recipe holds the defaults of a model family, which other keys override.
    candidates = {name for name in (*_all_keys(cfg), *default_choices(config)) if ".recipe" not in name}
    best = sorted(candidates, key=lambda name: (-similarity(name), name))[:3]
    similar = [name for name in best if similarity(name) >= max(0.65, similarity(best[0]) - 0.15)]
    return f": did you mean {', '.join(similar)}?" if similar else f"; python {config}.py --cfg job lists all keys"


def _help_page(help_text: str, config: str) -> str:
    """The help text of a job, and below it the choices of every config group with the default marked."""
    lines = [help_text.strip(), "", "Choices (* marks the default):"]
    for group, default in default_choices(config).items():
        names = [f"*{name}" if name == default else name for name in choices(group)]
        lines += wrap("  ".join(names), 118, initial_indent=f"  {group:<11} ", subsequent_indent=" " * 14)
    return "\n".join(lines)
