"""Counts waits for a device on a machine without one: PyTorch's device `meta`, which computes nothing, replaces it."""

from collections.abc import Iterator
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cnnzoo.data.loaders.torch_loader import TorchLoader

META = torch.device("meta")


class MetaStrategy(SingleDeviceStrategy):
    """Trains on the device `meta`."""

    def __init__(self) -> None:
        super().__init__(device="meta")

    def setup_environment(self) -> None:
        """Lightning's method rejects a device that the accelerator does not have."""


class MetaLoader(TorchLoader):
    """Batches that are on the device already, as a loader for a GPU yields them."""

    def __iter__(self) -> Iterator[Any]:
        for images, labels in super().__iter__():
            yield torch.empty_like(images, device=META), torch.empty_like(labels, device=META)


class DeviceWaits(TorchDispatchMode):
    """Counts reads of values on `meta`, operators whose output shape depends on values, and copies to and from the CPU.

    Values that are read are ones.
    """

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_meta = any(tensor.is_meta for tensor in tensors)
        if on_meta and depends_on_values(func, tensors):
            self.count += 1
            if func is torch.ops.aten._local_scalar_dense.default:
                return torch.ones((), dtype=args[0].dtype).item()
        if func is torch.ops.aten._to_copy.default and kwargs.get("device", args[0].device).type != args[0].device.type:
            self.count += 1
            if args[0].is_meta:
                return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if func is torch.ops.aten.copy_.default and args[0].is_meta != args[1].is_meta:
            self.count += 1
            return args[0].fill_(1)
        return func(*args, **kwargs)


def depends_on_values(func: Any, tensors: list[torch.Tensor]) -> bool:
    """Whether the operator needs values on the CPU: for its result, or for the shape of its result."""
    if func is torch.ops.aten.index.Tensor:  # only if it selects by a mask
        return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in tensors[1:])
    return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags))


class TensorCreations(TorchFunctionMode):
    """Adds calls such as `torch.tensor(1.0, device="meta")` to a count of waits: they copy from the CPU."""

    def __init__(self, waits: DeviceWaits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == "meta":
            self.waits.count += 1
        return func(*args, **kwargs)


class WaitRecorder(pl.Callback):
    """Records the waits of each training and validation batch, from its start to the start of the next batch."""

    waits: ClassVar = DeviceWaits()  # class attributes, because Hydra builds the callback
    training: ClassVar[list[int]] = []
    validation: ClassVar[list[int]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.training.append(self.waits.count)

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.validation.append(self.waits.count)
