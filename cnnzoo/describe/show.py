"""The tables that `describe.py` prints and the files that it writes."""

import re
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from cnnzoo.checks import check_int
from cnnzoo.describe.blocks import BLOCKS
from cnnzoo.describe.tables import LEGEND, layer_rows, layer_table, make_console, shape_text, write_csv, zoo_table
from cnnzoo.describe.trace import Layer, trace_copy, trace_layers
from cnnzoo.errors import UserError, unknown
from cnnzoo.models import Info, create_model, info, list_models
from cnnzoo.models.custom import DEFAULT_IMAGE_SIZE, KEY, build_custom, image_channels
from cnnzoo.models.factory import config_overrides
from cnnzoo.models.input_spec import resolve_input
from cnnzoo.models.output_check import check_output
from cnnzoo.runtime.command import job_command
from cnnzoo.sizes import Size, as_size, check_size

SMALL_IMAGE_SIZE = 32
"""Default image size of the small stem, in pixels."""


def show_network(cfg: DictConfig) -> None:
    """Print the network of `cfg.model` layer by layer, and write the table to `cfg.csv`.

    Raises `UserError` if the network cannot be built with these settings or does not accept the image size.
    """
    if "target" in cfg.model:
        show_custom_network(cfg)
        return
    facts = info(cfg.model.name)
    if facts.family != cfg.model.family:
        raise UserError(f"model.name={facts.name}: it is of the family {facts.family}; also type model={facts.family}")
    _reject_unused(cfg)
    if cfg.model.num_classes is not None:
        check_int("num_classes", cfg.model.num_classes, minimum=1, note=f"for {facts.name}")
    module, stem, input_shape = _build(cfg, facts)
    stem_text = f" ({stem} stem)" if facts.small_min_size else ""
    title = f"[bold]{facts.name}[/]{stem_text}: {facts.paper.title}, {facts.paper.year}"
    accuracy = facts.accuracy
    note = f"Published accuracy: top-1 {100 * accuracy.top1:.2f} % ({accuracy.source})." if accuracy else ""
    _print_layers(cfg, title, module, trace_layers(module, input_shape), input_shape, note)


def show_custom_network(cfg: DictConfig) -> None:
    """Print a network of the user layer by layer, and write the table to `cfg.csv`.

    Raises `UserError` if it cannot be built, if it does not accept the images, and if it cannot be traced.
    """
    _reject_unused(cfg)
    channels, model = _optional_int("channels", cfg.channels), cfg.model
    args: Any = OmegaConf.to_container(model.args, resolve=True)
    module = build_custom(
        model.target,
        args,
        name=model.name,
        num_classes=model.num_classes,
        in_channels=channels,
        classes_argument=model.classes_argument,
        channels_argument=model.channels_argument,
    )
    shape = channels or image_channels(module) or 3, *(_optional_size(cfg.image_size) or as_size(DEFAULT_IMAGE_SIZE))
    hint = "type another image_size or channels, or HYDRA_FULL_ERROR=1 before the command for the traceback"
    check_output(module, f"{KEY}={model.target}", [shape], model.num_classes, error_hint=hint)
    net = trace_copy(module, shape)
    if net is None:
        raise UserError(f"{KEY}={model.target}: its layers cannot be listed, because it reads the values of tensors")
    _print_layers(cfg, f"[bold]{model.target}[/]", module, net, shape)


def _print_layers(
    cfg: DictConfig, title: str, module: nn.Module, net: Layer, shape: tuple[int, ...], note: str = ""
) -> None:
    """Print the table of a traced network, and write it to `cfg.csv`; `note` follows the table."""
    depth = _resolve_depth(cfg.depth, net)
    if cfg.csv is not None:
        write_csv(Path(cfg.csv), layer_rows(net, depth))
    console = make_console()
    console.print(f"{title}\n")
    console.print(layer_table(net, shape, depth, console.width))
    console.print(f"\n{LEGEND}", style="dim")
    if depth < net.depth:
        console.print(f"{depth} of {net.depth} levels are shown (depth={depth}); depth=all shows all.", style="dim")
    unused = sum(p.numel() for p in module.parameters() if p.requires_grad) - net.parameters
    if unused:
        console.print(
            f"Not in the table: {_unused_modules(module, net)}; {unused:,} parameters, used in training only."
        )
    if note:
        console.print(note, markup=False)
    if cfg.csv is not None:
        console.print(f"Wrote {cfg.csv}", markup=False, soft_wrap=True)


def show_block(cfg: DictConfig) -> None:
    """Print the two blocks of the comparison `cfg.block` layer by layer, and the ratio of their costs."""
    if cfg.block not in BLOCKS:
        raise unknown("block", str(cfg.block), BLOCKS)
    unused = {"model": cfg.get("model"), "csv": cfg.csv, "picture": cfg.picture}
    unused["depth"] = None if cfg.depth == "auto" else cfg.depth
    for key, value in unused.items():
        if value is not None:
            raise UserError(f"{key} and block={cfg.block} cannot be combined: leave one out")
    comparison = BLOCKS[cfg.block]
    channels = _optional_int("channels", cfg.channels) or comparison.channels
    shape = channels, *(_optional_size(cfg.image_size) or as_size(comparison.image_size))
    if channels % comparison.channels_multiple:
        raise UserError(f"channels={channels}: block={cfg.block} expects a multiple of {comparison.channels_multiple}")
    console = make_console()
    console.print(f"[bold]{comparison.question}[/]")
    blocks = {}
    for name, build in comparison.blocks.items():
        with torch.device("meta"):
            block = blocks[name] = trace_layers(build(channels), shape)
        console.print(f"\n[bold]{name}[/]")
        console.print(layer_table(block, shape, block.depth, console.width))
    (first_name, first), (second_name, second) = blocks.items()
    macs, parameters = first.multiply_accumulates / second.multiply_accumulates, first.parameters / second.parameters
    shapes = ""
    if first.shape != second.shape:
        shapes = f"; the outputs are {shape_text(first.shape)} and {shape_text(second.shape)}"
    console.print(
        f"\n{first_name} : {second_name} = {macs:.2f} in multiply-accumulates, {parameters:.2f} in parameters{shapes}."
    )
    if comparison.note:
        console.print(comparison.note)
    console.print(LEGEND, style="dim")


def show_zoo(cfg: DictConfig) -> None:
    """Print the table of all networks, write it to `cfg.csv`, and write the bubble chart to `cfg.picture`."""
    for key in ("image_size", "channels"):
        if cfg[key] is not None:
            raise UserError(f"{key}={cfg[key]}: used only with a network or a block; also type model=... or block=...")
    if cfg.depth != "auto":
        raise UserError(f"depth={cfg.depth}: used only with a network; also type model=...")
    rows = zoo_rows()
    if cfg.csv is not None:
        write_csv(Path(cfg.csv), rows)
    console = make_console()
    console.print(zoo_table(rows, console.width))
    console.print(
        f"\n{len(rows)} networks. The layers of one: {job_command('describe')} model=resnet model.name=resnet50",
        style="dim",
    )
    if cfg.csv is not None:
        console.print(f"Wrote {cfg.csv}", markup=False, soft_wrap=True)
    if cfg.picture is not None:  # last: without matplotlib it ends in an error
        from cnnzoo.describe.bubble_chart import save_chart  # imported here because it is seldom needed

        save_chart(Path(cfg.picture), rows)
        console.print(f"Wrote {cfg.picture}", markup=False, soft_wrap=True)


def zoo_rows() -> list[dict[str, Any]]:
    """One row of facts for each registered network."""
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
    """Shorten the source of an accuracy to the data set and the crops, such as `ImageNet 10-crop`."""
    dataset = re.search(r"ImageNet|CIFAR-100|CIFAR-10|MNIST", source)
    crops = re.search(r"(one|single|cent(?:er|re)|ten|\d+)[- ](?:\w+[- ])?crops?", source)
    parts = [dataset[0] if dataset else source]
    if crops:
        number = {"one": "1", "single": "1", "center": "1", "centre": "1", "ten": "10"}.get(crops[1], crops[1])
        parts.append(f"{number}-crop")
    elif "whole image" in source:
        parts.append("whole")
    return " ".join(parts)


def _count_multiply_accumulates(facts: Info) -> int:
    """Count the multiply-accumulates of a network whose facts do not have the number."""
    with torch.device("meta"):
        net = create_model(facts.name, in_channels=facts.in_channels)
    return trace_layers(net, (facts.in_channels, facts.input_size, facts.input_size)).multiply_accumulates


def _build(cfg: DictConfig, facts: Info) -> tuple[nn.Module, str, tuple[int, int, int]]:
    """Build the network on the meta device; returns it with its stem and the shape of its input, (C, H, W)."""
    small = cfg.model.stem == "small" and facts.small_min_size is not None
    input_spec = resolve_input(
        facts,
        proposed_size=SMALL_IMAGE_SIZE if small else facts.input_size,
        proposed_channels=facts.in_channels,
        requested_size=_optional_size(cfg.image_size),
        requested_channels=_optional_int("channels", cfg.channels),
        stem=cfg.model.stem,
        key="image_size",
    )
    if not isinstance(cfg.model.args, DictConfig):
        raise UserError(f"model.args={cfg.model.args}: expected a group of keys; type +model.args.<name>=<value>")
    args = OmegaConf.to_container(cfg.model.args, resolve=True)
    assert isinstance(args, dict)
    with torch.device("meta"):
        net = create_model(
            facts.name,
            num_classes=cfg.model.num_classes,
            in_channels=input_spec.channels,
            stem=input_spec.stem,
            **config_overrides(args),
        )
    return net, input_spec.stem, (input_spec.channels, *input_spec.image_size)


def _reject_unused(cfg: DictConfig) -> None:
    for key, value in (("picture", cfg.picture), ("model.weights", cfg.model.weights)):
        if value is not None:
            raise UserError(f"{key}={value}: not used for the table of a network; leave it out")


def _optional_int(key: str, value: Any) -> int | None:
    return None if value is None else check_int(key, value, minimum=1)


def _optional_size(value: Any) -> Size | None:
    return None if value is None else check_size("image_size", value)


def _resolve_depth(value: Any, net: Layer) -> int:
    """The number of levels of modules to show, for `depth=auto`, `depth=all` or a number."""
    if value == "auto":
        return net.auto_depth()
    if value == "all":
        return net.depth
    return min(check_int("depth", value, minimum=1, note="(levels of modules), all or auto"), net.depth)


def _unused_modules(module: nn.Module, net: Layer) -> str:
    """The outermost modules with parameters that were not called, separated by commas."""
    called = {layer.name for layer in net.walk()}
    unused: list[str] = []
    for path, submodule in module.named_modules():
        inside_unused = any(path.startswith(f"{outer}.") for outer in unused)
        has_parameters = any(True for _ in submodule.parameters())
        if not inside_unused and has_parameters and not any(f"{name}.".startswith(f"{path}.") for name in called):
            unused.append(path)
    return ", ".join(path for path in unused if path)
