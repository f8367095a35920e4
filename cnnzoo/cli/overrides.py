"""Hydra overrides, such as `model=resnet` and `optimizer.lr=0.1`: parsing, quoting, and composing `conf/` with them."""

import os
import re
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnzoo.errors import UserError

CONF = Path(__file__).resolve().parent.parent.parent / "conf"
PATH_KEYS = ("data.root", "data.cache.persist", "model.weights", "run_dir", "resume", "csv", "picture")
"""Keys whose values are paths: they are taken literally, except that `~` is expanded."""


def override_args(argv: list[str]) -> list[str]:
    """The overrides of a command line, without Hydra's own options such as `-m`."""
    args, _ = get_args_parser().parse_known_args(argv)
    return list(args.overrides)


def quote(key: str, value: str) -> str:
    """`key='value'`, escaped so that Hydra's grammar reads exactly `value`."""
    value = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value).replace("${", r"\${")
    return f"{key}='{value}'"


def quote_path(override: str) -> str:
    """`data.root=~/a b,c` -> `data.root='/home/me/a b,c'`; overrides of other keys are returned unchanged.

    Hydra's grammar rejects some characters of paths, and takes a comma for a list of values.
    """
    match = re.fullmatch(r"(\+{0,2})([\w.]+)=(.+)", override, flags=re.DOTALL)
    if match is None or match[2] not in PATH_KEYS:
        return override
    plus, key, value = match.groups()
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if is_quoted or value == "null" or re.match(r"(choice|glob)\(", value):
        return override
    return quote(plus + key, os.path.expanduser(value))


def path_value(override: str) -> str:
    """The path that an override of one of `PATH_KEYS` sets."""
    return str(parse_override(quote_path(override)).value())


def parse_override(override: str) -> Override:
    """Parse an override with Hydra's grammar. Raises UserError where it is not valid."""
    try:
        return OverridesParser.create().parse_override(override)
    except (OverrideParseException, HydraException) as error:
        if "=" not in override and not override.startswith("~"):
            candidates = [f"{group}={override}" for group in groups() if override in choices(group)]
            hint = f"did you mean {' or '.join(candidates)}?" if candidates else "for example model=resnet"
            raise UserError(f"'{override}' is not of the form key=value: {hint}") from None
        reason = str(error).splitlines()[0]
        key, _, value = override.partition("=")
        raise UserError(
            f"'{override}' cannot be parsed: {reason}; put quotes around the value: \"{key}='{value}'\""
        ) from None


def choices(group: str) -> list[str]:
    """The names that `group=` accepts: the files of `conf/<group>/`, except those that start with `_`."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if not path.stem.startswith("_"))


def groups() -> list[str]:
    """The config groups, sorted by name, with `model` and `data` first."""
    names = {path.name for path in CONF.iterdir() if any(path.glob("*.yaml"))}
    return sorted(names, key=lambda name: (name != "model", name != "data", name))


def default_choices(config: str) -> dict[str, str | None]:
    """The config groups of a job, each with its default choice."""
    defaults = OmegaConf.load(CONF / f"{config}.yaml").defaults
    entries = {key: value for entry in defaults if OmegaConf.is_dict(entry) for key, value in entry.items()}
    return {group: entries[group] for group in groups() if group in entries}


def compose(config: str, overrides: list[str], *, with_hydra: bool = False) -> DictConfig:
    """Compose the configuration of a job; `with_hydra` adds Hydra's own settings under `hydra`."""
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose(config, overrides=overrides, return_hydra_config=with_hydra)
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise UserError(f"the configuration cannot be composed: {reason}") from error
