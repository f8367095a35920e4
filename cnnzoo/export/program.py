"""What is exported: a network, possibly with its preprocessing, for images of one size; and what describes it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import cnnzoo
from cnnzoo.data import Preprocess
from cnnzoo.errors import UserError
from cnnzoo.inference.weights_file import network_metadata
from cnnzoo.models.custom import size_limits
from cnnzoo.models.input_spec import resolve_input
from cnnzoo.sizes import check_size

SMALL_IMAGE_SIZE = 32
"""The image size of the small stem if nothing else is known."""
MAX_CUDA_BATCH = 65_535
"""The largest batch for which torch.export can show that CUDA's kernels accept it."""


class WithPreprocessing(nn.Module):
    """Scales and normalizes images in front of a network: uint8 (N, C, H, W) -> (N, num_classes) logits.

    The images are resized and cropped already. It computes `float(image) * (1 / (255 * std)) + (-mean / std)` for each
    channel, as evaluation does.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.net = net
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (preprocess.mean, preprocess.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.float() * self.scale + self.shift)


def example_images(
    net: nn.Module, count: int, *, image_size: int | Sequence[int] | None = None, is_uint8: bool = False
) -> Tensor:
    """Random images (count, C, H, W) as input for `net`: float32, or uint8 from 0 to 255; always the same.

    image_size: (H, W), or an int for a square; None for that of the network's preprocessing, else that of the paper.

    Raises UserError if the network does not accept the size.
    """
    arguments: dict[str, Any] = dict(net.arguments)  # type: ignore[arg-type]
    facts, stem = size_limits(arguments), arguments.get("stem", "native")
    preprocess = getattr(net, "preprocess", None)
    default_size = facts.input_size if stem == "native" else SMALL_IMAGE_SIZE
    channels = arguments.get("in_channels", 3)
    height, width = resolve_input(
        facts,
        proposed_size=default_size if preprocess is None else preprocess.image_size,
        proposed_channels=channels,
        requested_size=None if image_size is None else check_size("image_size", image_size),
        stem=stem,
        key="image_size",
    ).image_size
    generator = torch.Generator().manual_seed(0)
    if is_uint8:
        return torch.randint(256, (count, channels, height, width), generator=generator, dtype=torch.uint8)
    return torch.randn((count, channels, height, width), generator=generator)


def with_preprocessing(net: nn.Module, module: nn.Module | None = None) -> WithPreprocessing:
    """`module`, by default `net`, behind the normalization of `net`. Raises UserError if `net` has none."""
    preprocess = getattr(net, "preprocess", None)
    if preprocess is None:
        raise UserError(
            "preprocess=true: the network does not say how its images are processed; type run=DIR, or model.weights=..."
        )
    if preprocess.bits == 16:
        raise UserError("preprocess=true: the graph takes uint8 images, but the network's have 16 bits; leave it out")
    return WithPreprocessing(module or net, preprocess).eval()


def export_program(module: nn.Module, images: Tensor, *, strict: bool = False) -> torch.export.ExportedProgram:
    """The graph of `module` for images of this size and type, and batches of any size; `strict` is torch.export's."""
    batch = torch.export.Dim("batch", min=1, max=MAX_CUDA_BATCH if images.is_cuda else None)
    with torch.no_grad():
        return torch.export.export(module, (images,), dynamic_shapes=({0: batch},), strict=strict)


def export_metadata(net: nn.Module, images: Tensor) -> dict[str, Any]:
    """What a program needs to know that runs the file, as plain JSON types.

    The entries are "model", "version", "classes" and "preprocess" as in `network_metadata`, the last two only if they
    are known; and "input": the type and shape of the images, and whether the graph normalizes them.
    """
    if hasattr(net, "preprocess") and hasattr(net, "classes"):
        metadata = network_metadata(net)
    else:
        metadata = {"model": dict(net.arguments), "version": cnnzoo.__version__}  # type: ignore[arg-type]
    is_uint8 = images.dtype == torch.uint8
    metadata["input"] = {
        "dtype": "uint8" if is_uint8 else "float32",
        "shape": ["batch", *images.shape[1:]],
        "normalized_in_graph": is_uint8,
    }
    return metadata
