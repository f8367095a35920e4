"""Precision, recall and F1 of each class."""

from collections.abc import Sequence


def per_class_report(counts: Sequence[Sequence[int]], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and the number of images of each class; 0 for a precision or recall without images.

    counts: for each class the numbers of images that are correct, predicted as it, and labeled as it.
    """
    return {
        name: {
            "precision": correct / max(predicted, 1),
            "recall": correct / max(labeled, 1),
            "f1": 2 * correct / max(predicted + labeled, 1),
            "images": labeled,
        }
        for name, correct, predicted, labeled in zip(names, *counts, strict=True)
    }
