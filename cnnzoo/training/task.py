"""The task of a training: one label for each image (multiclass), or any number of them (multilabel)."""

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cnnzoo.data.datamodule import DataModule
from cnnzoo.errors import UserError
from cnnzoo.models.input_spec import InputSpec
from cnnzoo.training.classifier import Classifier
from cnnzoo.training.compilation import compile_network
from cnnzoo.training.gradient_checkpointing import checkpoint_gradients
from cnnzoo.training.losses import build_mixing, resolve_class_weights
from cnnzoo.training.multilabel_classifier import MultilabelClassifier


def resolve_task(task: str | None, data: DataModule) -> str:
    """The task for `data`, "multiclass" or "multilabel".

    task: the setting of this name; None for a job that has none. Raises UserError if it does not fit the labels.
    """
    train = data.split("train")
    assert train is not None
    found = "multiclass" if train.num_classes is None else "multilabel"
    if task == "multilabel" and found != task:
        raise UserError(
            f"task=multilabel: data={data.name} has one label for each image; type data=csv and data.label_columns "
            "(or data.label_separator), data=digits_multilabel for a trial, or leave task out"
        )
    if task == "multiclass" and found != task:
        raise UserError(
            f"task=multiclass: data={data.name} has any number of labels for each image; type task=multilabel"
        )
    return found


def build_classifier(
    net: nn.Module,
    input_spec: InputSpec,
    data: DataModule,
    *,
    optimizer: Callable[..., Optimizer],
    scheduler: Callable[..., LRScheduler | list[dict[str, Any]]] | None,
    cfg: DictConfig,
) -> Classifier:
    """Wrap the network with its optimizer, scheduler and loss; compile it in place if `cfg.compile`.

    With five classes or fewer, the top-5 accuracy is always 1 and is not logged. Raises `UserError` if it is to be
    optimized, and if `cfg.task` does not fit the data.
    """
    task = resolve_task(cfg.get("task"), data)
    if task == "multiclass" and data.num_classes <= 5 and cfg.get("optimized_metric") == "val/acc5":
        raise UserError(
            f"optimized_metric=val/acc5: {data.name} has {data.num_classes} classes, so the top-5 accuracy is always "
            "1; type optimized_metric=val/acc1"
        )
    aux_weight = cfg.model.get("aux_weight", 0.0) if cfg.model.args.get("aux_logits") else 0.0
    if cfg.get("gradient_checkpointing"):
        checkpoint_gradients(net)
    if cfg.compile:
        compile_network(net, cfg.compile, data, with_aux=bool(aux_weight))
    train = data.split("train")
    assert train is not None
    settings: dict[str, Any] = {
        "optimizer": optimizer,
        "scheduler": scheduler,
        "decay_norm_bias": cfg.get("decay_norm_bias", False),
        "first_layer_lr_ratio": cfg.get("first_layer_lr_ratio", 1.0),
        "label_smoothing": cfg.label_smoothing,
        "class_weights": resolve_class_weights(cfg.get("class_weights"), train.labels, data.num_classes),
        "focal_gamma": cfg.get("focal_gamma", 0.0),
        "mixing": build_mixing(cfg.get("mixup", 0.0), cfg.get("cutmix", 0.0), data.num_classes),
        "aux_weight": aux_weight,
        "test_time_flip": cfg.get("test_time_flip", False),
        "channels_last": cfg.channels_last,
        "num_classes": data.num_classes,
        "metadata": {
            "model": dict(net.arguments),  # type: ignore[arg-type]
            "data": data.name,
            "classes": list(data.classes),
            "preprocess": data.preprocess,
        },
    }
    if task == "multilabel":
        return MultilabelClassifier(net, **settings)
    return Classifier(net, topk=(1, 5) if data.num_classes > 5 else (1,), **settings)
