"""`trace_layers`: list the layers of a network by running one image through it on torch's meta device.

Every call of a module, and every function that a `forward` calls between modules, becomes a `Layer`. The layers within
a module are its `children`. Multiply-accumulates are the difference of torch's own counter before and after each call,
so the sum over the layers equals the counter's value for the whole network.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from cnnzoo.models import create_model
from cnnzoo.models.custom import is_custom, meta_copy

MAX_TABLE_ROWS = 50
"""Most rows of a table with `depth=auto`, not counting `MINOR_KINDS`."""

MINOR_KINDS = ("batch norm", "flatten", "relu")

MODULE_KINDS = {
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
"""The kind of a function's layer; functions that are not listed keep their own name."""

IN_PLACE_FUNCTIONS = ("add", "flatten", "iadd", "relu", "sigmoid", "tanh")
"""Functions that are listed even if their output has no new memory. Other such functions are views, such as slices."""


@dataclass
class Layer:
    """One call of a module, or of a function in a module's `forward`. Numbers are for one image, with all children."""

    name: str
    """The path in the network; a function's name is appended, as in torchvision's feature extractor."""
    kind: str
    shape: tuple[int, ...] = ()
    """Shape of the output without the batch dimension."""
    parameters: int = 0
    """Trainable parameters, counted at their first use."""
    multiply_accumulates: int = 0
    """Multiply-accumulates of convolutions and linear layers."""
    memory: int = 0
    """Bytes of the output in float32; 0 for a layer that works in place or returns a view."""
    children: "list[Layer]" = field(default_factory=list)

    @property
    def depth(self) -> int:
        """Number of levels of modules below this one."""
        return 1 + max((child.depth for child in self.children), default=-1)

    def at_depth(self, depth: int) -> "Iterator[Layer]":
        """The layers `depth` levels below this one, in the order of execution; a layer without children is a leaf."""
        if depth == 0 or not self.children:
            yield self
        else:
            for child in self.children:
                yield from child.at_depth(depth - 1)

    def walk(self) -> "Iterator[Layer]":
        """The layer itself and all layers below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def auto_depth(self) -> int:
        """The largest depth at which the table has at most `MAX_TABLE_ROWS` rows; at least 1."""
        return max((depth for depth in range(1, self.depth + 1) if self._num_rows(depth) <= MAX_TABLE_ROWS), default=1)

    def _num_rows(self, depth: int) -> int:
        return sum(layer.kind not in MINOR_KINDS for layer in self.at_depth(depth))

    @property
    def label(self) -> str:
        """The kind, or a short summary of the children, such as `conv 3x3 p1, 64 + batch norm + relu`."""
        if not self.children:
            return self.kind
        leaves = list(self.at_depth(self.depth))
        if len(leaves) <= 3:
            return " + ".join(layer.kind for layer in leaves)
        if self.kind != "Sequential":
            return self.kind
        kinds = {child.kind for child in self.children}
        if len(kinds) == 1:
            return f"{len(self.children)} x {kinds.pop()}"
        counts = {kind: sum(layer.kind.startswith(kind) for layer in leaves) for kind in ("conv", "fc", "max pool")}
        return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)


def trace_layers(net: nn.Module, shape: Sequence[int]) -> Layer:
    """Run one image of `shape` (C, H, W) through `net` in eval mode and return the network as a `Layer`.

    `net` must be on the meta device. The numbers of the returned layer are the sums over its children.
    """
    paths = {module: path for path, module in net.named_modules()}
    with FlopCounterMode(display=False) as counter:
        tracer = _LayerTracer(paths, counter)
        hooks = [hook for module in paths for hook in tracer.register_hooks(module)]
        tracer.count_new_bytes([*net.parameters(), *net.buffers()])
        try:
            with torch.no_grad(), tracer:
                net.eval()(torch.empty(1, *shape, device="meta"))
        finally:
            for hook in hooks:
                hook.remove()
    (layer,) = tracer.root.children
    return layer


def trace_copy(net: nn.Module, shape: Sequence[int]) -> Layer | None:
    """`trace_layers` of a copy on the meta device of a network of the zoo or of the user, which has `arguments`.

    None if the code of the user does not run there, because it reads the values of tensors.
    """
    arguments: dict[str, Any] = dict(net.arguments)  # type: ignore[arg-type]
    if not is_custom(arguments):
        with torch.device("meta"):
            return trace_layers(create_model(**arguments), shape)
    try:
        return trace_layers(meta_copy(net), shape)
    except Exception:  # of any kind
        return None


class _LayerTracer(TorchFunctionMode):
    """Builds the tree of layers while a network runs."""

    def __init__(self, paths: Mapping[nn.Module, str], counter: FlopCounterMode) -> None:
        super().__init__()
        self.paths = paths
        self.counter = counter
        self.root = Layer("", "")
        self.stack = [(self.root, 0)]  # the modules being called, with the FLOP count at the start of the call
        self.inside_leaf = True
        self.counted_parameters: set[nn.Parameter] = set()
        self.storages: dict[int, torch.UntypedStorage] = {}  # holds references, so that no address is used twice

    def register_hooks(self, module: nn.Module) -> tuple[RemovableHandle, RemovableHandle]:
        return module.register_forward_pre_hook(self._begin_call), module.register_forward_hook(self._end_call)

    def _begin_call(self, module: nn.Module, args: Any) -> None:
        self.count_new_bytes(args)
        layer = Layer(self.paths[module], module_kind(module))
        self.stack[-1][0].children.append(layer)
        self.stack.append((layer, self.counter.get_total_flops()))
        self.inside_leaf = is_leaf(module)

    def _end_call(self, module: nn.Module, args: Any, out: Any) -> None:
        layer, flops_before = self.stack.pop()
        own_parameters = self._count_parameters(module.parameters(recurse=False))
        if own_parameters and layer.children:  # parameters that were not passed directly to a function
            name = f"{layer.name}.weights".removeprefix(".")
            layer.children.append(Layer(name, "weights", layer.children[-1].shape, own_parameters))
            own_parameters = 0
        layer.shape = tuple(_flatten_tensors(out)[-1].shape[1:])
        if isinstance(module, nn.AdaptiveAvgPool2d):
            layer.kind = _adaptive_pool_kind(layer.shape[-1])
        layer.parameters = own_parameters + sum(child.parameters for child in layer.children)
        layer.multiply_accumulates = (self.counter.get_total_flops() - flops_before) // 2
        layer.memory = self.count_new_bytes(out) + sum(child.memory for child in layer.children)
        if isinstance(module, nn.Identity) or (isinstance(module, nn.Dropout) and module.p == 0):
            self.stack[-1][0].children.pop()
        self.inside_leaf = len(self.stack) == 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flops_before = self.counter.get_total_flops()
        out = func(*args, **(kwargs or {}))
        if self.inside_leaf or not isinstance(out, torch.Tensor) or out.ndim < 2:
            return out
        function = getattr(func, "__name__", "").strip("_")
        memory = self.count_new_bytes(out)
        if memory or function in IN_PLACE_FUNCTIONS:
            parent = self.stack[-1][0]
            name = f"{parent.name}.{function}".removeprefix(".")
            parameters = self._count_parameters(arg for arg in args if isinstance(arg, nn.Parameter))
            macs = (self.counter.get_total_flops() - flops_before) // 2
            if function == "adaptive_avg_pool2d":
                kind = _adaptive_pool_kind(out.shape[-1])
            else:
                kind = FUNCTION_KINDS.get(function, function)
            parent.children.append(Layer(name, kind, tuple(out.shape[1:]), parameters, macs, memory))
        return out

    def _count_parameters(self, parameters: Iterable[nn.Parameter]) -> int:
        """Number of elements of the trainable parameters that were not counted before."""
        new = {p for p in parameters if p.requires_grad} - self.counted_parameters
        self.counted_parameters |= new
        return sum(p.numel() for p in new)

    def count_new_bytes(self, value: Any) -> int:
        """Bytes in float32 of the tensors in `value` whose storage was not counted before."""
        new = 0
        for tensor in _flatten_tensors(value):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.storages:
                self.storages[storage._cdata] = storage
                new += 4 * tensor.numel()
        return new


def is_leaf(module: nn.Module) -> bool:
    """Whether the module has no submodules."""
    return not any(True for _ in module.children())


def module_kind(module: nn.Module) -> str:
    """A short description of a module, such as `conv 11x11/4 p2, 64`; `tables.LEGEND` explains it."""
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
    return MODULE_KINDS.get(type(module), type(module).__name__)


def _window_text(module: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> str:
    """`3x3/2 p1`: kernel size, stride unless 1, padding unless 0."""
    (height, width), (stride, _), (padding, _) = (
        value if isinstance(value, tuple) else (value, value)
        for value in (module.kernel_size, module.stride, module.padding)
    )
    return f"{height}x{width}" + (f"/{stride}" if stride != 1 else "") + (f" p{padding}" if padding else "")


def _adaptive_pool_kind(size: int) -> str:
    return "global avg pool" if size == 1 else f"avg pool to {size}x{size}"


def _flatten_tensors(value: Any) -> list[torch.Tensor]:
    """The tensors in a tensor, list or tuple, nested to any depth."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for item in value for tensor in _flatten_tensors(item)] if isinstance(value, list | tuple) else []
