"""What a network is made of, found by running one image without numbers through it (torch's meta device).

Every module that is called, and every function that a `forward` calls between them, becomes a `Layer`; those of a
module lie in its `parts`. Multiply-accumulates are read off torch's own counter before and after each call, so that the
layers add up to what the counter says of the whole network.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

MAX_TABLE_ROWS = 50
"""Rows that a table may have before levels are closed, `MINOR` ones not counted."""

MINOR_KINDS = ("batch norm", "flatten", "relu")

KINDS = {
    nn.BatchNorm2d: "batch norm",
    nn.Flatten: "flatten",
    nn.LocalResponseNorm: "LRN",
    nn.ReLU: "relu",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
}
FUNCTION_KINDS = {
    "adaptive_max_pool2d": "max pool",
    "avg_pool2d": "avg pool",
    "cat": "concat",
    "div": "scale",
    "iadd": "add",
    "local_response_norm": "LRN",
    "max_pool2d": "max pool",
    "mul": "scale",
    "truediv": "scale",
}
"""What functions are called here, where it is not by their own name."""

IN_PLACE = ("add", "flatten", "iadd", "relu", "sigmoid", "tanh")
"""Functions shown although they may put out nothing new. Others that put out nothing new are views, such as a slice."""


@dataclass
class Layer:
    """A module's call, or a function's within a module's `forward`. Figures are for one image and include the parts."""

    name: str
    """Its path in the network; a function's ends in the function, as in torchvision's feature extractor."""
    kind: str
    shape: tuple[int, ...] = ()
    """Of what it puts out, without the batch."""
    parameters: int = 0
    """Trainable ones, counted where they are first used."""
    multiply_accumulates: int = 0
    """Of convolutions and linear layers."""
    memory: int = 0
    """Bytes of what it puts out in float32; what works in place, or only reshapes, puts out nothing new."""
    parts: "list[Layer]" = field(default_factory=list)

    @property
    def depth(self) -> int:
        """The most levels of modules that can be opened."""
        return 1 + max((part.depth for part in self.parts), default=-1)

    def opened(self, depth: int) -> "Iterator[Layer]":
        """The layers in the order of execution, `depth` levels below this one."""
        if depth == 0 or not self.parts:
            yield self
        else:
            for part in self.parts:
                yield from part.opened(depth - 1)

    def every(self) -> "Iterator[Layer]":
        """The layer and all within it."""
        yield self
        for part in self.parts:
            yield from part.every()

    def page(self) -> int:
        """The most levels, one at least, with which the layers fit on a page."""
        return max((depth for depth in range(1, self.depth + 1) if self._rows(depth) <= MAX_TABLE_ROWS), default=1)

    def _rows(self, depth: int) -> int:
        return sum(layer.kind not in MINOR_KINDS for layer in self.opened(depth))

    @property
    def label(self) -> str:
        """The kind; of a module that stays closed, what is in it where that is short to say."""
        if not self.parts:
            return self.kind
        inner = list(self.opened(self.depth))
        if len(inner) <= 3:
            return " + ".join(layer.kind for layer in inner)
        if self.kind != "Sequential":
            return self.kind
        kinds = {part.kind for part in self.parts}
        if len(kinds) == 1:
            return f"{len(self.parts)} x {kinds.pop()}"
        counts = {word: sum(layer.kind.startswith(word) for layer in inner) for word in ("conv", "fc", "max pool")}
        return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def trace_layers(net: nn.Module, shape: Sequence[int]) -> Layer:
    """Run one image of `shape` (C, H, W) through `net`, which must be on the meta device, as in evaluation.

    The layer that comes back is the whole network. Its figures are the sums over its parts.
    """
    paths = {module: path for path, module in net.named_modules()}
    with FlopCounterMode(display=False) as counter:
        watch = _LayerTracer(paths, counter)
        hooks = [hook for module in paths for hook in watch.hooks(module)]
        watch.know([*net.parameters(), *net.buffers()])
        try:
            with torch.no_grad(), watch:
                net.eval()(torch.empty(1, *shape, device="meta"))
        finally:
            for hook in hooks:
                hook.remove()
    (whole,) = watch.top.parts
    return whole


class _LayerTracer(TorchFunctionMode):
    """Builds the tree of layers while a network runs."""

    def __init__(self, paths: Mapping[nn.Module, str], counter: FlopCounterMode) -> None:
        super().__init__()
        self.paths = paths
        self.counter = counter
        self.top = Layer("", "")
        self.running = [(self.top, 0)]
        self.inside_leaf = True
        self.used: set[nn.Parameter] = set()
        self.storages: dict[int, torch.UntypedStorage] = {}  # kept, so that no address comes twice

    def hooks(self, module: nn.Module) -> tuple[RemovableHandle, RemovableHandle]:
        """What tells when the module's call begins and ends."""
        return module.register_forward_pre_hook(self._begin), module.register_forward_hook(self._end)

    def _begin(self, module: nn.Module, args: Any) -> None:
        self.know(args)
        layer = Layer(self.paths[module], kind_of(module))
        self.running[-1][0].parts.append(layer)
        self.running.append((layer, self.counter.get_total_flops()))
        self.inside_leaf = is_leaf(module)

    def _end(self, module: nn.Module, args: Any, out: Any) -> None:
        layer, before = self.running.pop()
        own = self._count(module.parameters(recurse=False))
        if own and layer.parts:  # parameters that no function was handed as they are
            layer.parts.append(Layer(f"{layer.name}.weights".removeprefix("."), "weights", layer.parts[-1].shape, own))
            own = 0
        layer.shape = tuple(_flatten_tensors(out)[-1].shape[1:])
        if isinstance(module, nn.AdaptiveAvgPool2d):
            layer.kind = _pool_kind(layer.shape[-1])
        layer.parameters = own + sum(part.parameters for part in layer.parts)
        layer.multiply_accumulates = (self.counter.get_total_flops() - before) // 2
        layer.memory = self.know(out) + sum(part.memory for part in layer.parts)
        if isinstance(module, nn.Identity) or (isinstance(module, nn.Dropout) and module.p == 0):
            self.running[-1][0].parts.pop()
        self.inside_leaf = len(self.running) == 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.counter.get_total_flops()
        out = func(*args, **(kwargs or {}))
        if self.inside_leaf or not isinstance(out, torch.Tensor) or out.ndim < 2:
            return out
        function = getattr(func, "__name__", "").strip("_")
        memory = self.know(out)
        if memory or function in IN_PLACE:
            parent = self.running[-1][0]
            name = f"{parent.name}.{function}".removeprefix(".")
            parameters = self._count(arg for arg in args if isinstance(arg, nn.Parameter))
            macs = (self.counter.get_total_flops() - before) // 2
            pooled = function == "adaptive_avg_pool2d"
            kind = _pool_kind(out.shape[-1]) if pooled else FUNCTION_KINDS.get(function, function)
            parent.parts.append(Layer(name, kind, tuple(out.shape[1:]), parameters, macs, memory))
        return out

    def _count(self, parameters: Iterable[nn.Parameter]) -> int:
        """How many numbers the parameters hold that were not used before."""
        new = {p for p in parameters if p.requires_grad} - self.used
        self.used |= new
        return sum(p.numel() for p in new)

    def know(self, value: Any) -> int:
        """Take note of tensors, and say how many bytes of float32 those have whose memory was not known before."""
        new = 0
        for tensor in _flatten_tensors(value):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.storages:
                self.storages[storage._cdata] = storage
                new += 4 * tensor.numel()
        return new


def is_leaf(module: nn.Module) -> bool:
    """Whether it has no modules within."""
    return not any(True for _ in module.children())


def kind_of(module: nn.Module) -> str:
    """A layer in short, as the page's legend explains it: `conv 11x11/4 p2, 64`."""
    if isinstance(module, nn.Conv2d):
        groups = f" g{module.groups}" if module.groups > 1 else ""
        return f"conv {_window_text(module)}{groups}, {module.out_channels}"
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        kind = "max pool" if isinstance(module, nn.MaxPool2d) else "avg pool"
        return f"{kind} {_window_text(module)}{' ceil' if module.ceil_mode else ''}"
    if isinstance(module, nn.Linear):
        return f"fc, {module.out_features}"
    if isinstance(module, nn.Dropout):
        return f"dropout {module.p:g}"
    return KINDS.get(type(module), type(module).__name__)


def _window_text(module: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> str:
    """`3x3/2 p1`: kernel, stride unless 1, padding unless 0."""
    (height, width), (stride, _), (padding, _) = (
        value if isinstance(value, tuple) else (value, value)
        for value in (module.kernel_size, module.stride, module.padding)
    )
    return f"{height}x{width}" + (f"/{stride}" if stride != 1 else "") + (f" p{padding}" if padding else "")


def _pool_kind(size: int) -> str:
    return "global avg pool" if size == 1 else f"avg pool to {size}x{size}"


def _flatten_tensors(value: Any) -> list[torch.Tensor]:
    """Those in a tensor, or a list or tuple of them, however deep."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in value for tensor in _flatten_tensors(part)] if isinstance(value, list | tuple) else []
