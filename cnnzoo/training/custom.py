"""`model=custom`: a network of the user, built for the data of a run."""

import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from cnnzoo.data.datamodule import DataModule
from cnnzoo.data.loaders.progressive import progressive_size
from cnnzoo.models.custom import (
    CLASSES_ARGUMENTS,
    KEY,
    CustomInfo,
    build_custom,
    image_channels,
    load_custom_weights,
    read_custom_weights,
)
from cnnzoo.models.input_spec import InputSpec, resolve_input
from cnnzoo.models.output_check import check_output

log = logging.getLogger(__name__)

SIZE_HINT = "type another data.image_size, or HYDRA_FULL_ERROR=1 before the command for the traceback"
CLASSES_HINT = "; no argument tells it how many: type model.classes_argument=NAME"


def build_custom_network(cfg: DictConfig, data: DataModule) -> tuple[nn.Module, InputSpec]:
    """As `cnnzoo.training.train.build_network`, for a network of the user.

    Raises UserError if it cannot be built, or does not return logits for the images of `data`.
    """
    weights, found = cfg.weights, None
    if weights is not None:
        from cnnzoo.inference.hub import local_weights

        found = read_custom_weights(cfg.target, local_weights(weights, key="model.weights"))
    input_spec = resolve_input(
        CustomInfo(cfg.target),
        proposed_size=data.proposed_image_size,
        proposed_channels=data.proposed_channels,
        requested_size=data.requested_image_size,
        requested_channels=data.requested_channels,
        stem="native",
    )
    data.set_input(image_size=input_spec.image_size, channels=input_spec.channels)
    args: Any = OmegaConf.to_container(cfg.args, resolve=True)
    net = build_custom(
        cfg.target,
        args,
        name=cfg.name,
        num_classes=data.num_classes,
        in_channels=input_spec.channels,
        classes_argument=cfg.classes_argument,
        channels_argument=cfg.channels_argument,
    )
    sizes = [input_spec.image_size]
    if data.start_size is not None:
        sizes.append(progressive_size(0, 4, data.start_size, input_spec.image_size))
    arguments: dict[str, Any] = dict(net.arguments)  # type: ignore[arg-type]
    channels = image_channels(net)
    check_output(
        net,
        f"{KEY}={cfg.target}",
        [(input_spec.channels, *size) for size in sizes],
        data.num_classes,
        error_hint=SIZE_HINT if channels in (None, input_spec.channels) else f"type data.channels={channels}",
        classes_hint="" if set(CLASSES_ARGUMENTS) & arguments["args"].keys() else CLASSES_HINT,
    )
    if found is not None:
        load_custom_weights(net, found, source=f"model.weights={weights} for {cfg.target}")
    return net, input_spec
