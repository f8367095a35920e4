"""The networks, one file per paper. Importing a family puts its names into the registry."""

from cnnzoo.models import alexnet, densenet, googlenet, lenet, resnet, squeezenet, vgg, zfnet  # noqa: F401
from cnnzoo.models.registry import Info, create_model, info, list_models

__all__ = ["Info", "create_model", "info", "list_models"]
