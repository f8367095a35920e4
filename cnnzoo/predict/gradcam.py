"""Grad-CAM, after "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (Selvaraju et al.,
2017, arXiv 1610.02391), computed by captum, and the layer of a network that it suits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnzoo.errors import UserError, unknown

MIN_SIDES = (4, 2, 1)
"""The least height and width of the feature map, in order of preference: a map of 1 x 1 shows no place."""


def grad_cam(net: nn.Module, layer: str, image: Tensor, target: int) -> Tensor:
    """Where an image has evidence for a class: (H, W) of values from 0 to 1, the largest 1, or all 0 without evidence.

    layer: the name of a layer with a feature map, such as that of `find_feature_layer`.
    image: (1, C, H, W), on the device of the network.
    target: the number of the class.
    """
    from captum.attr import LayerGradCam

    method = LayerGradCam(net, net.get_submodule(layer))
    scores = method.attribute(image.detach().requires_grad_(), target=target, relu_attributions=True)
    scores = F.interpolate(scores.detach().float(), image.shape[2:], mode="bilinear", align_corners=False)[0, 0]
    return scores / scores.max().clamp_min(1e-12)


def find_feature_layer(net: nn.Module, image: Tensor) -> str:
    """The name of the last layer that gives a feature map which everything that the head sees depends on.

    The map has at least 4 x 4 positions if there is such a layer. A branch of a block is none, because the classes also
    depend on the other branches; a pool to a fixed size is none either.

    image: (1, C, H, W). Raises UserError if no layer gives a feature map.
    """
    shapes: dict[str, tuple[int, ...]] = {}  # in the order in which the layers finish

    def record(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            shapes.pop(name, None)
            shapes[name] = tuple(output.shape)

    layers = {
        name: module for name, module in net.named_modules() if name and not isinstance(module, nn.AdaptiveAvgPool2d)
    }
    features: Callable[[Tensor], Tensor] = getattr(net, "forward_features", net)
    with torch.no_grad(), _hooks(layers, record):
        features(image)
    for side in MIN_SIDES:
        for name, shape in reversed(shapes.items()):
            if min(shape[2:]) >= side and _is_cut(net, layers[name], image):
                return name
    raise UserError(f"explain=true: {type(net).__name__} has no layer that gives a feature map (N, C, H, W)")


def feature_maps(net: nn.Module, layer: str, image: Tensor) -> Tensor:
    """What a layer gives for an image (1, C, H, W) when it is called for the first time: (channels, H, W).

    Raises UserError for an unknown layer, and for one that is not called or gives no feature map.
    """
    check_layer(net, layer)
    outputs: list[Any] = []
    with torch.no_grad(), _hooks({layer: net.get_submodule(layer)}, lambda _, output: outputs.append(_copy(output))):
        net(image)
    if not outputs:
        raise UserError(f"layer={layer}: the network does not use this layer; choose another one")
    if not isinstance(outputs[0], Tensor) or outputs[0].ndim != 4:
        shape = tuple(outputs[0].shape) if isinstance(outputs[0], Tensor) else type(outputs[0]).__name__
        raise UserError(f"layer={layer}: it gives {shape}, not a feature map (N, C, H, W); choose another layer")
    return outputs[0][0]


def check_layer(net: nn.Module, layer: str) -> None:
    """Raise UserError if the network has no layer of this name."""
    names = [name for name, _ in net.named_modules() if name]
    if layer not in names:
        raise unknown("layer", layer, names)


def first_convolution(net: nn.Module) -> str | None:
    """The name of the first convolution of a network, or None."""
    return next((name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)), None)


def _is_cut(net: nn.Module, layer: nn.Module, image: Tensor) -> bool:
    """Whether every path from the image to the logits leads through the layer: without it, there is no gradient."""
    image = image.detach().requires_grad_()
    handle = layer.register_forward_hook(lambda _, __, output: output.detach())
    try:
        with torch.enable_grad():
            logits = net(image)
            (gradient,) = torch.autograd.grad(logits.sum(), image, allow_unused=True)
    finally:
        handle.remove()
    return gradient is None


@contextmanager
def _hooks(layers: dict[str, nn.Module], call: Callable[[str, Any], object]) -> Iterator[None]:
    """Call `call(name, output)` when a layer has finished."""

    def hook_for(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            call(name, output)

        return hook

    handles = [module.register_forward_hook(hook_for(name)) for name, module in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _copy(output: Any) -> Any:
    return output.clone() if isinstance(output, Tensor) else output  # a ReLU may change it in place
