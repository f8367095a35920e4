"""From an image to a net's input, exactly as evaluation does it; and normalizing."""

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.transforms.decode import convert_channels, decode_file, pil_to_array
from cnnzoo.data.transforms.geometry import augment_batch


class Preprocess:
    """A path, a Pillow image or pixels, uint8 (H, W) or (H, W, 1 or 3), to float32 (channels, image_size, image_size).

    The arguments are the plain values that a checkpoint holds; `DataModule.preprocess` gives them.
    """

    def __init__(
        self, image_size: int, eval_resize: float, channels: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.image_size, self.eval_resize, self.channels = image_size, eval_resize, channels
        self.mean, self.std = tuple(mean), tuple(std)
        self._augment = Augment(eval_resize=eval_resize)

    def __call__(self, image: str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]) -> Tensor:
        """The net's input for one image; Pillow's errors for a file that it cannot decode."""
        pixels = self._pixels(image)
        params = self._augment.eval_params(np.array([pixels.shape[:2]], np.int64), self.image_size)
        return normalize(augment_batch(pixels[None], params), self.mean, self.std)[0]

    def __repr__(self) -> str:
        return (
            f"Preprocess(image_size={self.image_size}, eval_resize={self.eval_resize}, channels={self.channels}, "
            f"mean={self.mean}, std={self.std})"
        )

    def _pixels(self, image: str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if isinstance(image, Image.Image):
            return pil_to_array(image, self.channels)
        if not isinstance(image, np.ndarray):
            return decode_file(os.fspath(image), self.channels)
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
            raise ValueError(f"pixels must be uint8 (H, W), (H, W, 1) or (H, W, 3), not {image.dtype} {image.shape}")
        return convert_channels(image.reshape(*image.shape[:2], -1), self.channels)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (N, C, H, W) to float32, channels last in memory: pixels from 0 to 1, minus `mean`, divided by `std`."""
    floats = images.to(torch.float32, memory_format=torch.channels_last)
    scale = 1 / (255 * torch.tensor(std, dtype=torch.float32))
    shift = -torch.tensor(mean, dtype=torch.float32) / torch.tensor(std, dtype=torch.float32)
    shape = (1, -1, 1, 1)
    return floats.mul_(scale.to(images.device).view(shape)).add_(shift.to(images.device).view(shape))
