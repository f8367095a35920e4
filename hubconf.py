"""The zoo through torch.hub: `torch.hub.load(<this directory>, "resnet50", source="local", num_classes=10)`.

One entry point per name, made from the registry; `torch.hub.list` names them, `torch.hub.help` tells a network's facts.
"""

import collections.abc

import torch

from cnnzoo import models

dependencies = ["torch", "torchvision"]
# nothing is imported here by its own name: torch.hub lists whatever can be called


def _facts(name: str) -> str:
    """What `torch.hub.help` prints."""
    facts = models.info(name)
    arxiv = "" if facts.paper.arxiv is None else f", arXiv {facts.paper.arxiv}"
    side, channels = facts.input_size, facts.in_channels
    low, high = facts.sizes("native")
    takes = f"exactly {low}" if low == high else f"{low} or more" if high is None else f"{low} to {high}"
    lines = [
        f'{name}, of "{facts.paper.title}" ({facts.paper.year}{arxiv}).',
        "",
        f"(N, {channels}, {side}, {side}) images -> (N, {facts.num_classes}) logits, {facts.parameters:,} parameters.",
        f"It takes images of {takes} pixels a side.",
    ]
    if facts.accuracy is not None:
        top5 = "" if facts.accuracy.top5 is None else f", top-5 {facts.accuracy.top5:.2%}"
        lines += ["", f"Published: top-1 {facts.accuracy.top1:.2%}{top5}", f"({facts.accuracy.source})."]
    weights = " or ".join(repr(member) for member in (*facts.weights, *(("DEFAULT",) if facts.weights else ())))
    forms = '"native"; the network has one form'
    if facts.small_min_size is not None:
        forms = f'"native", the paper\'s, or "small", for images of {facts.small_min_size} pixels or more'
    lines += [
        "",
        f"num_classes: None for the {facts.num_classes} of the paper's data set.",
        f"in_channels: of the images; the paper's have {channels}.",
        f"weights: None (from scratch), {weights + ', ' if weights else ''}or a local file.",
        f"stem: {forms}.",
        "overrides: further arguments of the network's constructor.",
    ]
    return "\n".join(lines)


def _entry_point(name: str) -> collections.abc.Callable[..., torch.nn.Module]:
    def build(
        *,
        num_classes: int | None = None,
        in_channels: int = 3,
        weights: str | None = None,
        stem: str = "native",
        **overrides: object,
    ) -> torch.nn.Module:
        return models.create_model(
            name, num_classes=num_classes, in_channels=in_channels, weights=weights, stem=stem, **overrides
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = _facts(name)
    return build


globals().update({name: _entry_point(name) for name in models.list_models()})
