"""Checks of the command line before Hydra runs, so that a mistake is reported on one line with the closest names."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnzoo.cli import sweep
from cnnzoo.cli.help_page import help_page
from cnnzoo.cli.model_names import check_model_name, family_by_name
from cnnzoo.cli.options import sort_arguments
from cnnzoo.cli.overrides import ConfigTree, add_network_arguments, config_tree, parse_override, quote, quote_path
from cnnzoo.cli.run_dir import check_run_dir
from cnnzoo.cli.suggestions import CHOICE_HABITS, did_you_mean
from cnnzoo.errors import UserError, list_choices, unknown
from cnnzoo.runtime import distributed
from cnnzoo.runtime.command import job_command
from cnnzoo.runtime.files import check_utf8

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
NULL_CHOICES = {"logger": "none", "callbacks": "none", "augment": "none", "scheduler": "constant"}
"""What `group=null` and `~group` mean for a group that is not null by default."""
REMOVABLE = ("model.args", "loader", "optimizer", "scheduler", "callbacks", "logger")
"""Parts of the configuration of which `~key` may remove a key, because each is an argument that may be left out."""
LIST_GROUPS = ("logger", "callbacks", "sweep")
"""Groups of which several choices may be combined: `logger=[csv,wandb]`."""


def prepare(argv: list[str], *, job: str, help_text: str) -> tuple[list[str], list[str]]:
    """Check the overrides of a command line, and complete them for Hydra.

    job: the name of the job and of its primary configuration, `conf/<job>.yaml`.
    help_text: the text that `--help` prints above the choices; `--help` exits.

    Returns the arguments for Hydra, and the errors of the sweep values that were removed because they name no existing
    choice. Raises UserError for what Hydra would reject, and for what Hydra would accept although nothing reads it.
    """
    argv = [quote_path(argument) for argument in sort_arguments(argv)]
    args, _ = get_args_parser().parse_known_args(argv)
    tree = config_tree(argv, job)
    if args.help:
        print(help_page(help_text, tree))
        sys.exit(0)
    if args.hydra_help or args.info or args.shell_completion:
        return argv, []
    checks = _Checks(tree, job, multirun=args.multirun)
    overrides = [override for line in args.overrides if (override := checks.replace_null(parse_override(line)))]
    overrides = add_network_arguments(tree, overrides)
    argv = [*argv[: len(argv) - len(args.overrides)], *(str(override.input_line) for override in overrides)]
    sweeps: list[Override] = []  # those with several values, without the values that do not exist
    first_job, dropped = [], []  # the overrides of the sweep's first job; those of the only job without a sweep
    for override in overrides:
        if not override.is_sweep_override() or (args.multirun and not override.is_discrete_sweep()):
            checks.check_choice(override)
            first_job.append(override)
            continue
        if not args.multirun:
            raise UserError(f"{override.input_line}: several values need a multirun; add -m")
        valid, errors = checks.split_sweep_values(override)
        dropped += errors
        remaining = parse_override(f"{override.get_key_element()}={','.join(valid)}")
        argv[argv.index(str(override.input_line))] = str(remaining.input_line)
        sweeps.append(remaining)
        first_job.append(parse_override(f"{override.get_key_element()}={valid[0]}"))
    sweepers = [override for override in overrides if override.key_or_group == "sweep" and override.value()]
    if sweepers and not args.multirun and "hydra.mode=RUN" not in argv:  # that is how one job of a sweep is started
        raise UserError(f"{sweepers[0].input_line} needs a multirun; add -m")
    cfg = checks.compose(first_job)
    if args.multirun and not _has_sweep(overrides, cfg):
        raise UserError("-m: no key has several values; type for example model=lenet,resnet, or leave -m out")
    keys = {override.key_or_group for override in overrides}
    _check_families([*first_job, *sweeps], cfg)
    if args.cfg == "job" and args.package and OmegaConf.select(cfg, args.package) is None:
        raise UserError(
            f"--package={args.package}: the configuration has no such part; for example: --package optimizer"
        )
    if "run_dir" in cfg:
        if not cfg.run_dir:
            raise UserError("run_dir: expected a directory; leave it out for runs/<data>/<network>/<date and time>")
        if "hydra.run.dir" in keys and not keys & {"resume", "hydra.mode"}:
            raise UserError(f"hydra.run.dir={cfg.hydra.run.dir}: type run_dir={cfg.hydra.run.dir}")
        check_utf8(str(Path(cfg.run_dir).absolute()))
        if cfg.resume is None and not args.cfg and distributed.is_rank_zero():
            is_sweep = args.multirun and "run_dir" not in keys
            check_run_dir(Path(cfg.hydra.sweep.dir if is_sweep else cfg.run_dir), multirun=args.multirun)
        argv = _set_sweep_dir(argv, cfg, keys) if args.multirun else _set_run_dir(argv, cfg, keys)
    return argv, dropped


def _check_families(overrides: list[Override], cfg: DictConfig) -> None:
    """Raise UserError for a sweep in which a network would meet another family than its own."""
    sweeps = {override.key_or_group: override for override in overrides if override.is_discrete_sweep()}
    if "model" in sweeps and "model.name" in {override.key_or_group for override in overrides}:
        raise UserError(
            f"{sweeps['model'].input_line}: model.name is a network of one family; leave it out, or try only names: "
            "-m model=resnet model.name=A,B"
        )
    for name in sweeps["model.name"].sweep_string_iterator() if "model.name" in sweeps else ():
        check_model_name(DictConfig({"family": cfg.model.family, "name": name}))


def _has_sweep(overrides: list[Override], cfg: DictConfig) -> bool:
    """Whether a multirun has several jobs, or Hydra was told how to start its only job."""
    return (
        any(override.is_sweep_override() or override.is_hydra_override() for override in overrides)
        or "sweep" in {override.key_or_group for override in overrides}
        or bool(cfg.hydra.sweeper.get("params"))
    )


def error_line(error: Exception) -> str:
    """The line that reports an error: `error: rank 1: <message>`; the rank only if it is not 0."""
    rank = distributed.global_rank()
    return ("error: " if rank == 0 else f"error: rank {rank}: ") + " ".join(str(error).split("\n"))


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


@dataclass
class _Checks:
    """The checks of one job's overrides against the configuration files in `tree`."""

    tree: ConfigTree
    job: str
    multirun: bool

    def replace_null(self, override: Override) -> Override | None:
        """`logger=null` and `~logger` as `logger=none`; None for a group that is null by default.

        Raises UserError for a group of which the job needs a choice.
        """
        group = override.key_or_group
        defaults = self.tree.default_choices()
        if group not in defaults or not (override.is_delete() or override.value() is None):
            return override
        if defaults[group] is None:
            return None
        if group in NULL_CHOICES:
            return parse_override(f"{group}={NULL_CHOICES[group]}")
        raise UserError(
            f"{override.input_line}: {self.job} needs a choice of {group}, for example {group}={defaults[group]}; "
            f"expected one of: {', '.join(self.tree.choices(group))}"
        )

    def check_choice(self, override: Override) -> None:
        """Raise UserError for a choice that does not exist, or a sweep whose plugin is missing."""
        group, value = override.key_or_group, override.value()
        if override.is_delete() or override.is_hydra_override() or group not in self.tree.groups() or value is None:
            return
        choices = self.tree.choices(group)
        if value == "":
            raise UserError(f"{group}=: no choice given; expected one of: {list_choices(choices)}")
        if override.is_add() and self.tree.default_choices().get(group) is not None:
            raise UserError(f"{override.input_line}: the job has a choice of {group} already; type {group}={value}")
        if isinstance(value, list) and group not in LIST_GROUPS:
            raise UserError(f"{override.input_line}: {group} takes one choice; several need a multirun: -m {group}=A,B")
        for name in value if isinstance(value, list) else [value]:
            if str(name) not in choices:
                raise self._unknown_choice(group, str(name))
            if group == "sweep":
                sweep.check_plugins(str(name), self.tree.read(group, str(name)))

    def _unknown_choice(self, group: str, name: str) -> UserError:
        choices = self.tree.choices(group)
        stem = re.sub(r".*/|\.yaml$", "", name)
        if name.endswith(".yaml") and stem in choices:
            return UserError(f"{group}={name}: expected a name without directory and suffix; type {group}={stem}")
        if choice := CHOICE_HABITS.get((group, name.lower())):
            return UserError(f"{group}={name}: it is called {choice} here; type {group}={choice}")
        if group == "data" and name.lower().endswith((".csv", ".tsv")):
            return UserError(f"data={name}: data= takes the name of a data set; type data=csv data.path={name}")
        if group == "data" and (re.search(r"[/\\.~]", name) or Path(name).is_dir()):
            return UserError(f"data={name}: data= takes the name of a data set; type data=folder data.root={name}")
        if group != "model":
            return unknown(group, name, choices, limit=20)
        if family := family_by_name().get(name.lower()):
            return UserError(f"model={name}: model= takes a family; type model={family} model.name={name.lower()}")
        error = unknown(group, name, choices, limit=20)
        return UserError(f"{error} (model= takes a family, model.name= one of its networks)")

    def split_sweep_values(self, override: Override) -> tuple[list[str], list[str]]:
        """The values of a sweep that exist, and the errors of the others. Raises UserError if none exists."""
        valid, errors = [], []
        for value in override.sweep_string_iterator():
            try:
                if override.key_or_group == "model.name" and value not in family_by_name():
                    raise unknown("model", value, family_by_name())
                self.check_choice(parse_override(f"{override.get_key_element()}={value}"))
                valid.append(value)
            except UserError as error:
                print(error_line(error), file=sys.stderr)
                errors.append(str(error))
        if not valid:
            raise UserError(f"{override.input_line}: none of these values exists")
        return valid, errors

    def compose(self, overrides: list[Override]) -> DictConfig:
        """Compose the configuration of one job, with Hydra's settings for a multirun.

        Raises UserError for an unknown key, a value of the wrong type, and a key without a value.
        """
        groups = self.tree.default_choices()
        own = [override for override in overrides if not override.is_hydra_override()]
        on_groups = [override for override in own if override.key_or_group in groups]
        on_keys = [override for override in own if override.key_or_group not in groups]
        self._check_set_once(on_groups)
        base = self.tree.compose([str(override.input_line) for override in on_groups])
        for override in on_keys:
            self._check_key(override, base)
            _check_type(override, base)
        with_hydra = self.multirun or any(override.is_hydra_override() for override in overrides)
        kept = [str(line.input_line) for line in overrides if not (self.multirun and line.is_sweep_override())]
        cfg = None if with_hydra else self.tree.set_values(base, on_keys)
        cfg = cfg or self.tree.compose(kept, with_hydra=with_hydra)
        self._check_complete(cfg)
        check_model_name(cfg.get("model"))
        return cfg

    def _check_trainer_keys(self, cfg: DictConfig) -> None:
        """Raise UserError if a configuration file of the user sets an argument that Lightning's Trainer lacks."""
        known = {f"trainer.{key}": None for key in ConfigTree(self.job).compose([]).get("trainer", ())}
        for key in cfg.get("trainer", ()):
            if f"trainer.{key}" not in known:
                raise unknown("key", f"trainer.{key}", known)

    def _check_set_once(self, overrides: list[Override]) -> None:
        lines: dict[str, str] = {}
        for override in overrides:
            earlier = lines.setdefault(override.key_or_group, str(override.input_line))
            if earlier is not override.input_line and not override.is_delete():
                raise UserError(
                    f"{earlier} and {override.input_line}: {override.key_or_group} is chosen twice; leave one out"
                )

    def _check_key(self, override: Override, base: DictConfig) -> None:
        """Raise UserError if nothing would read the key of `override` in the configuration `base`."""
        key = override.key_or_group
        if has_key(base, key):
            parent, _, name = key.rpartition(".")
            if override.is_delete() and (parent not in REMOVABLE or name.startswith("_")):
                raise UserError(f"~{key}: {self.job} reads this key; set it instead: {key}=...")
            if key == "model.family":
                raise UserError(f"{override.input_line}: it follows from the choice; type model={override.value()}")
            return
        if override.is_add() or override.is_force_add():
            parent = key.rpartition(".")[0]
            if not any(f"{parent}.".startswith(f"{group}.") for group in OPEN_GROUPS):
                raise UserError(f"+{key}: nothing reads this key{self._did_you_mean(override, base)}")
            return
        if key.startswith("model.") and "model" not in base:
            raise UserError(f"{key}: no model is chosen; type its family as well, for example model=resnet")
        if (choice := key.split(".")[1:2]) and key.startswith("logger.") and choice[0] in self.tree.choices("logger"):
            raise UserError(f"{key}: this logger is not chosen; type logger={choice[0]} as well")
        if key.startswith("model.args."):
            raise UserError(f"unknown key '{key}': to add an argument of the network, type +{override.input_line}")
        raise UserError(f"unknown key '{key}'{self._did_you_mean(override, base)}")

    def _did_you_mean(self, override: Override, base: DictConfig) -> str:
        value = str(override.input_line).partition("=")[2]
        list_command = f"{job_command(self.job)} --cfg job"
        groups = list(self.tree.default_choices())
        return did_you_mean(override.key_or_group, base, groups, value=value, list_command=list_command)

    def _check_complete(self, cfg: DictConfig) -> None:
        """Raise UserError for a key without a value or with the value of a missing key, and for a missing part."""
        if "hydra" in cfg and cfg.hydra.job.chdir:
            raise UserError("hydra.job.chdir=true: paths are relative to the directory where you type; leave it out")
        own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
        try:
            missing = OmegaConf.missing_keys(own)
            if not missing:
                OmegaConf.to_container(own, resolve=True)  # resolving in place would read an escaped "${" again
        except OmegaConfBaseException as error:
            raise UserError(f"the configuration cannot be resolved: {str(error).splitlines()[0]}") from error
        if missing:
            key = sorted(missing)[0]
            raise UserError(f"{key} has no value; type {key}=...")
        if self.tree.user_dirs:
            self._check_trainer_keys(cfg)
        if self.tree.job != self.job:
            absent = [key for key in map(str, ConfigTree(self.job).compose([])) if key not in cfg]
            if absent:
                raise UserError(
                    f"--config-name={self.tree.job}: it lacks {', '.join(absent)}; begin its defaults list with "
                    f"'- {self.job}', which provides them"
                )


def _check_type(override: Override, base: DictConfig) -> None:
    """Raise UserError for text where the default is a number, and for anything but true or false where it is one."""
    key, value = override.key_or_group, override.value()
    if override.is_delete() or not isinstance(value, str) or "${" in value:
        return
    if key in ("compile", "trainer.devices"):  # they accept text as well
        return
    try:
        default = OmegaConf.select(base, key)
    except OmegaConfBaseException:  # an interpolation that cannot be resolved yet
        return
    if isinstance(default, int | float):
        expected = "true or false" if isinstance(default, bool) else f"a number, such as {default:g}"
        raise UserError(f"{key}={value}: expected {expected}")


def has_key(cfg: DictConfig, key: str) -> bool:
    """Whether the configuration has this dotted key."""
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in list(node):  # `in node` is false for a key without a value
            return OmegaConf.is_list(node) and part.isdigit()
        node = node._get_node(part)
    return True
