"""The base class of all networks. Its methods have the names that timm uses."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cnnzoo.checks import check_int
from cnnzoo.models.registry import rebuild

if TYPE_CHECKING:
    from cnnzoo.data.transforms.preprocess import Preprocess


class Network(nn.Module, ABC):
    """(N, in_channels, H, W) -> (N, num_classes). Subclasses implement `forward_features` and `forward_head`.

    `classifier_path` is where the last layer is, which has one output per class: the name of an attribute, and an index
    if that is a Sequential. `num_features` is the number of channels of what `forward_features` returns, and of the
    input of that layer. `cnnzoo.create_model` and `cnnzoo.load_run` set the attributes below them.
    """

    classifier_path: tuple[str] | tuple[str, int] = ("fc",)
    num_features: int
    arguments: dict[str, Any]
    """`create_model(**arguments)` builds the network again, without its weights."""
    preprocess: "Preprocess"
    """Converts an image to the input that the weights were evaluated on. Only with weights."""
    classes: tuple[str, ...]
    """The names of the outputs. Only with weights, and with their head."""
    thresholds: tuple[float, ...]
    """Only of a multi-label network: an image belongs to each class whose probability is at least its threshold."""
    replaced_parameters: list[str]
    """The parameters of a replaced head, which are random. Only with weights."""
    weights_info: dict[str, Any]
    """What is known about the weights. Only with weights."""

    if TYPE_CHECKING:

        def __call__(self, x: torch.Tensor) -> torch.Tensor: ...

    @abstractmethod
    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) -> the last feature map (N, num_features, h, w), or features (N, num_features)."""

    @abstractmethod
    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """What `forward_features` returns -> (N, num_classes).

        pre_logits: return (N, num_features) instead, the input of the last layer, averaged over the positions.
        """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The last layer; `nn.Identity` in a network without classes."""
        name, *index = self.classifier_path
        layers: Any = getattr(self, str(name))
        return layers[index[0]] if index else layers

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer, and that of auxiliary heads, by a new one with random weights.

        num_classes: 0 for a network without classes: (N, in_channels, H, W) -> (N, num_features), and no auxiliary
            heads.

        Raises UserError if it is negative or not an integer.
        """
        num_classes = check_int("num_classes", num_classes, minimum=0)
        arguments = dict(self.arguments)
        name, weight = self._module_name(self.get_classifier()), next(self.parameters())
        layers: dict[str, nn.Module] = {name: nn.Identity()}
        if num_classes:
            with weight.device:
                new = rebuild(self, num_classes=num_classes)
                with torch.device("meta"):
                    shapes = {
                        key: tensor.shape
                        for key, tensor in rebuild(self, num_classes=num_classes + 1).named_parameters()
                    }
            heads = [key.rpartition(".")[0] for key, tensor in new.named_parameters() if tensor.shape != shapes[key]]
            layers = {key: new.get_submodule(key) for key in heads} | {name: new.get_classifier()}
        else:
            for head in [key for key, _ in self.named_children() if key.startswith("aux")]:
                setattr(self, head, None)
                arguments["aux_logits"] = False
        for key, layer in layers.items():
            self.set_submodule(key, layer.to(weight.device, weight.dtype).train(self.training))
        self.arguments = {**arguments, "num_classes": num_classes}
        outputs = ("classes", "thresholds")
        for attribute in (*outputs, "replaced_parameters"):  # they no longer fit
            if hasattr(self, attribute):
                delattr(self, attribute)
        if hasattr(self, "weights_info"):
            self.weights_info = {key: value for key, value in self.weights_info.items() if key not in outputs}

    def _module_name(self, layer: nn.Module) -> str:
        return next(name for name, module in self.named_modules() if module is layer)

    @property
    def num_classes(self) -> int:
        return int(self.arguments["num_classes"])
