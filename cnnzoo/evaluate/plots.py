"""The plots of an evaluation: the confusion matrix, drawn with Pillow, and the reliability diagram, with matplotlib."""

import io
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from cnnzoo.callbacks.tensorboard.drawing import CORRECT_COLOR, WRONG_COLOR, Picture, draw_confusion_matrix
from cnnzoo.evaluate.results import NUM_BINS, Evaluation
from cnnzoo.runtime.files import atomic_write

log = logging.getLogger(__name__)

MAX_NAMED_CLASSES = 30
"""Up to this many classes, the confusion matrix has names and numbers; larger ones are a map of colors."""
MAP_SIDE = 800
"""Smallest side of such a map in pixels."""


def confusion_picture(confusion: npt.NDArray[np.int64], names: Sequence[str]) -> Picture:
    """The confusion matrix (C, C), rows the true and columns the predicted classes, as a picture (H, W, 3)."""
    if len(names) <= MAX_NAMED_CLASSES:
        return draw_confusion_matrix(confusion, names)
    fractions = np.sqrt(confusion / np.maximum(confusion.sum(1, keepdims=True), 1))[..., None]
    colors = np.where(np.eye(len(names), dtype=bool)[..., None], CORRECT_COLOR, WRONG_COLOR)
    cells = (255 + fractions * (colors - 255)).round().astype(np.uint8)
    scale = -(-MAP_SIDE // len(names))
    return cells.repeat(scale, 0).repeat(scale, 1)


def png_bytes(picture: Picture) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def save_png(path: Path, picture: Picture) -> None:
    with atomic_write(path, "wb") as file:
        file.write(png_bytes(picture))


def has_matplotlib() -> bool:
    """Whether matplotlib can be imported."""
    os.environ.pop("MPLBACKEND", None)  # no backend is needed, and an unknown one fails the import
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def save_reliability_plot(path: Path, evaluation: Evaluation, title: str) -> None:
    """Draw accuracy against confidence, and the number of images by confidence; does nothing without matplotlib."""
    if not has_matplotlib():
        return
    from matplotlib.figure import Figure

    width = 1 / NUM_BINS
    centers = [(n + 0.5) * width for n in range(NUM_BINS)]
    figure = Figure(figsize=(5, 6), dpi=130)
    margins = {"left": 0.14, "right": 0.96, "top": 0.91, "bottom": 0.08, "hspace": 0.08}  # quicker than a layout engine
    top, bottom = figure.subplots(2, sharex=True, height_ratios=(3, 1), gridspec_kw=margins)
    lower = [min(b.accuracy, b.confidence) for b in evaluation.bins]
    top.bar(centers, lower, 0.94 * width, color="#1f5c9c", label="accuracy")
    for label, color, sign in (("underconfident", "#8fb4db", 1), ("overconfident", "#f0a8a8", -1)):
        gaps = [max(0.0, sign * (b.accuracy - b.confidence)) for b in evaluation.bins]
        top.bar(centers, gaps, 0.94 * width, lower, color=color, label=label)
    top.plot([0, 1], [0, 1], "--", color="gray", linewidth=1)
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    top.set_title(f"{title}\ncalibration error {evaluation.metrics['calibration_error']:.4f}", fontsize=10)
    top.legend(loc="upper left", fontsize=8)
    bottom.bar(centers, [b.images for b in evaluation.bins], 0.94 * width, color="gray")
    bottom.set(xlabel="confidence", ylabel="images")
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png")
