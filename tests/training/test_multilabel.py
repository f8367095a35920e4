"""The loss, the average precision and the thresholds of multi-label classification."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from torch.nn import functional as F
from torchmetrics.functional.classification import multilabel_average_precision
from torchvision.ops import sigmoid_focal_loss

from cnnzoo.errors import UserError
from cnnzoo.training.losses import balanced_positive_weights, build_mixing, resolve_class_weights
from cnnzoo.training.multilabel import DEFAULT_THRESHOLD, MultilabelOutputs, multilabel_loss, score_classes


def make_outputs(images=300, classes=4, seed=0):
    """Probabilities that are better than chance, with many ties, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(images, classes, generator=generator) < torch.linspace(0.1, 0.6, classes)).byte()
    logits = torch.randn(images, classes, generator=generator) + 1.5 * labels
    return logits.sigmoid().mul(50).round().div(50), labels


def test_multilabel_loss_is_pytorchs_cross_entropy():
    logits, targets = torch.randn(6, 3), torch.randint(2, (6, 3), dtype=torch.uint8)
    expected = F.binary_cross_entropy_with_logits(logits, targets.float())
    assert torch.equal(multilabel_loss(logits, targets), expected)
    weights = torch.tensor([1.0, 2.0, 0.5])
    weighted = F.binary_cross_entropy_with_logits(logits, targets.float(), pos_weight=weights)
    assert torch.equal(multilabel_loss(logits, targets, class_weights=weights), weighted)


def test_multilabel_loss_label_smoothing_moves_targets():
    logits, targets = torch.randn(6, 3), torch.randint(2, (6, 3)).float()
    expected = F.binary_cross_entropy_with_logits(logits, torch.where(targets > 0, 0.95, 0.05))
    torch.testing.assert_close(multilabel_loss(logits, targets, label_smoothing=0.1), expected)


def test_multilabel_loss_focal_equals_torchvisions():
    logits, targets = torch.randn(6, 3), torch.randint(2, (6, 3)).float()
    expected = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=2, reduction="mean")
    torch.testing.assert_close(multilabel_loss(logits, targets, focal_gamma=2), expected)


def test_balanced_positive_weights_are_negatives_per_positive():
    labels = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 1], [1, 0, 0]], np.uint8)
    assert balanced_positive_weights(labels) == [1 / 3, 1, 1]
    assert resolve_class_weights("balanced", labels, 3) == [1 / 3, 1, 1]
    with pytest.raises(UserError, match="2 numbers, but the data has 3 classes"):
        resolve_class_weights([1, 2], labels, 3)


def test_mixing_blends_multi_hot_labels():
    torch.manual_seed(0)
    images, labels = torch.rand(4, 1, 8, 8), torch.tensor([[1, 1], [0, 0], [1, 0], [0, 1]], dtype=torch.uint8)
    mixed, targets = build_mixing(1.0, 0.0, 2)(images, labels)
    share = (mixed[1] - images[0]).mean() / (images[1] - images[0]).mean()  # row 1 is mixed with row 0
    torch.testing.assert_close(targets[1], (1 - share) * labels[0].float())


def test_score_classes_map_equals_scikit_learns():
    probabilities, labels = make_outputs()
    expected = average_precision_score(labels, probabilities, average=None)
    scores = score_classes(probabilities, labels)
    np.testing.assert_allclose(scores.average_precision, expected, atol=1e-6)
    assert scores.averages()["map"] == pytest.approx(average_precision_score(labels, probabilities), abs=1e-6)
    torchmetrics = multilabel_average_precision(probabilities, labels.long(), num_labels=4)
    assert scores.averages()["map"] == pytest.approx(float(torchmetrics), abs=1e-6)


def test_score_classes_f1_equals_scikit_learns():
    probabilities, labels = make_outputs()
    thresholds = [0.3, 0.5, 0.6, 0.4]
    scores = score_classes(probabilities, labels, thresholds)
    predicted = probabilities >= torch.tensor(thresholds)
    expected = f1_score(labels, predicted, average=None)
    report = scores.report(["a", "b", "c", "d"])
    np.testing.assert_allclose([row["f1"] for row in report.values()], expected)
    assert scores.averages()["f1"] == pytest.approx(expected.mean())
    assert report["c"]["threshold"] == 0.6
    assert report["c"]["images"] == int(labels[:, 2].sum())


def test_score_classes_chooses_the_largest_f1():
    probabilities, labels = make_outputs(images=60, classes=2)
    chosen = score_classes(probabilities, labels).thresholds
    for column, threshold in enumerate(chosen):
        best = max(
            f1_score(labels[:, column], probabilities[:, column] >= value)
            for value in probabilities[:, column].unique()
        )
        predicted = probabilities[:, column] >= torch.tensor(threshold)
        assert f1_score(labels[:, column], predicted) == pytest.approx(best)


def test_score_classes_threshold_is_between_two_scores():
    probabilities = torch.tensor([[0.9], [0.7], [0.2], [0.1]])
    labels = torch.tensor([[1], [1], [0], [0]], dtype=torch.uint8)
    assert score_classes(probabilities, labels).thresholds == pytest.approx([0.45])
    neighbors = torch.tensor([[0.5], [np.nextafter(np.float32(0.5), np.float32(0))]])
    (threshold,) = score_classes(neighbors, labels[1:3]).thresholds
    assert threshold == 0.5  # there is no number of this precision between them


def test_score_classes_class_without_images_has_no_score():
    probabilities, labels = make_outputs(classes=2)
    labels[:, 1] = 0
    scores = score_classes(probabilities, labels)
    assert scores.average_precision[1] is None
    assert scores.thresholds[1] == DEFAULT_THRESHOLD
    assert scores.averages()["map"] == scores.average_precision[0]


def test_multilabel_outputs_joins_batches():
    outputs = MultilabelOutputs()
    logits, labels = torch.randn(5, 2), torch.randint(2, (5, 2), dtype=torch.uint8)
    outputs.add(logits[:3], labels[:3])
    outputs.add(logits[3:].bfloat16(), labels[3:])
    probabilities, gathered = outputs.gather(2, torch.device("cpu"), world_size=1)
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities, logits.sigmoid(), atol=1e-2, rtol=0)
    assert torch.equal(gathered, labels)
    empty, no_labels = MultilabelOutputs().gather(2, torch.device("cpu"), world_size=1)
    assert (empty.shape, no_labels.shape, no_labels.dtype) == ((0, 2), (0, 2), torch.uint8)
