"""`create_model` with the preprocessing and the class names of the weights."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from torch import nn

from cnnzoo import models
from cnnzoo.data import Preprocess
from cnnzoo.data.transforms.pixel_format import PLAIN_CHANNELS
from cnnzoo.data.transforms.preprocess import per_channel
from cnnzoo.inference.hub import local_weights
from cnnzoo.models.custom import size_limits
from cnnzoo.models.network import Network

if TYPE_CHECKING:
    from cnnzoo.models.features import FeatureNetwork

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MIN_CROPPED_SIZE = 64
"""The smallest image size for which evaluation is assumed to crop the center, as for ImageNet."""
SMALL_STEM_SIZE = 32
"""The image size that is assumed for the small stem: that of CIFAR."""

log = logging.getLogger(__name__)


@overload
def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | Path | None = None,
    stem: Literal["native", "small"] | None = None,
    features_only: Literal[False] = False,
    out_indices: None = None,
    **overrides: Any,
) -> Network: ...


@overload
def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | Path | None = None,
    stem: Literal["native", "small"] | None = None,
    features_only: Literal[True],
    out_indices: Sequence[int] | None = None,
    **overrides: Any,
) -> "FeatureNetwork": ...


@overload
def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | Path | None = None,
    stem: Literal["native", "small"] | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    **overrides: Any,
) -> "Network | FeatureNetwork": ...


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | Path | None = None,
    stem: Literal["native", "small"] | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    **overrides: Any,
) -> "Network | FeatureNetwork":
    """Build the network `name`: (N, in_channels, H, W) float -> (N, num_classes) logits.

    num_classes: None for that of the weights file, else of the paper's data set; 0 for a network without classes,
        (N, in_channels, H, W) -> (N, num_features), the input of its last layer.
    in_channels: None for that of the weights file, else 3.
    weights: None (random initialization), a member of torchvision's weights enum for this network ("IMAGENET1K_V1",
        "DEFAULT"), a local file (.pth, .pt, .safetensors, or a .ckpt of a run), or "hf://USER/REPO[@REVISION]", a
        repository on the Hugging Face Hub that the job share wrote. Nothing but tensors and plain types is unpickled.
    stem: "native" for the published network, or "small" for the family's variant for small images. A network without
        a small variant accepts both values. None for that of a file of cnnzoo, else "native".
    features_only: return a `cnnzoo.models.features.FeatureNetwork`, whose output is a list of feature maps.
    out_indices: with `features_only`, which of the maps it returns; None for all.
    overrides: further arguments of the network's constructor, such as `dropout=0.2`. A file of cnnzoo provides those
        that it was saved with.

    The network has an attribute `arguments`: `create_model(**net.arguments)` builds it again, without its weights. With
    `weights`, it has further attributes:

    - `preprocess`, a `cnnzoo.data.Preprocess`, turns an image (a path, a Pillow image or uint8 pixels) into the input
      on which the weights were evaluated. For other `in_channels`, the mean and the standard deviation are averaged or
      repeated. For other numbers than 1 and 3, there is a `preprocess` only if the weights are for as many channels.
    - `classes` is a tuple with the names of the outputs. A network whose head was replaced, because `num_classes` is
      not that of the weights, has no `classes`: set them yourself. Nor has one without classes.
    - `thresholds`, of a multi-label network: an image belongs to each class whose probability, the sigmoid of the
      output, is at least its threshold.
    - `replaced_parameters` lists the parameters of a replaced head, which stay random.

    A file that another program wrote holds neither preprocessing nor class names. Then a warning says what is assumed:
    ImageNet's mean and standard deviation, the image size of the paper, and the class names "0", "1", and so on.

    Raises `UserError` for an unknown name, stem, weights or override, for a value that a layer rejects, and for weights
    that do not fit the network.

    Example: classify a photograph.

        net = cnnzoo.create_model("resnet50", weights="DEFAULT").eval()
        logits = net(net.preprocess("cat.jpg")[None])
        print(net.classes[logits.argmax()])
    """
    file = None if weights is None else local_weights(weights, key="weights")
    net = models.create_model(
        name,
        num_classes=num_classes,
        in_channels=in_channels,
        weights=file,
        stem=stem,
        features_only=features_only,
        out_indices=out_indices,
        **overrides,
    )
    if weights is not None:
        attach_info(net, net.weights_info, source=f"weights={weights}")
    return net


def attach_info(net: nn.Module, known: Mapping[str, Any], *, source: str) -> None:
    """Set `preprocess`, `classes` and `thresholds` of `net` from what is known about its weights; log assumptions.

    net: built by `models.create_model`.
    known: the entries "preprocess", "classes" and "thresholds", as in `net.weights_info`; each may be missing.
    source: where the weights come from, for the log.
    """
    arguments: dict[str, Any] = dict(net.arguments)  # type: ignore[arg-type]
    channels = arguments["in_channels"]
    assumed: dict[str, str] = {}
    settings = known.get("preprocess")
    known_channels = 3 if settings is None else settings["channels"]
    if channels == known_channels or {channels, known_channels} <= set(PLAIN_CHANNELS):
        if settings is None:
            settings = _assumed_preprocess(arguments)
            assumed["preprocessing"] = "{image_size} x {image_size} pixels, mean {mean}, std {std}".format(**settings)
        mean, std = (per_channel(field, settings[field], channels) for field in ("mean", "std"))
        net.preprocess = Preprocess(**{**settings, "channels": channels, "mean": mean, "std": std})  # type: ignore[assignment]
    if "classes" in known:
        net.classes = tuple(known["classes"])  # type: ignore[assignment]
    elif arguments["num_classes"] and not getattr(net, "replaced_parameters", ()):
        net.classes = tuple(map(str, range(arguments["num_classes"])))  # type: ignore[assignment]
        assumed["class names"] = f"0 to {arguments['num_classes'] - 1}"
    if known.get("thresholds") is not None:
        net.thresholds = tuple(known["thresholds"])  # type: ignore[assignment]
    if assumed:
        values = "; ".join(f"{what}: {value}" for what, value in assumed.items())
        log.warning("%s: holds no %s; assumed %s", source, " and no ".join(assumed), values)


def _assumed_preprocess(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Preprocess` for weights of which nothing is known: ImageNet's, at the network's image size."""
    facts, stem = size_limits(arguments), arguments.get("stem", "native")
    size = facts.input_size if stem == "native" else max(facts.sizes(stem)[0], SMALL_STEM_SIZE)
    eval_resize = 256 / 224 if size >= MIN_CROPPED_SIZE else 1.0
    return {"image_size": size, "eval_resize": eval_resize, "channels": 3, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
