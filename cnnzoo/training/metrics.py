"""Metrics that add up on the device: sums over images, and counts per class."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric


class Mean(Metric):
    """The mean of a value over the images of all ranks; nan is not left out.

    `add` neither waits for the device nor goes through torchmetrics' update, which takes longer than a small layer.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__(compute_with_cache=False)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("weight", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self) -> None:
        """Called once before `compute`, as torchmetrics expects it; `add` adds the values."""

    def add(self, value: Tensor, *, times: int = 1, images: int) -> None:
        """Add `times * value`, the sum over a batch of `images` images; `value` is on the device."""
        self.total.add_(value, alpha=times)
        self.weight.add_(images)

    def compute(self) -> Tensor:
        return self.total / self.weight


class ClassCounts(Metric):
    """For each class the numbers of images that are correct, predicted as it, and labeled as it, over all ranks.

    `compute` returns them as int64 (3, num_classes). torchmetrics' own counts wait for the GPU in each batch.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__(compute_with_cache=False)
        self.add_state("counts", torch.zeros(3, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self) -> None:
        """Called once before `compute`, as torchmetrics expects it; `add` adds the images."""

    def add(self, predicted: Tensor, labels: Tensor) -> None:
        """Add a batch: predicted classes (N,) and labels (N,)."""
        self.counts[0].index_add_(0, labels, (predicted == labels).long())
        for row, classes in ((1, predicted), (2, labels)):
            self.counts[row].index_add_(0, classes, torch.ones_like(classes))

    def compute(self) -> Tensor:
        return self.counts


def class_averages(counts: Tensor) -> dict[str, Tensor]:
    """Averages over the classes, each class with the same weight, from counts (3, num_classes).

    `balanced_acc` is the mean recall of the classes that have images, as scikit-learn's `balanced_accuracy_score`; `f1`
    is the mean F1 of the classes that have images or predictions, as torchmetrics' macro average.
    """
    correct, predicted, labeled = counts.float()
    has_images, occurs = labeled > 0, predicted + labeled > 0
    recall, f1 = correct / labeled.clamp(min=1), 2 * correct / (predicted + labeled).clamp(min=1)
    return {"balanced_acc": recall.sum() / has_images.sum(), "f1": f1.sum() / occurs.sum()}


def read_values(values: Mapping[str, Tensor | float]) -> dict[str, float]:
    """The values as numbers; those on a device are copied to the CPU together, which waits for the device once."""
    on_device = {name: value for name, value in values.items() if isinstance(value, Tensor) and not value.is_cpu}
    read: dict[str, float] = {}
    if on_device:
        read = dict(zip(on_device, torch.stack([value.float() for value in on_device.values()]).tolist(), strict=True))
    return {name: read[name] if name in read else float(value) for name, value in values.items()}


def topk_correct(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """(N, num_classes), (N,) -> (N,) float: 1 if the label is among the `k` largest logits, else 0.

    With fewer than `k` classes all of them count.
    """
    if k == 1:
        return (logits.argmax(1) == labels).float()
    k = min(k, logits.shape[1])
    return (logits.topk(k, dim=1).indices == labels[:, None]).any(dim=1).float()
