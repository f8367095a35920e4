"""The names of all networks, read from `conf/model/` because importing `cnnzoo.models` imports torch: seconds.

A test compares them with the registry.
"""

import re

from omegaconf import DictConfig

from cnnzoo.errors import UserError, nearest, unknown
from cnnzoo.runtime.files import CONF

NETWORKS = re.compile(r"^# Networks: (.+(?:\n# .+)*)", re.MULTILINE)


def _read_networks() -> dict[str, tuple[str, ...]]:
    """The networks of each family: the names after `# Networks:` at the top of `conf/model/<family>.yaml`."""
    headers = {path.stem: NETWORKS.search(path.read_text("utf-8")) for path in sorted(CONF.glob("model/*.yaml"))}
    return {family: tuple(re.findall(r"\w+", header[1])) for family, header in headers.items() if header}


MODEL_NAMES = _read_networks()
"""Family -> its networks, as `model=family model.name=network` selects them."""
FAMILIES = {network: family for family, networks in MODEL_NAMES.items() for network in networks}
"""Network -> its family."""


def check_model_name(model: DictConfig | None) -> None:
    """Raise UserError if `model.name` is no network of `model.family`; families of users are not checked.

    model: the configuration group `model`, None if none is chosen.
    """
    if model is None or model.get("family") not in MODEL_NAMES or model.name in MODEL_NAMES[model.family]:
        return
    networks, name = MODEL_NAMES[model.family], str(model.name)
    if model.name in (None, ""):
        first = sorted(networks, key=lambda network: not network.startswith(model.family))[:4]
        raise UserError(f"model.name: expected a network of {model.family}: {', '.join(first)}, ...")
    if family := FAMILIES.get(name.lower()):
        raise UserError(f"model.name={name}: type model={family} model.name={name.lower()}")
    if name in MODEL_NAMES:
        names = ", ".join(MODEL_NAMES[name][:3])
        raise UserError(f"model.name={name}: it is a family; type model={name}; its networks are {names}...")
    similar = nearest(name, FAMILIES)
    if all(FAMILIES[network] == model.family for network in similar):
        raise unknown("model", name, networks)
    options = [f"model={FAMILIES[network]} model.name={network}" for network in similar]
    raise UserError(f"unknown model '{name}': did you mean {' or '.join(options)}?")
