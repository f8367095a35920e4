"""Metrics by class, against torchmetrics."""

import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from cnnzoo.callbacks.class_report import per_class_report
from cnnzoo.training.metrics import ClassCounts, class_averages


@pytest.fixture
def predictions():
    """Predicted classes and labels of 200 images of six classes; class 4 has predictions only, class 5 nothing."""
    torch.manual_seed(0)
    labels = torch.randint(4, (200,)).clamp(max=2) + (torch.rand(200) < 0.05).long()
    predicted = torch.where(torch.rand(200) < 0.6, labels, torch.randint(5, (200,)))
    return predicted, labels


def counts_of(predicted, labels, num_classes=6):
    metric = ClassCounts(num_classes)
    for start in range(0, len(labels), 33):
        metric.add(predicted[start : start + 33], labels[start : start + 33])
    metric.update()
    return metric.compute()


def test_class_counts_equal_a_count_by_hand():
    counts = counts_of(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2]), num_classes=4)
    assert counts.tolist() == [[1, 1, 1, 0], [1, 2, 1, 0], [1, 1, 2, 0]]


def test_class_averages_equal_torchmetrics(predictions):
    predicted, labels = predictions
    averages = class_averages(counts_of(predicted, labels))
    f1 = multiclass_f1_score(predicted, labels, 6, average="macro")
    assert averages["f1"].item() == pytest.approx(f1.item(), rel=1e-6)
    occurring = int(labels.max()) + 1  # torchmetrics' macro accuracy also averages over classes that are only predicted
    recall = multiclass_accuracy(predicted, labels, 6, average=None)[:occurring]
    assert averages["balanced_acc"].item() == pytest.approx(recall.mean().item(), rel=1e-6)


def test_per_class_report_equals_torchmetrics(predictions):
    predicted, labels = predictions
    report = per_class_report(counts_of(predicted, labels).tolist(), list("abcdef"))
    for key, metric in (
        ("precision", multiclass_precision),
        ("recall", multiclass_recall),
        ("f1", multiclass_f1_score),
    ):
        expected = metric(predicted, labels, 6, average=None).tolist()
        assert [entry[key] for entry in report.values()] == pytest.approx(expected)
    assert [entry["images"] for entry in report.values()] == torch.bincount(labels, minlength=6).tolist()


def test_class_averages_without_images_are_nan():
    assert class_averages(torch.zeros(3, 4, dtype=torch.int64))["f1"].isnan()
