"""The data sets and augmentations by name: their settings are in the configuration, `conf/data` and `conf/augment`."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import yaml

from cnnzoo.data.transforms.augment import Augment
from cnnzoo.errors import unknown
from cnnzoo.runtime.files import CONF


def named_augment(name: str) -> Augment:
    """The augmentation that `augment=name` selects in the jobs. Raises UserError for an unknown name."""
    return Augment(**_values(_read("augment", _check_name("augment", name))))


def named_source(name: str) -> tuple[Callable[..., Any], str]:
    """The class of the data set that `data=name` selects in the jobs, and the name of its augmentation.

    The class is bound to its settings in the configuration. Raises UserError for an unknown name.
    """
    settings = _read("data", _check_name("data", name))
    module, _, attribute = settings["source"].pop("_target_").rpartition(".")
    source = partial(getattr(import_module(module), attribute), **_values(settings["source"]))
    return source, settings["override /augment@_group_"]


def _check_name(group: str, name: str) -> str:
    names = sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))
    if name not in names:
        raise unknown(group, name, names, limit=len(names))
    return name


def _read(group: str, name: str) -> dict[str, Any]:
    """The settings in `group/name.yaml`, on top of those in the files that its defaults list names.

    Entries of the defaults list that select a file of another group are settings, too.
    """
    own: dict[str, Any] = yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))
    settings: dict[str, Any] = {}
    for default in own.pop("defaults", []):
        settings |= _read(group, default) if isinstance(default, str) else default
    return settings | own


def _values(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without those of Hydra, references to other settings, and values that must be given."""
    return {
        name: value
        for name, value in settings.items()
        if not name.startswith("_") and value != "???" and not str(value).startswith("${")
    }
