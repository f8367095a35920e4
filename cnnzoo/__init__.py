"""The classic CNNs, from LeNet-5 to DenseNet and SqueezeNet, and one pipeline that trains them.

`create_model(name)` builds a network, `list_models()` lists the names, `info(name)` returns the facts of a network,
`load_run(directory)` loads a network that `train.py` has trained, and `predict_images(net, paths)` classifies image
files. `load_data(source)` gives the loaders of a data set for a training loop in plain PyTorch. Torch is imported by
their first use.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnzoo.data.load_data import load_data
    from cnnzoo.inference.load_run import load_run
    from cnnzoo.inference.networks import create_model
    from cnnzoo.models import info, list_models
    from cnnzoo.predict.predictor import predict_images
else:  # type checkers would accept every name
    from cnnzoo.runtime.imports import lazy_attributes

    _MODULES = {
        "create_model": "inference.networks",
        "info": "models",
        "list_models": "models",
        "load_data": "data.load_data",
        "load_run": "inference.load_run",
        "predict_images": "predict.predictor",
    }
    __getattr__ = lazy_attributes(__name__, _MODULES)

__version__ = "0.1.0"
__all__ = ["create_model", "info", "list_models", "load_data", "load_run", "predict_images"]


def __dir__() -> list[str]:
    return [*globals(), *__all__]
