"""What all jobs share: reading the command line, composing the configuration, one line for each error.

With the scripts at the root this is the only place that knows Hydra. A job is a function of the composed
configuration; `run` checks the command line ahead of Hydra (importing nothing heavy, so that a misspelt key is answered
in a third of a second, not in the seconds that torch takes to load), then hands over to Hydra.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from pathlib import Path
from textwrap import wrap
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnnzoo.errors import UserError, unknown

CONF = Path(__file__).resolve().parent.parent / "conf"
PATH_KEYS = ("data.root", "data.cache.persist", "model.weights", "run_dir", "csv", "picture")
"""Their values are paths: taken literally, `~` expanded."""
OPEN = ("model.args", "data", "loader", "augment", "optimizer", "scheduler", "trainer", "callbacks", "logger", "hydra")
"""Where `+key=value` may add a key: each is handed to a call that refuses what it does not know."""

LIBRARIES = {"TORCH_CPP_LOG_LEVEL": "ERROR", "KINETO_LOG_LEVEL": "99"}
"""What torch's C++ code prints past Python's warnings, of sockets and profilers, is nothing a person can act on."""

log = logging.getLogger(__name__)


def run(main: Callable[[DictConfig], float | None], *, config: str) -> None:
    """Run a job as `hydra.main` would, on `conf/<config>.yaml`, with the command line checked and mended first."""
    try:
        argv, dropped = prepare(sys.argv[1:], config=config, help_text=sys.modules[main.__module__].__doc__ or "")
    except UserError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(_line(error))
    sys.argv[1:] = argv
    for name, value in LIBRARIES.items():
        os.environ.setdefault(name, value)  # read when torch is imported, which is later
    failures = list(dropped)

    def task(cfg: DictConfig) -> float | None:
        settings = HydraConfig.get()
        if "run_dir" in cfg:
            cfg.run_dir = settings.runtime.output_dir  # in a multirun each job has its own
        try:
            return main(cfg)
        except UserError as error:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            if settings.mode != RunMode.MULTIRUN:
                sys.exit(_line(error))  # past Hydra, which would add lines of its own
            failures.append(f"{' '.join(settings.overrides.task)}: {error}")
            log.error("%s", _line(error))
            return float("nan")  # a sweeper reads it as a job that brought nothing

    task.__module__ = main.__module__
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config)(task)()
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell says of what Ctrl-C ended
    if failures:
        several = (
            f"{len(failures)} jobs of this multirun failed" if len(failures) > 1 else "a job of this multirun failed"
        )
        sys.exit("\n".join([f"error: {several}", *(f"  {failure}" for failure in failures)]))


def instantiate(node: DictConfig, key: str, **more: Any) -> Any:
    """`hydra.utils.instantiate`, whose complaint about an argument becomes a `UserError` that names the key."""
    try:
        return hydra.utils.instantiate(node, **more)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        name = type(cause).__name__
        if isinstance(cause, (TypeError, ValueError)) or name in ("MisconfigurationException", "ModuleNotFoundError"):
            raise UserError(f"{key}: {cause}") from error
        raise


def choices(group: str) -> list[str]:
    """The names that `group=` takes: the files of `conf/<group>/`, but for those that only others build on."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if not path.stem.startswith("_"))


def groups() -> list[str]:
    """The config groups, `model` and `data` first."""
    found = sorted(path.name for path in CONF.iterdir() if any(path.glob("*.yaml")))
    return sorted(found, key=lambda name: (["model", "data"].index(name) if name in ("model", "data") else 2, name))


def chosen(config: str) -> dict[str, str | None]:
    """The config groups of a job, with the choice that each has unless one is typed."""
    defaults = OmegaConf.load(CONF / f"{config}.yaml").defaults
    entries = {key: value for entry in defaults if OmegaConf.is_dict(entry) for key, value in entry.items()}
    return {group: entries[group] for group in groups() if group in entries}


def prepare(argv: list[str], *, config: str, help_text: str) -> tuple[list[str], list[str]]:
    """The command line as Hydra is to have it, and the sweep values left out of it because no such choice exists.

    Prints `--help` itself and exits. Raises `UserError` for what Hydra would refuse, or would take without a word
    although nothing reads it.
    """
    args, _ = get_args_parser().parse_known_args(argv)
    if args.help:
        print(_help(help_text, config))
        sys.exit(0)
    typed = set(args.overrides)
    words = [_quote_path(word) if word in typed else word for word in argv]
    parsed = [_parse(word) for was, word in zip(argv, words, strict=True) if was in typed]
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
                _check_choice(_parse(f"{override.get_key_element()}={value}"))
                good.append(value)
            except UserError as error:
                print(_line(error), file=sys.stderr)
                dropped.append(str(error))
        if not good:
            raise UserError(f"{override.input_line}: none of these can run")
        words[words.index(str(override.input_line))] = f"{override.get_key_element()}={','.join(good)}"
        single.append(_parse(f"{override.get_key_element()}={good[0]}"))
    _check_keys(single, config, multirun=args.multirun)
    if args.multirun:  # each job has a directory of its own below
        words = [re.sub(r"^\+{0,2}run_dir=", "hydra.sweep.dir=", word) for word in words]
    return words, dropped


def _line(error: Exception) -> str:
    return "error: " + " ".join(str(error).split("\n"))


def _quote_path(word: str) -> str:
    """`data.root=~/a b,c` -> `data.root='/home/me/a b,c'`: what Hydra's grammar would not take, or would take apart."""
    match = re.fullmatch(r"(\+{0,2})([\w.]+)=(.+)", word, flags=re.DOTALL)
    if match is None or match[2] not in PATH_KEYS:
        return word
    plus, key, value = match.groups()
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if quoted or value == "null" or re.match(r"(choice|glob)\(", value):
        return word
    value = os.path.expanduser(value)
    value = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value).replace("${", r"\${")
    return f"{plus}{key}='{value}'"


def _parse(word: str) -> Override:
    try:
        return OverridesParser.create().parse_override(word)
    except (OverrideParseException, HydraException) as error:
        if "=" not in word and not word.startswith("~"):
            near = [f"{group}={word}" for group in groups() if word in choices(group)]
            hint = f"did you mean {' or '.join(near)}?" if near else "for example model=resnet"
            raise UserError(f"'{word}' is not of the form key=value: {hint}") from None
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot read '{word}': {reason}; put quotes around the value: \"{_requote(word)}\"") from None


def _requote(word: str) -> str:
    key, _, value = word.partition("=")
    return f"{key}='{value}'"


def _check_choice(override: Override) -> None:
    """Raise if `group=choice` names a choice that does not exist."""
    group, choice = override.key_or_group, override.value()
    if override.is_delete() or override.is_hydra_override() or group not in groups() or choice is None:
        return
    for name in choice if isinstance(choice, list) else [choice]:
        if str(name) in choices(group):
            continue
        error = unknown(group, str(name), choices(group), most=20)
        if group == "model":
            error = UserError(f"{error} (model= takes a family, model.name= one of its networks)")
        raise error


def _check_keys(overrides: list[Override], config: str, *, multirun: bool) -> None:
    """Compose once, ahead of Hydra: raise for a key that the configuration lacks, or a run directory already used."""
    own = chosen(config)
    on_groups = [o for o in overrides if not o.is_hydra_override() and o.key_or_group in own]
    plain = [o for o in overrides if not o.is_hydra_override() and o.key_or_group not in own]
    base = _compose(config, [str(o.input_line) for o in on_groups])
    for override in plain:
        key = override.key_or_group
        if override.is_add() or override.is_force_add():
            parent, _, _ = key.rpartition(".")
            if not _has(base, key) and not any(f"{parent}.".startswith(f"{place}.") for place in OPEN):
                raise UserError(f"+{key}: nothing reads it there{_did_you_mean(key, base, config)}")
        elif not _has(base, key):
            if key.startswith("model.") and "model" not in base:
                raise UserError(f"{key}: no model is chosen: type its family as well, for example model=resnet")
            raise UserError(f"unknown key '{key}'{_did_you_mean(key, base, config)}")
    lines = [str(o.input_line) for o in on_groups + plain if not (multirun and o.is_sweep_override())]
    cfg = _compose(config, lines)
    missing = OmegaConf.missing_keys(cfg)
    if missing:
        name = sorted(missing)[0]
        raise UserError(f"{name} has no value: type {name}=...")
    typed = any(o.key_or_group == "run_dir" for o in plain)
    if typed and "LOCAL_RANK" not in os.environ:
        _check_run_dir(Path(cfg.run_dir), multirun=multirun)


def _check_run_dir(run_dir: Path, *, multirun: bool) -> None:
    """Raise unless a run can be written to `run_dir` without harm to what is there."""
    above = next(place for place in (run_dir.absolute(), *run_dir.absolute().parents) if place.exists())
    if not above.is_dir():
        raise UserError(f"run_dir={run_dir}: {above} is a file, not a directory")
    if not os.access(above, os.W_OK):
        raise UserError(f"run_dir={run_dir}: {above} cannot be written to")
    place = "*/" if multirun else ""
    finished = any(run_dir.glob(f"{place}metrics.json"))
    if finished or any(run_dir.glob(f"{place}checkpoints/*.ckpt")):
        state = "a finished run" if finished else "a run that did not finish"
        raise UserError(f"run_dir={run_dir} already holds {state}: name another run_dir, or delete it first")


def _compose(config: str, overrides: list[str]) -> DictConfig:
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose(config, overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise UserError(f"the configuration does not compose: {reason}") from error


def _has(cfg: DictConfig, key: str) -> bool:
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            return OmegaConf.is_list(node) and part.isdigit()
        node = node._get_node(part)
    return True


def _keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every key of the configuration, dotted; what an interpolation pulls in counts once, where it stands."""
    for name in map(str, cfg):
        node: Any = cfg._get_node(name)
        if not name.startswith("_"):
            yield f"{prefix}{name}"
            if isinstance(node, DictConfig) and not node._is_interpolation():
                yield from _keys(node, f"{prefix}{name}.")


def _did_you_mean(key: str, cfg: DictConfig, config: str) -> str:
    """The keys nearest to `key`: by the whole, or by the last part for one typed without its place (`lr`)."""

    def likeness(candidate: str) -> float:
        whole = SequenceMatcher(None, key, candidate).ratio()
        return max(whole, 0.85 * SequenceMatcher(None, key.split(".")[-1], candidate.split(".")[-1]).ratio())

    # a recipe is where defaults come from, not what people type
    candidates = {name for name in (*_keys(cfg), *chosen(config)) if ".recipe" not in name}
    best = sorted(candidates, key=lambda name: (-likeness(name), name))[:3]
    near = [name for name in best if likeness(name) >= max(0.65, likeness(best[0]) - 0.15)]
    return f": did you mean {', '.join(near)}?" if near else f"; python {config}.py --cfg job lists all keys"


def _help(text: str, config: str) -> str:
    """The job's own words, then the choices of every group, the default marked."""
    lines = [text.strip(), "", "Choices (* is what you get without typing any):"]
    for group, default in chosen(config).items():
        names = [f"*{name}" if name == default else name for name in choices(group)]
        lines += wrap("  ".join(names), 118, initial_indent=f"  {group:<11} ", subsequent_indent=" " * 14)
    return "\n".join(lines)
