"""Suggestions of similar names, and the error that contains them."""

from cnnzoo.errors import nearest, unknown


def test_nearest_ignores_case():
    assert nearest("imagenet1k_v3", ["IMAGENET1K_V1", "DEFAULT"]) == ["IMAGENET1K_V1"]
    assert nearest("ResNet50", ["resnet50", "vgg16"]) == ["resnet50"]


def test_unknown_without_similar_name_lists_choices():
    error = unknown("data set", "zzz", ["digits", "folder"])
    assert str(error) == "unknown data set 'zzz': expected one of: digits, folder"
    error = unknown("model", "zzz", [f"net{n}" for n in range(9)], limit=2)
    assert str(error).endswith("expected one of: net0, net1, ...")
