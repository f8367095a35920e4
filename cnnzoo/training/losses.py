"""The training loss, and the mixing of images (mixup, cutmix) that changes its targets."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from cnnzoo.errors import UserError

Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(images (N, C, H, W), labels (N,) or multi-hot (N, num_classes)) -> (mixed images, targets (N, num_classes))."""


def classification_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> Tensor:
    """The mean loss of a batch: cross-entropy, or focal loss if `focal_gamma` > 0.

    logits: (N, num_classes).
    targets: labels (N,), or with `focal_gamma=0` also probabilities (N, num_classes).
    class_weights: (num_classes,) factors of each class's images; the mean is weighted by them.
    focal_gamma: the exponent of (1 - p), where p is the probability of the label (Lin et al. 2017, equation 4).
    """
    if not focal_gamma:
        return F.cross_entropy(logits, targets, class_weights, label_smoothing=label_smoothing)
    losses = F.cross_entropy(logits, targets, class_weights, label_smoothing=label_smoothing, reduction="none")
    probabilities = logits.softmax(1).gather(1, targets[:, None])[:, 0]
    total_weight = len(targets) if class_weights is None else class_weights[targets].sum()
    return ((1 - probabilities) ** focal_gamma * losses).sum() / total_weight


def balanced_class_weights(labels: npt.NDArray[np.int64], num_classes: int) -> list[float]:
    """N / (num_classes * images of the class) for each class, as scikit-learn's "balanced"; 0 for one without images.

    labels: (N,).
    """
    counts = np.bincount(labels, minlength=num_classes)
    return np.divide(len(labels), num_classes * counts, out=np.zeros(num_classes), where=counts > 0).tolist()


def balanced_positive_weights(labels: npt.NDArray[np.uint8]) -> list[float]:
    """Images outside the class / images of the class for each class, as for `pos_weight` of PyTorch; 1 without images.

    labels: multi-hot, (N, num_classes).
    """
    counts = labels.sum(axis=0, dtype=np.int64)
    return np.divide(len(labels) - counts, counts, out=np.ones(len(counts)), where=counts > 0).tolist()


def resolve_class_weights(
    value: str | Sequence[float] | None, labels: npt.NDArray[Any], num_classes: int
) -> list[float] | None:
    """The setting `class_weights` as one number per class; raises UserError if a list has another length.

    labels: (N,), or multi-hot (N, num_classes), for which "balanced" gives `balanced_positive_weights`.
    """
    if value is None:
        return None
    if value == "balanced":
        return balanced_class_weights(labels, num_classes) if labels.ndim == 1 else balanced_positive_weights(labels)
    weights = [float(weight) for weight in value]
    if len(weights) != num_classes:
        raise UserError(
            f"class_weights={weights}: {len(weights)} numbers, but the data has {num_classes} classes; type "
            "class_weights=balanced, or one number per class"
        )
    return weights


def build_mixing(mixup: float, cutmix: float, num_classes: int) -> Mixing | None:
    """Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019) from torchvision; None if both are 0.

    mixup, cutmix: the alpha of the Beta distribution of the mixing ratio; 0 turns it off. With both, each batch is
    mixed by one of them, chosen at random. The random numbers are those of torch's generator on the CPU, so that
    nothing waits for the device.
    """
    if not mixup and not cutmix:
        return None
    from torchvision.transforms import v2  # here: few runs need it, and it takes 0.3 s

    kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
    transforms = [kind(alpha=float(alpha), num_classes=num_classes) for kind, alpha in kinds if alpha]

    def mix(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        index = int(torch.randint(len(transforms), (1,))) if len(transforms) > 1 else 0
        targets = F.one_hot(labels, num_classes) if labels.ndim == 1 else labels
        return transforms[index](images, targets.to(images.dtype))

    return mix
