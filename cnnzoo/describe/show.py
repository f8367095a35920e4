"""What `describe.py` prints and writes."""

import re
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from cnnzoo.describe.blocks import BLOCKS
from cnnzoo.describe.tables import LEGEND, console, layer_rows, layer_table, shape_text, write_csv, zoo_table
from cnnzoo.describe.trace import Layer, trace_layers
from cnnzoo.errors import UserError, unknown
from cnnzoo.models import Info, create_model, info, list_models
from cnnzoo.models.input_spec import resolve_input

SMALL_IMAGE_SIZE = 32
"""Side of the image that a small form is shown, where none is typed and the form takes it."""


def show_network(cfg: DictConfig) -> None:
    """Print the network of `cfg.model` layer by layer, and write the table to `cfg.csv`.

    Raises `UserError` for what the network can't be built with, or run on.
    """
    facts = info(cfg.model.name)
    if facts.family != cfg.model.family:
        raise UserError(f"model.name={facts.name} is of the family {facts.family}: type model={facts.family} as well")
    for key, value in (("picture", cfg.picture), ("model.weights", cfg.model.weights)):
        if value is not None:
            raise UserError(f"{key}={value}: has no part in the table of a network; leave it out")
    net, stem, given = _build(cfg, facts)
    whole = trace_layers(net, given)
    depth = _depth(cfg.depth, whole)
    form = f" ({stem} stem)" if facts.small_min_size else ""
    if cfg.csv is not None:
        write_csv(Path(cfg.csv), layer_rows(whole, depth))
    out = console()
    out.print(f"[bold]{facts.name}[/]{form}: {facts.paper.title}, {facts.paper.year}\n")
    out.print(layer_table(whole, given, depth, out.width))
    out.print(f"\n{LEGEND}", style="dim")
    if depth < whole.depth:
        out.print(f"{depth} of {whole.depth} levels are opened (depth={depth}); depth=all opens the rest.", style="dim")
    idle = sum(p.numel() for p in net.parameters() if p.requires_grad) - whole.parameters
    if idle:
        out.print(f"Not in the table: {_unused_modules(net, whole)} with {idle:,} parameters, in use in training only.")
    if facts.accuracy:
        out.print(f"Published: top-1 {100 * facts.accuracy.top1:.2f} % ({facts.accuracy.source}).", markup=False)
    if cfg.csv is not None:
        out.print(f"Written: {cfg.csv}", markup=False, soft_wrap=True)


def show_block(cfg: DictConfig) -> None:
    """Print the two blocks that `cfg.block` names, layer by layer, and what one costs in terms of the other."""
    if cfg.block not in BLOCKS:
        raise unknown("block", str(cfg.block), BLOCKS)
    for key, value in (("model", cfg.get("model")), ("csv", cfg.csv), ("picture", cfg.picture)):
        if value is not None:
            raise UserError(f"{key} and block={cfg.block} do not go together: leave one out")
    question = BLOCKS[cfg.block]
    channels = _positive_int("channels", cfg.channels) or question.channels
    size = _positive_int("image_size", cfg.image_size) or question.image_size
    if channels % question.multiple:
        raise UserError(f"channels={channels}: block={cfg.block} takes a multiple of {question.multiple}")
    out = console()
    out.print(f"[bold]{question.text}[/]")
    wholes = {}
    for name, build in question.answers.items():
        with torch.device("meta"):
            whole = wholes[name] = trace_layers(build(channels), (channels, size, size))
        out.print(f"\n[bold]{name}[/]")
        out.print(layer_table(whole, (channels, size, size), whole.depth, out.width))
    (first, one), (second, other) = wholes.items()
    macs, parameters = one.multiply_accumulates / other.multiply_accumulates, one.parameters / other.parameters
    shapes = f"; {shape_text(one.shape)} and {shape_text(other.shape)} come out" if one.shape != other.shape else ""
    out.print(f"\n{first} : {second} = {macs:.2f} in multiply-accumulates, {parameters:.2f} in parameters{shapes}.")
    if question.note:
        out.print(question.note)
    out.print(LEGEND, style="dim")


def show_zoo(cfg: DictConfig) -> None:
    """Print the whole zoo; write it to `cfg.csv`, and draw it as `cfg.picture`."""
    for key in ("image_size", "channels"):
        if cfg[key] is not None:
            raise UserError(f"{key}={cfg[key]}: needs a network or a block; type model=... or block=...")
    rows = zoo_rows()
    if cfg.picture is not None:
        from cnnzoo.describe.bubble_chart import save_chart  # here: matplotlib is an extra

        save_chart(Path(cfg.picture), rows)
    if cfg.csv is not None:
        write_csv(Path(cfg.csv), rows)
    out = console()
    out.print(zoo_table(rows, out.width))
    out.print(
        f"\n{len(rows)} networks. Of one, layer by layer: python describe.py model=resnet model.name=resnet50",
        style="dim",
    )
    for path in (cfg.csv, cfg.picture):
        if path is not None:
            out.print(f"Written: {path}", markup=False, soft_wrap=True)


def zoo_rows() -> list[dict[str, Any]]:
    """The facts of every name, for a table."""
    return [
        {
            "name": name,
            "family": facts.family,
            "year": facts.paper.year,
            "in_channels": facts.in_channels,
            "input_size": facts.input_size,
            "parameters": facts.parameters,
            "multiply_accumulates": facts.multiply_accumulates or _count_multiply_accumulates(facts),
            "top1": facts.accuracy.top1 if facts.accuracy else None,
            "top5": facts.accuracy.top5 if facts.accuracy else None,
            "measured_on": dataset_and_crops(facts.accuracy.source) if facts.accuracy else "",
            "source": facts.accuracy.source if facts.accuracy else "",
            "torchvision_weights": " ".join(facts.weights),
        }
        for name in list_models()
        for facts in (info(name),)
    ]


def dataset_and_crops(source: str) -> str:
    """An accuracy's source in short, the data set and how an image was cropped: `ImageNet 10-crop`."""
    data = re.search(r"ImageNet|CIFAR-100|CIFAR-10|MNIST", source)
    crops = re.search(r"(one|single|cent(?:er|re)|ten|\d+)[- ](?:\w+[- ])?crops?", source)
    parts = [data[0] if data else source]
    if crops:
        number = {"one": "1", "single": "1", "center": "1", "centre": "1", "ten": "10"}.get(crops[1], crops[1])
        parts.append(f"{number}-crop")
    elif "whole image" in source:
        parts.append("whole")
    return " ".join(parts)


def _count_multiply_accumulates(facts: Info) -> int:
    """The multiply-accumulates of a network for which nobody published them."""
    with torch.device("meta"):
        net = create_model(facts.name, in_channels=facts.in_channels)
    return trace_layers(net, (facts.in_channels, facts.input_size, facts.input_size)).multiply_accumulates


def _build(cfg: DictConfig, facts: Info) -> tuple[nn.Module, str, tuple[int, int, int]]:
    """The network on the meta device, its stem, and the shape of the image that it is shown."""
    small = cfg.model.stem == "small" and facts.small_min_size is not None
    input_spec = resolve_input(
        facts,
        proposed_size=SMALL_IMAGE_SIZE if small else facts.input_size,
        proposed_channels=facts.in_channels,
        requested_size=_positive_int("image_size", cfg.image_size),
        requested_channels=_positive_int("channels", cfg.channels),
        stem=cfg.model.stem,
        key="image_size",
    )
    args = OmegaConf.to_container(cfg.model.args, resolve=True)
    assert isinstance(args, dict)
    try:
        with torch.device("meta"):
            net = create_model(
                facts.name,
                num_classes=cfg.model.num_classes,
                in_channels=input_spec.channels,
                stem=input_spec.stem,
                **{str(name): value for name, value in args.items()},
            )
    except (TypeError, ValueError) as error:  # a value of model.args that the network's layers refuse
        raise UserError(f"model.args={args}: {error}") from error
    return net, input_spec.stem, (input_spec.channels, input_spec.image_size, input_spec.image_size)


def _positive_int(key: str, value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise UserError(f"{key}={value}: a whole number of 1 or more")


def _depth(value: Any, whole: Layer) -> int:
    """How many levels of modules to open."""
    if value == "auto":
        return whole.page()
    if value == "all":
        return whole.depth
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"depth={value}: a number of levels of 1 or more, all, or auto")
    return min(value, whole.depth)


def _unused_modules(net: nn.Module, whole: Layer) -> str:
    """The modules with parameters that did not run, of those within each other the outermost."""
    ran = {layer.name for layer in whole.every()}
    idle: list[str] = []
    for path, module in net.named_modules():
        inside = any(path.startswith(f"{above}.") for above in idle)
        if (
            not inside
            and any(True for _ in module.parameters())
            and not any(f"{n}.".startswith(f"{path}.") for n in ran)
        ):
            idle.append(path)
    return ", ".join(path for path in idle if path)
