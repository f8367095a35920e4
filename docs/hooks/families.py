"""The pages of the families, made from `cnnzoo.info`, the docstrings of their modules and the recipes in conf/."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from inspect import getdoc
from pathlib import Path

import torch
from drawing import draw
from torch import nn

from cnnzoo import cli, create_model, info, list_models
from cnnzoo.describe.tables import layer_rows
from cnnzoo.describe.trace import trace_layers
from cnnzoo.models.registry import Info, get_entry

ROOT = Path(__file__).parents[2]
Recipes = dict[str, list[list[str]]]


def family_pages() -> dict[str, tuple[str, str]]:
    """For each family, the title of its page and its Markdown."""
    recipes = _recipes()
    results = _results()
    families = {name: list_models(family=name) for name in dict.fromkeys(info(n).family for n in list_models())}
    return {name: _page(name, names, recipes, results) for name, names in families.items()}


def _page(family: str, names: list[str], recipes: Recipes, results: dict[str, list[str]]) -> tuple[str, str]:
    default = info(cli.compose("train", [f"model={family}"]).model.name)
    modules = dict.fromkeys(_module(info(name)) for name in [default.name, *names])
    facts = sorted((info(name) for name in names), key=lambda fact: _module(fact) != _module(default))
    first, *others = [(getdoc(sys.modules[module]) or "").split("\n\n") for module in modules]
    title = first[0].split(",")[0]
    papers = dict.fromkeys(fact.paper for fact in facts)
    with torch.device("meta"):
        net = create_model(default.name, in_channels=default.in_channels).eval()
    sections = [
        f"# {title}",
        *first[1:2],
        "\n".join(f"- {_link(paper.title, paper.arxiv)}, {paper.year}" for paper in papers),
        *_drawing(net, default.name),
        "## Networks",
        _table(["name", "parameters", "operations", "size", "published top-1", "weights"], map(_facts, facts)),
        "Operations are the multiply-accumulates of convolutions and linear layers for one image of this size. "
        "Weights are torchvision's, for `model.weights=`.",
        "## Train it",
        f"```bash\npython train.py model={family}\n```",
        f"trains `{default.name}` on the digits. `data=...` selects [other images](../data.md#data-sets), and "
        "`model.name=...` another network of the table.",
        *([_table(["recipe", "what it is"], recipes[family])] if family in recipes else []),
        "## What it reached here",
        *_reached(default.name, results.get(family)),
        f"## The layers of {default.name}",
        _layers(net, default),
        f"`python describe.py model={family} model.name=...` prints those of any network ([Describe](../describe.md)).",
        "## The paper and this code",
        *first[2:],
        *(paragraph for paragraphs in others for paragraph in paragraphs),
    ]
    return title, "\n\n".join(sections) + "\n"


def _module(facts: Info) -> str:
    return get_entry(facts.name).network.__module__


def _drawing(net: nn.Module, name: str) -> list[str]:
    block = block_of(net)
    text = f"The block `{type(block).__name__}` of `{name}`." if block else f"The layers of `{name}`."
    heading = "## Its block" if block else "## Its layers"
    return [
        heading,
        draw(block or net, text.replace("`", "")),
        f"{text} Convolutions and pools: kernel, /stride, p padding, g groups, output channels.",
    ]


def _reached(name: str, result: list[str] | None) -> list[str]:
    if result is None:
        return ["It was not measured yet."]
    return [
        _table(["network", "data", "test accuracy", "seconds"], [[f"`{name}`", "digits", *result]]),
        "This was on two CPU cores without a GPU ([Networks](../index.md#networks)). The row of a recipe says what the "
        "recipe reached.",
    ]


def _layers(net: nn.Module, facts: Info) -> str:
    layers = trace_layers(net, (facts.in_channels, facts.input_size, facts.input_size))
    rows = [
        [
            f"`{row['layer']}`",
            row["kind"],
            row["output"],
            f"{row['parameters']:,}",
            _millions(row["multiply_accumulates"]),
        ]
        for row in layer_rows(layers, layers.auto_depth())
    ]
    return _table(["layer", "kind", "output", "parameters", "operations"], rows)


def block_of(net: nn.Module) -> nn.Module | None:
    """The largest block that a network repeats, in its simplest form; None for a network without such a block."""
    blocks: dict[type, list[nn.Module]] = {}
    for module in net.modules():
        if module is not net and type(module).__module__.startswith("cnnzoo.models."):
            blocks.setdefault(type(module), []).append(module)
    repeated = [min(modules, key=_num_modules) for modules in blocks.values() if len(modules) > 1]
    return max(repeated, key=_num_modules, default=None)


def _num_modules(module: nn.Module) -> int:
    return sum(1 for _ in module.modules())


def _facts(facts: Info) -> list[str]:
    accuracy = f"{100 * facts.accuracy.top1:.2f} % ({facts.accuracy.source})" if facts.accuracy else ""
    size = f"{facts.input_size}" + ("" if facts.in_channels == 3 else ", gray")
    operations = "" if facts.multiply_accumulates is None else _millions(facts.multiply_accumulates)
    return [f"`{facts.name}`", f"{facts.parameters:,}", operations, size, accuracy, ", ".join(facts.weights)]


def _millions(number: int) -> str:
    return f"{number / 1e6:,.1f} M" if number else ""


def _link(text: str, arxiv: str | None) -> str:
    return f"[{text}](https://arxiv.org/abs/{arxiv})" if arxiv else text


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _recipes() -> Recipes:
    """For each family, its recipes in conf/experiment/: the command, and the comment at the top of the file."""
    recipes: Recipes = {}
    for path in sorted((ROOT / "conf/experiment").glob("*.yaml")):
        header = re.match(r"# @package _global_\n((?:#.*\n)+)", path.read_text())
        lines = [line.lstrip("# ").strip() for line in header[1].splitlines()] if header else []
        command, *_ = [line for line in lines if line.startswith("python train.py")]
        if " model=" in command:  # for any family
            continue
        text = " ".join(line for line in lines if not line.startswith("python train.py")).replace(" Cost:", ". Cost:")
        cfg = cli.compose("train", [f"experiment={path.stem}", "data.root=DIR"])
        recipes.setdefault(cfg.model.family, []).append([f"`{command}`", text])
    return recipes


def _results() -> dict[str, list[str]]:
    """For each family, test accuracy and seconds of its default network, from the table of README.md."""
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+) \| ([\d,]+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    return {family: [accuracy, seconds] for family, accuracy, seconds in rows}
