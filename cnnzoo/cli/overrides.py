"""Words of the command line as Hydra's grammar has them, and what `conf/` makes of them."""

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
"""Their values are paths: taken literally, `~` expanded."""


def override_args(argv: list[str]) -> list[str]:
    """Those of the words that set something, not Hydra's own options such as `-m`."""
    args, _ = get_args_parser().parse_known_args(argv)
    return list(args.overrides)


def quote(key: str, value: str) -> str:
    """`key='value'`, which Hydra's grammar takes for what it is, letter by letter."""
    value = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value).replace("${", r"\${")
    return f"{key}='{value}'"


def quote_path(word: str) -> str:
    """`data.root=~/a b,c` -> `data.root='/home/me/a b,c'`: what Hydra's grammar would not take, or would take apart."""
    match = re.fullmatch(r"(\+{0,2})([\w.]+)=(.+)", word, flags=re.DOTALL)
    if match is None or match[2] not in PATH_KEYS:
        return word
    plus, key, value = match.groups()
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if quoted or value == "null" or re.match(r"(choice|glob)\(", value):
        return word
    return quote(plus + key, os.path.expanduser(value))


def path_value(word: str) -> str:
    """The value of a word whose key is a path's."""
    return str(parse_override(quote_path(word)).value())


def parse_override(word: str) -> Override:
    """A word as Hydra understands it. Raises UserError where it does not."""
    try:
        return OverridesParser.create().parse_override(word)
    except (OverrideParseException, HydraException) as error:
        if "=" not in word and not word.startswith("~"):
            near = [f"{group}={word}" for group in groups() if word in choices(group)]
            hint = f"did you mean {' or '.join(near)}?" if near else "for example model=resnet"
            raise UserError(f"'{word}' is not of the form key=value: {hint}") from None
        reason = str(error).splitlines()[0]
        key, _, value = word.partition("=")
        raise UserError(f"cannot read '{word}': {reason}; put quotes around the value: \"{key}='{value}'\"") from None


def choices(group: str) -> list[str]:
    """The names that `group=` takes: the files of `conf/<group>/`, but for those that only others build on."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if not path.stem.startswith("_"))


def groups() -> list[str]:
    """The config groups, `model` and `data` first."""
    found = sorted(path.name for path in CONF.iterdir() if any(path.glob("*.yaml")))
    return sorted(found, key=lambda name: (["model", "data"].index(name) if name in ("model", "data") else 2, name))


def default_choices(config: str) -> dict[str, str | None]:
    """The config groups of a job, with the choice that each has unless one is typed."""
    defaults = OmegaConf.load(CONF / f"{config}.yaml").defaults
    entries = {key: value for entry in defaults if OmegaConf.is_dict(entry) for key, value in entry.items()}
    return {group: entries[group] for group in groups() if group in entries}


def compose(config: str, words: list[str], *, whole: bool = False) -> DictConfig:
    """The configuration of a job; the `whole` of it has Hydra's own settings, too."""
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose(config, overrides=words, return_hydra_config=whole)
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise UserError(f"the configuration does not compose: {reason}") from error
