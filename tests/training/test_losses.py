"""The training losses, class weights and the mixing of images, against torchvision and counts by hand."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss
from torchvision.transforms import v2

from cnnzoo.errors import UserError
from cnnzoo.training.losses import (
    balanced_class_weights,
    build_mixing,
    classification_loss,
    resolve_class_weights,
)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(8, 3, 6, 6), torch.randint(4, (8,))


def test_loss_is_weighted_smoothed_cross_entropy():
    logits, labels, weights = torch.randn(9, 4), torch.randint(4, (9,)), torch.tensor([1.0, 2.0, 0.5, 0.0])
    loss = classification_loss(logits, labels, class_weights=weights, label_smoothing=0.1)
    assert torch.equal(loss, F.cross_entropy(logits, labels, weights, label_smoothing=0.1))


def test_focal_loss_of_two_classes_equals_torchvision():
    score, labels = torch.randn(50), torch.randint(2, (50,))
    logits = torch.stack([torch.zeros(50), score], 1)  # the softmax of these is the sigmoid of the score
    expected = sigmoid_focal_loss(score, labels.float(), alpha=-1, gamma=2.0, reduction="mean")
    assert classification_loss(logits, labels, focal_gamma=2.0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_focal_loss_averages_by_class_weight():
    logits, labels, weights = torch.randn(50, 3), torch.randint(3, (50,)), torch.tensor([1.0, 3.0, 0.2])
    p = logits.softmax(1)[torch.arange(50), labels]
    expected = (weights[labels] * (1 - p) ** 1.5 * -p.log()).sum() / weights[labels].sum()
    loss = classification_loss(logits, labels, class_weights=weights, focal_gamma=1.5)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_balanced_class_weights_equal_a_count_by_hand():
    labels = np.array([0] * 40 + [1] * 6 + [3] * 2)
    assert balanced_class_weights(labels, 4) == pytest.approx([48 / 160, 48 / 24, 0, 48 / 8])
    assert resolve_class_weights("balanced", labels, 4) == balanced_class_weights(labels, 4)
    assert resolve_class_weights([1, 2, 3, 4], labels, 4) == [1.0, 2.0, 3.0, 4.0]
    assert resolve_class_weights(None, labels, 4) is None


def test_class_weights_of_another_length_are_an_error():
    with pytest.raises(UserError, match=r"class_weights=\[1\.0, 2\.0\]: 2 numbers, but the data has 4 classes"):
        resolve_class_weights([1, 2], np.array([0, 1, 2, 3]), 4)


@pytest.mark.parametrize(("kind", "alphas"), [(v2.MixUp, (0.3, 0)), (v2.CutMix, (0, 0.8))])
def test_mixing_equals_torchvision(batch, kind, alphas):
    mixing = build_mixing(*alphas, num_classes=4)
    torch.manual_seed(5)
    images, targets = mixing(*batch)
    torch.manual_seed(5)
    expected_images, expected_targets = kind(alpha=max(alphas), num_classes=4)(*batch)
    assert torch.equal(images, expected_images)
    assert not torch.equal(images, batch[0])
    assert torch.allclose(targets, expected_targets)
    assert torch.allclose(targets.sum(1), torch.ones(8))


def test_mixing_with_both_uses_each(batch):
    mixing = build_mixing(1, 1, num_classes=4)
    torch.manual_seed(0)
    blended = 0
    for _ in range(40):
        images, _ = mixing(*batch)
        from_inputs = (images == batch[0]) | (images == batch[0].roll(1, 0))
        blended += not from_inputs.all()  # cutmix copies pixels, mixup blends them
    assert 10 < blended < 30


def test_mixing_turned_off_is_none():
    assert build_mixing(0.0, 0.0, num_classes=4) is None
