"""Networks that return their feature maps instead of logits, for detection and segmentation."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torchvision.models.feature_extraction import NodePathTracer, create_feature_extractor

from cnnzoo.errors import UserError
from cnnzoo.models.registry import info, rebuild

if TYPE_CHECKING:
    from cnnzoo.data.transforms.preprocess import Preprocess


@dataclass(frozen=True)
class FeatureMap:
    """A feature map of a network: the last one of its size that all paths through the network share.

    module: the name of the layer or operation that computes it, as in torchvision's `create_feature_extractor`.
    reduction: the side of the image divided by that of the map, rounded down to a power of two.
    """

    module: str
    channels: int
    reduction: int


class FeatureInfo(tuple[FeatureMap, ...]):
    """The feature maps that a network returns, with the methods of timm's `feature_info`."""

    def channels(self) -> list[int]:
        return [feature.channels for feature in self]

    def reduction(self) -> list[int]:
        return [feature.reduction for feature in self]

    def module_name(self) -> list[str]:
        return [feature.module for feature in self]


class FeatureNetwork(nn.Module):
    """(N, in_channels, H, W) -> list of feature maps (N, channels, h, w), from large to small.

    net: built by `create_model`; it is copied as far as it is needed, and its layers are shared.
    out_indices: which of the maps to return, in this order; None for all. Negative ones count from the smallest.

    It has the attribute `arguments` of `create_model`, and `preprocess` if it has weights. `feature_info` describes the
    maps that it returns.

    Raises UserError for an index that does not exist.
    """

    arguments: dict[str, Any]
    preprocess: "Preprocess"
    weights_info: dict[str, Any]

    if TYPE_CHECKING:

        def __call__(self, x: torch.Tensor) -> list[torch.Tensor]: ...

    def __init__(self, net: nn.Module, out_indices: Sequence[int] | None = None) -> None:
        super().__init__()
        features = find_feature_maps(net)
        arguments: dict[str, Any] = dict(net.arguments)  # type: ignore[arg-type]
        self.arguments = {**arguments, "num_classes": 0, "features_only": True, "out_indices": out_indices}
        known: dict[str, Any] = getattr(net, "weights_info", {})
        self.weights_info = {key: value for key, value in known.items() if key not in ("classes", "thresholds")}
        indices = range(len(features)) if out_indices is None else out_indices
        for index in indices:
            if not isinstance(index, int) or not -len(features) <= index < len(features):
                reductions = ", ".join(str(feature.reduction) for feature in features)
                raise UserError(
                    f"out_indices={out_indices}: expected numbers from 0 to {len(features) - 1}, one for each feature "
                    f"map (reductions {reductions})"
                )
        self.feature_info = FeatureInfo(features[index] for index in indices)
        self._keys = [str(feature.reduction) for feature in self.feature_info]
        nodes = [
            {feature.module: str(feature.reduction) for feature in maps if str(feature.reduction) in self._keys}
            for maps in (find_feature_maps(net, train=True), features)
        ]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*nodes obtained by tracing the model.*")  # both are given
            self.body = create_feature_extractor(net, train_return_nodes=nodes[0], eval_return_nodes=nodes[1])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps: dict[str, torch.Tensor] = self.body(x)
        return [maps[key] for key in self._keys]


def find_feature_maps(net: nn.Module, *, train: bool = False) -> tuple[FeatureMap, ...]:
    """The feature maps of a network at its native image size, one for each reduction, from large to small.

    net: built by `create_model`.
    train: of the operations in training mode, which differ if some are random.
    """
    arguments: dict[str, Any] = dict(net.arguments)  # type: ignore[arg-type]
    facts = info(arguments["name"])
    smallest, _ = facts.sizes(arguments.get("stem", "native"))
    size = max(smallest, 32) if arguments.get("stem") == "small" else facts.input_size
    with torch.device("meta"):  # shapes are enough
        traced: Any = rebuild(net).train(train)
        images = torch.empty(2, arguments["in_channels"], size, size)
    tracer = NodePathTracer()
    graph = tracer.trace(traced)
    ShapeProp(fx.GraphModule(tracer.root, graph)).propagate(images)
    features: dict[int, FeatureMap] = {}
    for node in _shared_nodes(graph):
        shape = getattr(node.meta["tensor_meta"], "shape", None)
        if shape is None:  # of several tensors
            continue
        name = tracer.node_to_qualname[node]
        if len(shape) != 4 or _is_global_pool(node, traced) or name.split(".")[0] == traced.classifier_path[0]:
            break
        if isinstance(_layer(node, traced), nn.Identity):
            continue
        reduction = 2 ** int(math.log2(size / shape[2]) + 1e-9)
        features[reduction] = FeatureMap(name, shape[1], reduction)
    return tuple(features.values())


def _shared_nodes(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that all paths from the image to the logits lead through, without the image itself."""
    nodes = [node for node in graph.nodes if node.op not in ("get_attr", "output") and "tensor_meta" in node.meta]
    position = {node: number for number, node in enumerate(nodes)}
    shared, last_use = [], 0
    for number, node in enumerate(nodes):
        if number and last_use <= number:
            shared.append(node)
        if len(getattr(node.meta["tensor_meta"], "shape", range(4))) == 4:  # not the random choice of paths
            last_use = max([last_use, *(position.get(user, number) for user in node.users)])
    return shared


def _is_global_pool(node: fx.Node, net: nn.Module) -> bool:
    """Whether a node pools to a fixed size, where the head begins."""
    return isinstance(_layer(node, net), nn.AdaptiveAvgPool2d) or node.target is nn.functional.adaptive_avg_pool2d


def _layer(node: fx.Node, net: nn.Module) -> nn.Module | None:
    return net.get_submodule(str(node.target)) if node.op == "call_module" else None
