"""Preprocessing of single images for inference, equal to that of evaluation, and normalization of batches."""

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cnnzoo.checks import check_choice
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.transforms.fit import FITS
from cnnzoo.data.transforms.pixel_format import (
    PLAIN_CHANNELS,
    PixelArray,
    check_bits,
    check_channels,
    convert_pixels,
)
from cnnzoo.errors import UserError
from cnnzoo.runtime.imports import require_packages
from cnnzoo.sizes import check_size, plain_size


class Preprocess:
    """Converts an image to a network's input, float32 (channels, height, width), as evaluation does.

    The image is a path, a Pillow image, or a NumPy array of pixels, (H, W) or (H, W, channels). The arguments are the
    values that a checkpoint stores: `arguments` and `DataModule.preprocess` return them. Raises UserError for values
    out of range.

    image_size: an int for a square, or (height, width). The attribute is always (height, width).
    fit, eval_resize: as in `Augment`.
    bits: 8, or 16 for 16-bit images. Both are scaled to 0 to 1 before they are normalized.
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        eval_resize: float,
        channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        fit: Literal["crop", "pad", "squash"] = "crop",
        bits: int = 8,
    ) -> None:
        self.image_size, self.fit = check_size("image_size", image_size), check_choice("fit", fit, FITS)
        self.channels, self.bits = check_channels("channels", channels), check_bits("bits", bits)
        self.eval_resize = eval_resize
        self.mean, self.std = tuple(mean), tuple(std)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise UserError(f"{name}={list(values)}: {len(values)} numbers, expected {channels}, one per channel")
        self.augment = Augment(eval_resize=eval_resize, fit=fit)

    def __call__(self, image: str | os.PathLike[str] | Image.Image | PixelArray) -> Tensor:
        """The input for one image.

        Raises UserError for a file that cannot be decoded, and for a value of another type or shape.
        """
        pixels = self._to_pixels(image)
        from cnnzoo.data.transforms.geometry import augment_batch  # here, as the decoders

        params = self.augment.eval_params(np.array([pixels.shape[:2]], np.int64), self.image_size)
        return normalize(augment_batch(pixels[None], params), self.mean, self.std)[0]

    def __repr__(self) -> str:
        return f"Preprocess({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments as plain types: `image_size` is an int for a square; `fit="crop"` and `bits=8` are left out."""
        arguments = {
            "image_size": plain_size(self.image_size),
            "eval_resize": self.eval_resize,
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
        }
        if self.fit != "crop":
            arguments["fit"] = self.fit
        return arguments if self.bits == 8 else {**arguments, "bits": self.bits}

    def _to_pixels(self, image: str | os.PathLike[str] | Image.Image | PixelArray) -> PixelArray:
        """uint8 or uint16 (H, W, channels)."""
        with require_packages("preprocess"):  # here: a network with weights can be used without their packages
            from cnnzoo.data.transforms.decode import decode_file, pil_to_array

        if isinstance(image, Image.Image):
            try:
                return pil_to_array(image, self.channels, self.bits)
            except ValueError as error:
                raise UserError(f"the image {_without_advice(error)}") from error
        if isinstance(image, str | os.PathLike):
            try:
                return decode_file(os.fspath(image), self.channels, self.bits)
            except Exception as error:  # the decoders raise various exceptions
                raise UserError(f"{os.fspath(image)}: {_without_advice(error)}") from error
        dtypes = ("uint8",) if self.bits == 8 else ("uint8", "uint16")
        if not isinstance(image, np.ndarray):
            raise UserError(
                f"expected the path of an image, a Pillow image, or NumPy's {' or '.join(dtypes)} pixels, not "
                f"{type(image).__name__}"
            )
        pixels = image[..., None] if image.ndim == 2 else image
        counts = PLAIN_CHANNELS if self.channels in PLAIN_CHANNELS else (self.channels,)
        if pixels.dtype.name not in dtypes or pixels.ndim != 3 or pixels.shape[2] not in counts:
            shapes = " or ".join(f"(H, W, {count})" for count in counts)
            shapes = f"(H, W), {shapes}" if 1 in counts else shapes
            raise UserError(f"pixels must be {' or '.join(dtypes)} {shapes}, not {image.dtype} {image.shape}")
        return convert_pixels(pixels, self.channels, self.bits)


def _without_advice(error: Exception) -> str:
    """The reason of a decoding error, without advice to set the channels of the data: the network's are fixed."""
    from cnnzoo.data.transforms.decode import error_reason

    return error_reason(error).partition("; type data.")[0]


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Scale (N, C, H, W) to 0 to 1, subtract `mean`, divide by `std`; returns float32 in channels-last memory.

    The largest value is 255 for uint8, and 65535 for uint16 and for its values as int32.
    """
    largest = 65535 if images.dtype in (torch.uint16, torch.int32) else 255
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), images.device, largest)
    return images.to(torch.float32, memory_format=torch.channels_last).mul_(scale).add_(shift)


def per_channel(field: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    """One value for each channel: one value is repeated, three are averaged for grey images.

    field: "mean" or "std", for the error. Raises UserError for another number of values.
    """
    values = tuple(float(value) for value in values)
    if len(values) == channels:
        return values
    if len(values) == 1:
        return values * channels
    if channels == 1 and len(values) == 3:
        return (sum(values) / 3,)
    expected = "3" if channels == 1 else channels
    raise UserError(f"augment.{field}={list(values)}: {len(values)} numbers, expected 1 or {expected}")


@lru_cache(maxsize=8)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, largest: int
) -> tuple[Tensor, Tensor]:
    """(1, C, 1, 1) each. They are kept, because a copy to a GPU waits for it."""
    with torch.inference_mode(False):  # tensors that are made in inference mode cannot be used in training
        means, stds = (torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for values in (mean, std))
        return (1 / (largest * stds)).to(device), (-means / stds).to(device)
