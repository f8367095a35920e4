"""Hydra overrides, such as `model=resnet` and `optimizer.lr=0.1`: parsing, quoting, and composing `conf/` with them."""

import os
import re
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cnnzoo.cli.model_names import family_by_name
from cnnzoo.cli.suggestions import suggest_override
from cnnzoo.errors import UserError, unknown
from cnnzoo.runtime.command import job_command, search_path_override
from cnnzoo.runtime.files import CONF

PATH_KEYS = (
    "data.root",
    "data.path",
    "data.cache.persist",
    "model.weights",
    "run_dir",
    "resume",
    "csv",
    "picture",
    "run",
    "images",
    "out",
)
"""Keys whose values are paths: they are taken literally, except that `~` is expanded."""
TEXT_KEYS = ("data.label_separator",)
"""Keys whose values are taken literally."""


def override_args(argv: list[str]) -> list[str]:
    """The overrides of a command line, without Hydra's own options such as `-m`."""
    args, _ = get_args_parser().parse_known_args(argv)
    return list(args.overrides)


def quote(key: str, value: str) -> str:
    """`key='value'`, escaped so that Hydra's grammar reads exactly `value`."""
    value = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value).replace("${", r"\${")
    return f"{key}='{value}'"


def quote_path(override: str) -> str:
    """`data.root=~/a b,c` -> `data.root='/home/me/a b,c'`; as for `TEXT_KEYS`; others are returned unchanged.

    Hydra's grammar rejects some characters of paths, and takes a comma for a list of values. Raises UserError for a
    `~user` who does not exist.
    """
    match = re.fullmatch(r"(\+{0,2})([\w.]+)=(.+)", override, flags=re.DOTALL)
    if match is None or match[2] not in (*PATH_KEYS, *TEXT_KEYS):
        return override
    plus, key, value = match.groups()
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if is_quoted or value == "null" or re.match(r"(choice|glob)\(", value):
        return override
    if key == "images" and re.fullmatch(r"-?[\d.]+", value):  # a number of images, which is a key of benchmark
        return override
    if key in TEXT_KEYS:
        return quote(plus + key, value)
    path = os.path.expanduser(value)
    if path.startswith("~"):
        raise UserError(f"{override}: there is no home directory {path.split('/')[0]}; type the whole path")
    return quote(plus + key, path)


def path_value(override: str) -> str:
    """The path that an override of one of `PATH_KEYS` sets."""
    return str(parse_override(quote_path(override)).value())


def parse_override(override: str) -> Override:
    """Parse an override with Hydra's grammar. Raises UserError where it is not valid."""
    try:
        return OverridesParser.create().parse_override(override)
    except (OverrideParseException, HydraException) as error:
        if "=" not in override and not override.startswith("~"):
            raise UserError(f"'{override}' is not of the form key=value{_form_hint(override)}") from None
        reason = str(error).splitlines()[0]
        key, _, value = override.partition("=")
        if not re.fullmatch(r"[+~]*[\w./@-]+", key):
            raise UserError(f"'{override}' is not of the form key=value; for example: model=resnet") from None
        raise UserError(
            f"'{override}' cannot be parsed: {reason}; put quotes around the value: \"{key}='{value}'\""
        ) from None


def _form_hint(argument: str) -> str:
    """The end of the message about an argument without `=`."""
    tree = ConfigTree("train")
    if family := family_by_name().get(argument):
        return f": type model={family} model.name={argument}"
    candidates = [f"{group}={argument}" for group in tree.groups() if argument in tree.choices(group)]
    if candidates:
        return f": did you mean {' or '.join(candidates)}?"
    if re.search(r"\.(jpe?g|png|bmp|webp|gif|tiff?)$", argument, re.IGNORECASE):
        return f"; {job_command('predict')} takes an image as images={argument}"
    key, separator, value = argument.partition(":")
    override = suggest_override(key, value)
    if override is not None or separator or argument in tree.groups():
        value = value or str(tree.default_choices().get(key) or "...")
        return f"; type it without spaces, for example: {override or f'{key}={value}'}"
    return "; for example: model=resnet"


class ConfigTree:
    """The files of `conf/` and of the user's configuration directories, which have the same layout.

    job: the name of the primary configuration.
    user_dirs: further directories, which `--config-dir` and `hydra.searchpath` name.

    Raises UserError if one of the directories does not exist, or contains a file that `conf/` has as well: Hydra would
    ignore that file.
    """

    def __init__(self, job: str, user_dirs: Sequence[Path] = ()) -> None:
        self.job, self.user_dirs = job, tuple(user_dirs)
        for directory in user_dirs:
            if not directory.is_dir():
                raise UserError(f"{directory}: no such configuration directory (--config-dir or hydra.searchpath)")
            for path in sorted(directory.rglob("*.yaml")):
                name = path.relative_to(directory)
                if (CONF / name).exists():
                    raise UserError(f"{path}: cnnzoo's own {name} takes precedence over it; give the file another name")
        if self._find(f"{job}.yaml") is None:
            found = [path.stem for directory in self._dirs for path in directory.glob("*.yaml")]
            raise unknown("configuration", job, sorted(found))

    @property
    def _dirs(self) -> tuple[Path, ...]:
        return (CONF, *self.user_dirs)

    def _find(self, name: str) -> Path | None:
        return next((directory / name for directory in self._dirs if (directory / name).is_file()), None)

    def choices(self, group: str) -> list[str]:
        """The names that `group=` accepts: the files of the group's directories, except those that start with `_`."""
        names = {path.stem for directory in self._dirs for path in (directory / group).glob("*.yaml")}
        return sorted(name for name in names if not name.startswith("_"))

    def groups(self) -> list[str]:
        """The config groups, sorted by name, with `model` and `data` first."""
        names = {path.parent.name for directory in self._dirs for path in directory.glob("*/*.yaml")}
        return sorted(names, key=lambda name: (name != "model", name != "data", name))

    def read(self, group: str, choice: str) -> str:
        """The text of a choice's file."""
        path = self._find(f"{group}/{choice}.yaml")
        assert path is not None
        return path.read_text(encoding="utf-8")

    def default_choices(self) -> dict[str, str | None]:
        """The config groups of the job, each with its default choice; also those of a configuration that it extends."""
        return dict(self._default_choices)

    @cached_property
    def _default_choices(self) -> dict[str, str | None]:  # reading the files takes 20 ms, and each override asks
        entries = self._defaults(self.job)
        return {group: entries[group] for group in self.groups() if group in entries}

    def _defaults(self, config: str) -> dict[str, str | None]:
        path = self._find(f"{config}.yaml")
        defaults = [] if path is None else OmegaConf.load(path).get("defaults", [])  # type: ignore[arg-type]
        entries: dict[str, str | None] = {}
        for entry in defaults:
            if isinstance(entry, str) and entry != "_self_":
                entries |= self._defaults(entry.lstrip("/"))
            elif isinstance(entry, DictConfig):
                entries |= {str(key).removeprefix("override ").lstrip("/"): value for key, value in entry.items()}
        return entries

    def compose(self, overrides: Sequence[str], *, with_hydra: bool = False) -> DictConfig:
        """Compose the configuration of a job; `with_hydra` adds Hydra's own settings under `hydra`."""
        primary = self._find(f"{self.job}.yaml")
        assert primary is not None
        lines = [line for line in overrides if not line.startswith("hydra.searchpath=")]
        # Hydra looks for the primary configuration only in the directory that it is initialized with.
        others = [directory.absolute() for directory in self._dirs if directory != primary.parent]
        if others:
            lines.append(search_path_override(others))
        try:
            with hydra.initialize_config_dir(str(primary.parent.absolute()), version_base="1.3"):
                return hydra.compose(self.job, overrides=lines, return_hydra_config=with_hydra)
        except YAMLError as error:
            raise UserError(f"a configuration file cannot be read: {' '.join(str(error).split())[:200]}") from error
        except (HydraException, OmegaConfBaseException) as error:
            reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
            raise UserError(f"the configuration cannot be composed: {reason}") from error

    def set_values(self, cfg: DictConfig, overrides: Sequence[Override]) -> DictConfig | None:
        """Change a composed `cfg` as composing it again with these overrides would, in a tenth of the time.

        Returns None if one of them is more than `key=value`, or if it cannot be applied; composing shows why.
        """
        groups = self.groups()
        for override in overrides:
            key = override.key_or_group
            if override.type is not OverrideType.CHANGE or override.package is not None or key in groups:
                return None
            try:
                OmegaConf.update(cfg, key, override.value(), merge=True)
            except OmegaConfBaseException:
                return None
        return cfg


def add_network_arguments(tree: ConfigTree, overrides: list[Override]) -> list[Override]:
    """`model.args.width=8` as `++model.args.width=8` for a network of the user, whose arguments are not in `conf/`."""
    plain = [o for o in overrides if o.type is OverrideType.CHANGE and o.key_or_group.startswith("model.args.")]
    if not plain:
        return overrides
    groups = tree.default_choices()
    choices = [str(o.input_line) for o in overrides if o.key_or_group in groups and not o.is_sweep_override()]
    try:
        model = tree.compose(choices).get("model")
    except UserError:  # `prepare` reports it in its own words
        return overrides
    if model is None or "target" not in list(model):
        return overrides
    return [parse_override(f"++{o.input_line}") if o in plain else o for o in overrides]


def config_tree(argv: Sequence[str], job: str) -> ConfigTree:
    """The configuration files that a command line selects with `--config-name`, `--config-dir`, `hydra.searchpath`."""
    args, _ = get_args_parser().parse_known_args(list(argv))
    directories = [] if args.config_dir is None else [Path(args.config_dir)]
    for override in map(parse_override, args.overrides):
        if override.key_or_group == "hydra.searchpath":
            value = override.value()
            if not isinstance(value, list):
                raise UserError(f"hydra.searchpath={value}: expected a list; type 'hydra.searchpath=[{value}]'")
            directories += _search_path_dirs([str(entry) for entry in value])
    tree = ConfigTree(args.config_name or job, directories)
    if args.config_name and args.config_dir is None and not (CONF / f"{args.config_name}.yaml").is_file():
        raise UserError(f"--config-name={args.config_name}: type --config-dir DIR with the directory that contains it")
    return tree


def _search_path_dirs(entries: Sequence[str]) -> list[Path]:
    """The directories of `hydra.searchpath`, whose entries are `file://DIR`, `pkg://PACKAGE` or `DIR`.

    Raises UserError for a package that does not exist.
    """
    directories = []
    for entry in entries:
        scheme, separator, rest = entry.rpartition("://")
        if scheme != "pkg":
            directories.append(Path(rest if separator else entry))
            continue
        try:
            spec = find_spec(rest)
        except ModuleNotFoundError:
            spec = None
        locations = [] if spec is None else list(spec.submodule_search_locations or ())
        if not locations:
            raise UserError(f"hydra.searchpath: no package named {rest} is installed; for a directory type file://DIR")
        directories.append(Path(locations[0]))
    return directories
