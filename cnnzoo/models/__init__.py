"""The networks, one file per paper. Importing a family's module registers its names."""

from cnnzoo.models import (  # noqa: F401
    alexnet,
    densenet,
    fractalnet,
    googlenet,
    lenet,
    nin,
    preresnet,
    resnet,
    resnext,
    squeezenet,
    stochastic_depth,
    vgg,
    wide_resnet,
    zfnet,
)
from cnnzoo.models.factory import create_model
from cnnzoo.models.registry import Info, info, list_models

__all__ = ["Info", "create_model", "info", "list_models"]
