"""A check of the output of a network of the user, before anything is trained."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cnnzoo.errors import UserError
from cnnzoo.runtime.user_code import error_text


def check_output(
    net: nn.Module,
    label: str,
    shapes: Iterable[tuple[int, ...]],
    num_classes: int | None,
    *,
    error_hint: str,
    classes_hint: str = "",
) -> int:
    """Run two images of each of `shapes` (C, H, W), in evaluation and in training mode, and check the output.

    label: what the user has set to choose the network, for messages: "model.target=mynet.TinyNet".
    num_classes: None for any number.
    error_hint, classes_hint: the ends of the messages if the network raises an error, and for other numbers of classes.

    The network stays as it is: its running statistics, its modes and the random generators are restored. Lazy modules
    get their sizes.

    Returns the number of classes. Raises UserError if the network does not return floating-point logits
    (2, num_classes), or if it raises an error.
    """
    tensors = [*net.parameters(), *net.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    with _restored(net, device):
        for shape in shapes:
            images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(device)
            for train in (False, True):
                where = f"{label}: for images {tuple(images.shape)} in {'training' if train else 'evaluation'} mode"
                try:
                    with torch.no_grad():
                        output = net.train(train)(images)
                except Exception as error:
                    text = error_text(error)[:110]
                    raise UserError(f"{where}: {text}; {error_hint}") from error
                num_classes = _check_logits(output, num_classes, where, classes_hint)
    assert num_classes is not None
    return num_classes


def _check_logits(output: Any, num_classes: int | None, where: str, classes_hint: str) -> int:
    """The number of classes in the output for two images. Raises UserError if it is not what is expected."""
    is_matrix = isinstance(output, Tensor) and output.ndim == 2 and len(output) == 2 and output.is_floating_point()
    if is_matrix and num_classes in (None, output.shape[1]):
        return output.shape[1]
    expected = f"expected float logits (2, {num_classes or 'classes'})"
    if is_matrix:
        expected = f"expected (2, {num_classes}), one for each class{classes_hint}"
    raise UserError(f"{where} it returns {describe_value(output)}; {expected}")


def describe_value(value: Any) -> str:
    """`float32 (2, 10)` for a tensor, `a tuple of 2` or `a dict` for others."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return "nothing" if value is None else f"an object of type {type(value).__name__}"


@contextmanager
def _restored(net: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore the buffers and the modes of `net`, and the states of the random generators, after the block."""
    buffers = [
        (module, name, buffer, None if is_lazy(buffer) else buffer.detach().clone())
        for module in net.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    modes = [(module, module.training) for module in net.modules()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for module, mode in modes:
            module.training = mode
        for module, name, buffer, value in buffers:
            if value is not None:
                with torch.no_grad():
                    buffer.copy_(value)
                module._buffers[name] = buffer
