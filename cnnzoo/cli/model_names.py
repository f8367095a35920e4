"""The names of all networks, read from `conf/model/` because importing `cnnzoo.models` imports torch: seconds.

A test compares them with the registry.
"""

import re
from functools import cache

from omegaconf import DictConfig

from cnnzoo.errors import UserError, nearest, unknown
from cnnzoo.runtime.files import CONF

NETWORKS = re.compile(r"^# Networks: (.+(?:\n# .+)*)", re.MULTILINE)


@cache
def names_by_family() -> dict[str, tuple[str, ...]]:
    """The networks of each family: the names after `# Networks:` at the top of `conf/model/<family>.yaml`."""
    headers = {path.stem: NETWORKS.search(path.read_text("utf-8")) for path in sorted(CONF.glob("model/*.yaml"))}
    return {family: tuple(re.findall(r"\w+", header[1])) for family, header in headers.items() if header}


@cache
def family_by_name() -> dict[str, str]:
    """The family of each network, as `model=family model.name=network` selects it."""
    return {network: family for family, networks in names_by_family().items() for network in networks}


def check_model_name(model: DictConfig | None) -> None:
    """Raise UserError if `model.name` is no network of `model.family`; families of users are not checked.

    model: the configuration group `model`, None if none is chosen.
    """
    names, families = names_by_family(), family_by_name()
    if model is None or model.get("family") not in names or model.name in names[model.family]:
        return
    networks, name = names[model.family], str(model.name)
    if model.name in (None, ""):
        own = sorted(networks, key=lambda network: not network.startswith(model.family))[:4]
        raise UserError(f"model.name: expected a network of {model.family}: {', '.join(own)}, ...")
    if family := families.get(name.lower()):
        raise UserError(f"model.name={name}: type model={family} model.name={name.lower()}")
    if name in names:
        first = ", ".join(names[name][:3])
        raise UserError(f"model.name={name}: it is a family; type model={name}; its networks are {first}...")
    similar = nearest(name, families)
    if all(families[network] == model.family for network in similar):
        raise unknown("model", name, networks)
    options = [f"model={families[network]} model.name={network}" for network in similar]
    raise UserError(f"unknown model '{name}': did you mean {' or '.join(options)}?")
