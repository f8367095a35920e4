"""The network of `model=...` for the benchmarks without images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from cnnzoo.errors import UserError
from cnnzoo.models import create_model, info
from cnnzoo.models.custom import DEFAULT_IMAGE_SIZE, build_custom, image_channels, is_custom, rebuild_custom
from cnnzoo.models.factory import config_overrides
from cnnzoo.models.input_spec import InputSpec, resolve_input
from cnnzoo.sizes import Size, as_size, check_size, size_text


@dataclass(frozen=True)
class BenchmarkNetwork:
    """A network with random weights, in evaluation mode on the CPU, and its input."""

    name: str
    net: nn.Module
    input_spec: InputSpec

    @property
    def image_size(self) -> Size:
        """Height and width in pixels."""
        return self.input_spec.image_size

    @property
    def text(self) -> str:
        """`resnet18, 224 x 224 pixels`."""
        stem = " (small stem)" if self.input_spec.stem == "small" else ""
        return f"{self.name}{stem}, {size_text(self.image_size)}"

    def shape(self, batch_size: int) -> tuple[int, int, int, int]:
        """Of a batch, (N, C, H, W)."""
        return batch_size, self.input_spec.channels, *self.image_size


def build_network(cfg: DictConfig) -> BenchmarkNetwork:
    """The network of `cfg.model` for images of `cfg.data.image_size`, by default of the size in the paper.

    Raises `UserError` for settings that do not fit the network.
    """
    if "target" in cfg.model:
        return _build_custom(cfg)
    facts = info(cfg.model.name)
    if facts.family != cfg.model.family:
        raise UserError(f"model.name={facts.name}: it is of the family {facts.family}; also type model={facts.family}")
    input_spec = resolve_input(
        facts,
        proposed_size=facts.input_size,
        proposed_channels=facts.in_channels,
        requested_size=_requested_size(cfg),
        stem=cfg.model.stem,
    )
    net = create_model(
        facts.name,
        num_classes=cfg.model.num_classes,
        in_channels=input_spec.channels,
        stem=input_spec.stem,
        **config_overrides(_constructor_args(cfg)),
    )
    return BenchmarkNetwork(facts.name, net.eval(), input_spec)


def rebuild_network(arguments: Mapping[str, Any]) -> nn.Module:
    """Build a network again from its attribute `arguments`."""
    return rebuild_custom(arguments) if is_custom(arguments) else create_model(**arguments)


def _build_custom(cfg: DictConfig) -> BenchmarkNetwork:
    """A network of the user; its images have the channels of its first convolution."""
    model = cfg.model
    net = build_custom(
        model.target,
        _constructor_args(cfg),
        name=model.name,
        num_classes=model.num_classes,
        classes_argument=model.classes_argument,
        channels_argument=model.channels_argument,
    )
    size = _requested_size(cfg) or as_size(DEFAULT_IMAGE_SIZE)
    return BenchmarkNetwork(model.name, net.eval(), InputSpec(size, image_channels(net) or 3, "native"))


def _requested_size(cfg: DictConfig) -> Size | None:
    return None if cfg.data.image_size is None else check_size("data.image_size", cfg.data.image_size)


def _constructor_args(cfg: DictConfig) -> dict[str, Any]:
    args = OmegaConf.to_container(cfg.model.args, resolve=True)
    assert isinstance(args, dict)
    return {str(name): value for name, value in args.items()}
