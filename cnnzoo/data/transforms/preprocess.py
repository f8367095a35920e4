"""Preprocessing of single images for inference, equal to that of evaluation, and normalization of batches."""

import os
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from cnnzoo.checks import check_choice, check_int
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.transforms.decode import convert_channels, decode_file, error_reason, pil_to_array
from cnnzoo.data.transforms.geometry import augment_batch
from cnnzoo.errors import UserError


class Preprocess:
    """Converts an image to a network's input, float32 (channels, image_size, image_size), as evaluation does.

    The image is a path, a Pillow image, or uint8 pixels (H, W), (H, W, 1) or (H, W, 3). The arguments are the values
    that a checkpoint stores; `DataModule.preprocess` returns them. Raises UserError for values out of range.
    """

    def __init__(
        self, image_size: int, eval_resize: float, channels: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        check_int("image_size", image_size, minimum=1)
        check_choice("channels", channels, (1, 3), note="(1 is grey, 3 is RGB)")
        self.image_size, self.eval_resize, self.channels = image_size, eval_resize, channels
        self.mean, self.std = tuple(mean), tuple(std)
        self._augment = Augment(eval_resize=eval_resize)

    def __call__(self, image: str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]) -> Tensor:
        """The input for one image.

        Raises UserError for a file that cannot be decoded, and for a value of another type or shape.
        """
        pixels = self._to_pixels(image)
        params = self._augment.eval_params(np.array([pixels.shape[:2]], np.int64), self.image_size)
        return normalize(augment_batch(pixels[None], params), self.mean, self.std)[0]

    def __repr__(self) -> str:
        return (
            f"Preprocess(image_size={self.image_size}, eval_resize={self.eval_resize}, channels={self.channels}, "
            f"mean={self.mean}, std={self.std})"
        )

    def _to_pixels(self, image: str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 (H, W, channels)."""
        if isinstance(image, Image.Image):
            return pil_to_array(image, self.channels)
        if isinstance(image, str | os.PathLike):
            try:
                return decode_file(os.fspath(image), self.channels)
            except Exception as error:  # the decoders raise various exceptions
                raise UserError(f"{os.fspath(image)}: {error_reason(error)}") from error
        if not isinstance(image, np.ndarray):
            raise UserError(
                f"expected the path of an image, a Pillow image, or NumPy's uint8 pixels, not {type(image).__name__}"
            )
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
            raise UserError(f"pixels must be uint8 (H, W), (H, W, 1) or (H, W, 3), not {image.dtype} {image.shape}")
        return convert_channels(image.reshape(*image.shape[:2], -1), self.channels)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Scale uint8 (N, C, H, W) to 0 to 1, subtract `mean`, divide by `std`; returns float32 in channels-last memory."""
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), images.device)
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
    raise UserError(f"augment.{field}={list(values)}: {len(values)} numbers, expected 1 or 3")


@lru_cache(maxsize=8)
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(1, C, 1, 1) each. They are kept, because a copy to a GPU waits for it."""
    with torch.inference_mode(False):  # tensors that are made in inference mode cannot be used in training
        means, stds = (torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for values in (mean, std))
        return (1 / (255 * stds)).to(device), (-means / stds).to(device)
