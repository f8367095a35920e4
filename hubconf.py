"""The zoo through torch.hub: `torch.hub.load(<this directory>, "resnet50", source="local", num_classes=10)`.

The registry gives one entry point per model name. Of a repository on GitHub, `torch.hub.list("<owner>/cnnzoo")` lists
them, and `torch.hub.help("<owner>/cnnzoo", name)` returns the facts about a network. Neither takes a directory: for a
checkout, `cnnzoo.list_models()` and `cnnzoo.info(name)` give the same.
"""

import collections.abc

import torch

from cnnzoo import models
from cnnzoo.models import input_spec

dependencies = ["torch", "torchvision"]
# Only modules are imported: torch.hub would list an imported function or class as an entry point.


def _help_text(name: str) -> str:
    """The text that `torch.hub.help` prints."""
    facts = models.info(name)
    arxiv = "" if facts.paper.arxiv is None else f", arXiv {facts.paper.arxiv}"
    size, channels = facts.input_size, facts.in_channels
    lines = [
        f'{name}, from "{facts.paper.title}" ({facts.paper.year}{arxiv}).',
        "",
        f"(N, {channels}, {size}, {size}) images -> (N, {facts.num_classes}) logits, {facts.parameters:,} parameters.",
        f"Image size: {input_spec.size_range_text(*facts.sizes('native'))} pixels.",
    ]
    if facts.accuracy is not None:
        top5 = "" if facts.accuracy.top5 is None else f", top-5 {facts.accuracy.top5:.2%}"
        lines += ["", f"Published accuracy: top-1 {facts.accuracy.top1:.2%}{top5}", f"({facts.accuracy.source})."]
    weights = " or ".join(repr(member) for member in (*facts.weights, *(("DEFAULT",) if facts.weights else ())))
    stems = '"native"; the network has no small variant'
    if facts.small_min_size is not None:
        stems = f'"native" (as published) or "small" (for images of {facts.small_min_size} pixels or more)'
    lines += [
        "",
        f"num_classes: number of classes; None for that of a file, else {facts.num_classes}, of the paper's data set.",
        f"in_channels: number of image channels; None for that of a file, else 3; the paper's images have {channels}.",
        f"weights: None (random initialization), {weights + ', ' if weights else ''}or a local file.",
        f"stem: {stems}. None for that of a file, else native.",
        "overrides: further arguments of the network's constructor.",
    ]
    return "\n".join(lines)


def _entry_point(name: str) -> collections.abc.Callable[..., torch.nn.Module]:
    def build(
        *,
        num_classes: int | None = None,
        in_channels: int | None = None,
        weights: str | None = None,
        stem: str | None = None,
        **overrides: object,
    ) -> torch.nn.Module:
        return models.create_model(
            name, num_classes=num_classes, in_channels=in_channels, weights=weights, stem=stem, **overrides
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = _help_text(name)
    return build


globals().update({name: _entry_point(name) for name in models.list_models()})
