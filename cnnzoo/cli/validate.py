"""The command line checked ahead of Hydra, and mended: what it would refuse, or take without a word, is one line."""

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
"""Where `+key=value` may add a key: each is handed to a call that refuses what it does not know."""


def prepare(argv: list[str], *, config: str, help_text: str) -> tuple[list[str], list[str]]:
    """The command line as Hydra is to have it, and the sweep values left out of it because no such choice exists.

    Prints `--help` itself and exits. Raises `UserError` for what Hydra would refuse, or would take without a word
    although nothing reads it.
    """
    args, _ = get_args_parser().parse_known_args(argv)
    if args.help:
        print(_help_text(help_text, config))
        sys.exit(0)
    typed = set(args.overrides)
    words = [quote_path(word) if word in typed else word for word in argv]
    parsed = [parse_override(word) for was, word in zip(argv, words, strict=True) if was in typed]
    if args.hydra_help or args.info or args.shell_completion or args.config_dir or args.config_path or args.config_name:
        return words, []  # the person is talking to Hydra, or brings a configuration of their own
    single, dropped = [], []
    for override in parsed:
        values = list(override.sweep_string_iterator()) if args.multirun and override.is_discrete_sweep() else []
        if not values:
            if args.multirun or not override.is_sweep_override():
                single.append(override)
                _check_choice(override)
                continue
            raise UserError(f"{override.input_line}: several values need a multirun: add -m")
        good = []
        for value in values:
            try:
                _check_choice(parse_override(f"{override.get_key_element()}={value}"))
                good.append(value)
            except UserError as error:
                print(error_line(error), file=sys.stderr)
                dropped.append(str(error))
        if not good:
            raise UserError(f"{override.input_line}: none of these can run")
        words[words.index(str(override.input_line))] = f"{override.get_key_element()}={','.join(good)}"
        single.append(parse_override(f"{override.get_key_element()}={good[0]}"))
    sweeps = [override for override in parsed if override.key_or_group == "sweep" and override.value()]
    if sweeps and not args.multirun and "hydra.mode=RUN" not in words:  # which one job of a sweep is typed with
        raise UserError(f"{sweeps[0].input_line} needs a multirun: add -m")
    cfg = _check_keys(single, config, multirun=args.multirun)
    if "run_dir" not in cfg:
        return words, dropped
    named = {override.key_or_group for override in parsed}
    if args.multirun:
        if distributed.launched_by_torchrun() or distributed.launched_by_slurm():
            raise UserError("-m starts the ranks of each job itself: leave torchrun or srun out")
        words = [re.sub(r"^\+{0,2}run_dir=", "hydra.sweep.dir=", word) for word in words]
        if not named & {"run_dir", "hydra.sweep.dir"}:
            words.append(quote("hydra.sweep.dir", cfg.hydra.sweep.dir))
        words.append(f"hydra.output_subdir={sweep.PENDING_CONFIG_DIR}")
        return words, dropped
    if distributed.is_distributed() and cfg.resume is None:  # a resumed run has its directory
        words.append(quote("hydra.run.dir", distributed.broadcast_run_dir(cfg.run_dir, typed="run_dir" in named)))
    if distributed.global_rank():
        words += ["hydra.output_subdir=null", "hydra/job_logging=rank"]  # the first writes
    return words, dropped


def error_line(error: Exception) -> str:
    """What a person reads of an error."""
    which = f"rank {distributed.global_rank()}: " if distributed.global_rank() else ""
    return f"error: {which}" + " ".join(str(error).split("\n"))


def _check_choice(override: Override) -> None:
    """Raise if `group=choice` names a choice that does not exist."""
    group, choice = override.key_or_group, override.value()
    if override.is_delete() or override.is_hydra_override() or group not in groups() or choice is None:
        return
    for name in choice if isinstance(choice, list) else [choice]:
        if str(name) in choices(group):
            if group == "sweep":
                sweep.check_plugins(str(name), (CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))
            continue
        error = unknown(group, str(name), choices(group), most=20)
        if group == "model":
            error = UserError(f"{error} (model= takes a family, model.name= one of its networks)")
        raise error


def _check_keys(overrides: list[Override], config: str, *, multirun: bool) -> DictConfig:
    """Compose once, ahead of Hydra: raise for a key that the configuration lacks, or a run directory already used."""
    own = default_choices(config)
    on_groups = [o for o in overrides if not o.is_hydra_override() and o.key_or_group in own]
    plain = [o for o in overrides if not o.is_hydra_override() and o.key_or_group not in own]
    base = compose(config, [str(o.input_line) for o in on_groups])
    for override in plain:
        key = override.key_or_group
        if override.is_add() or override.is_force_add():
            parent, _, _ = key.rpartition(".")
            if not has_key(base, key) and not any(f"{parent}.".startswith(f"{place}.") for place in OPEN_GROUPS):
                raise UserError(f"+{key}: nothing reads it there{_did_you_mean(key, base, config)}")
        elif not has_key(base, key):
            if key.startswith("model.") and "model" not in base:
                raise UserError(f"{key}: no model is chosen: type its family as well, for example model=resnet")
            raise UserError(f"unknown key '{key}'{_did_you_mean(key, base, config)}")
    lines = [str(o.input_line) for o in on_groups + plain if not (multirun and o.is_sweep_override())]
    cfg = compose(config, lines, whole=multirun)
    missing = OmegaConf.missing_keys(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]))
    if missing:
        name = sorted(missing)[0]
        raise UserError(f"{name} has no value: type {name}=...")
    typed = any(o.key_or_group == "run_dir" for o in plain)
    if typed and not distributed.global_rank():
        _check_run_dir(Path(cfg.run_dir), multirun=multirun)
    return cfg


def _check_run_dir(run_dir: Path, *, multirun: bool) -> None:
    """Raise unless a run can be written to `run_dir` without harm to what is there."""
    above = next(place for place in (run_dir.absolute(), *run_dir.absolute().parents) if place.exists())
    if not above.is_dir():
        raise UserError(f"run_dir={run_dir}: {above} is a file, not a directory")
    if not os.access(above, os.W_OK):
        raise UserError(f"run_dir={run_dir}: {above} cannot be written to")
    finished = (run_dir / "metrics.json").exists()
    if finished or any(run_dir.glob("checkpoints/*.ckpt")):
        if multirun:
            raise UserError(f"run_dir={run_dir} holds a run, not a sweep: name another run_dir")
        way = "name another run_dir, or delete it first"
        if finished:
            raise UserError(f"run_dir={run_dir} already holds a finished run: {way}")
        raise UserError(
            f"run_dir={run_dir} already holds a run that did not finish: resume={run_dir} goes on; or {way}"
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
    """Every key of the configuration, dotted; what an interpolation pulls in counts once, where it stands."""
    for name in map(str, cfg):
        node: Any = cfg._get_node(name)
        if not name.startswith("_"):
            yield f"{prefix}{name}"
            if isinstance(node, DictConfig) and not node._is_interpolation():
                yield from _all_keys(node, f"{prefix}{name}.")


def _did_you_mean(key: str, cfg: DictConfig, config: str) -> str:
    """The keys nearest to `key`: by the whole, or by the last part for one typed without its place (`lr`)."""

    def likeness(candidate: str) -> float:
        whole = SequenceMatcher(None, key, candidate).ratio()
        return max(whole, 0.85 * SequenceMatcher(None, key.split(".")[-1], candidate.split(".")[-1]).ratio())

    # a recipe is where defaults come from, not what people type
    candidates = {name for name in (*_all_keys(cfg), *default_choices(config)) if ".recipe" not in name}
    best = sorted(candidates, key=lambda name: (-likeness(name), name))[:3]
    near = [name for name in best if likeness(name) >= max(0.65, likeness(best[0]) - 0.15)]
    return f": did you mean {', '.join(near)}?" if near else f"; python {config}.py --cfg job lists all keys"


def _help_text(text: str, config: str) -> str:
    """The job's own words, then the choices of every group, the default marked."""
    lines = [text.strip(), "", "Choices (* is what you get without typing any):"]
    for group, default in default_choices(config).items():
        names = [f"*{name}" if name == default else name for name in choices(group)]
        lines += wrap("  ".join(names), 118, initial_indent=f"  {group:<11} ", subsequent_indent=" " * 14)
    return "\n".join(lines)
