"""The nearest names, and the line that offers them."""

from cnnzoo.errors import nearest, unknown


def test_capitals_do_not_matter():
    assert nearest("imagenet1k_v3", ["IMAGENET1K_V1", "DEFAULT"]) == ["IMAGENET1K_V1"]
    assert nearest("ResNet50", ["resnet50", "vgg16"]) == ["resnet50"]


def test_a_name_far_from_all_gets_some_of_them():
    assert str(unknown("data set", "zzz", ["digits", "folder"])) == "unknown data set 'zzz': there are digits, folder"
    assert str(unknown("model", "zzz", [f"net{n}" for n in range(9)], most=2)).endswith("there are net0, net1, ...")
