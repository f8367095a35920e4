"""Pictures of what a network looks at: Grad-CAM of images, the filters of the first layer, and feature maps, as PNG."""

import io
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from cnnzoo.callbacks.tensorboard.drawing import draw_captioned_grid, draw_filters
from cnnzoo.callbacks.tensorboard.filters import first_layer_weight
from cnnzoo.predict.gradcam import feature_maps, find_feature_layer, first_convolution, grad_cam
from cnnzoo.predict.predictor import Prediction
from cnnzoo.runtime.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_MAPS = 64  # feature maps in a picture
MAPS_WIDTH, MAX_MAP_SIDE = 768, 192  # pixels of a picture of feature maps, and of a map in it
MAX_NAME = 80  # characters of an image's name in the name of its picture
COLORS, MAX_ALPHA = "turbo", 0.7


def save_explanations(
    net: nn.Module, predictions: Sequence[Prediction], directory: Path, *, layer: str | None = None
) -> list[Path]:
    """Write the pictures of a network and of images to `directory`, which is created; returns their paths.

    One picture for each prediction shows the image as the network gets it, and the same with the Grad-CAM of its most
    probable class. `filters.png` shows the filters of the first layer, if that is a convolution, and
    `feature_maps_<layer>.png` the outputs of `layer` for the first image.

    net: see `predict_images`; its device is used.
    predictions: of images that could be read, at least one.
    layer: None for the first convolution.
    """
    device = next(net.parameters()).device
    directory.mkdir(parents=True)
    written = []
    weight = first_layer_weight(net)
    if weight is not None:
        written.append(_save_pixels(directory / "filters.png", draw_filters(weight)))
    feature_layer = ""
    digits = len(str(len(predictions)))
    for number, prediction in enumerate(predictions, 1):
        image: Tensor = net.preprocess(prediction.path)[None].to(device)  # type: ignore[operator]
        if number == 1:
            maps_layer = layer or first_convolution(net)
            if maps_layer is not None:
                maps = feature_maps(net, maps_layer, image)
                written.append(_save_pixels(directory / f"feature_maps_{maps_layer}.png", draw_feature_maps(maps)))
            feature_layer = find_feature_layer(net, image)
        heat = grad_cam(net, feature_layer, image, prediction.indices[0])
        figure = draw_grad_cam(_pixels(net, image), heat.cpu().numpy(), prediction, feature_layer)
        stem = re.sub(r"[^\w.-]", "_", Path(prediction.path).stem)[:MAX_NAME]
        written.append(_save_figure(directory / f"{number:0{digits}}_{stem}.png", figure))
    return written


def draw_feature_maps(maps: Tensor) -> npt.NDArray[np.uint8]:
    """Feature maps (channels, H, W) -> a grid of the first 64, each scaled from its smallest to its largest value."""
    shown = maps[:MAX_MAPS].float().cpu()
    low, high = shown.amin((1, 2), keepdim=True), shown.amax((1, 2), keepdim=True)
    scaled = (shown - low) / (high - low).clamp_min(1e-12)
    captions = [str(number) for number in range(len(shown))]
    columns = math.ceil(math.sqrt(len(shown)))
    side = min(MAX_MAP_SIDE, MAPS_WIDTH // columns)
    return draw_captioned_grid(scaled[:, None], captions, columns=columns, side=side)


def draw_grad_cam(
    pixels: npt.NDArray[np.float32], heat: npt.NDArray[np.float32], prediction: Prediction, layer: str
) -> "Figure":
    """The image (H, W, 3) beside the same image under the map `heat` (H, W) of `grad_cam`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    titles = (
        _shorten(Path(prediction.path).name),
        f"{_shorten(prediction.classes[0])}  {prediction.probabilities[0]:.1%}",
    )
    for axes, title in zip((left, right), titles, strict=True):
        axes.imshow(pixels, interpolation="nearest")
        axes.set_title(title, parse_math=False)
        axes.set_axis_off()
    # The stronger the evidence, the more it covers the image.
    right.imshow(heat, cmap=COLORS, vmin=0, vmax=1, alpha=MAX_ALPHA * heat, interpolation="bilinear")
    evidence = "red: the strongest evidence for this class" if heat.any() else "no evidence for this class"
    figure.supxlabel(f"Grad-CAM of {layer}; {evidence}", fontsize="small", color="gray", parse_math=False)
    return figure


def _pixels(net: nn.Module, image: Tensor) -> npt.NDArray[np.float32]:
    """Undo the normalization of an image (1, C, H, W): (H, W, 3) of values from 0 to 1.

    Of more than three channels, these are the first three, and of two the first one. 16 bits are scaled to the largest
    value of the image.
    """
    preprocess: Any = net.preprocess
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocess.mean, preprocess.std))
    pixels = (image[0].cpu() * std + mean).clamp(0, 1)
    pixels = pixels[: 3 if len(pixels) >= 3 else 1]
    if preprocess.bits == 16:
        pixels = pixels / pixels.max().clamp_min(1e-6)
    return pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()


def _shorten(text: str, length: int = 36) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _save_pixels(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return _write(path, content)


def _save_figure(path: Path, figure: "Figure") -> Path:
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the font lacks some alphabets of file names
        figure.savefig(content, format="png")
    return _write(path, content)


def _write(path: Path, content: io.BytesIO) -> Path:
    with atomic_write(path, "wb") as file:
        file.write(content.getvalue())
    return path
