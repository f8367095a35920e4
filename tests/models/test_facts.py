"""The facts of all models against tests/zoo.csv and torchvision: counts, image sizes and published accuracy."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model_weights

from cnnzoo.models import info, list_models
from tests.helpers.zoo import ONE_PER_FAMILY, build_on_meta, name_params, read_zoo_csv

CSV_NAMES = [row["name"] for row in read_zoo_csv() if not row["arguments"]]


def csv_row(name: str) -> dict[str, str]:
    (row,) = [row for row in read_zoo_csv() if row["name"] == name and not row["arguments"]]
    return row


def count_parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def test_zoo_csv_names_models_that_exist() -> None:
    assert set(CSV_NAMES) <= set(list_models())
    assert len(CSV_NAMES) == 72
    assert sorted(info(name).family for name in ONE_PER_FAMILY) == sorted({info(name).family for name in list_models()})


@pytest.mark.parametrize("name", name_params())
def test_parameters_and_multiply_accumulates(name: str) -> None:
    facts, net = info(name), build_on_meta(name).eval()
    assert count_parameters(net) == facts.parameters
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        net(torch.empty(1, facts.in_channels, facts.input_size, facts.input_size))
    if facts.multiply_accumulates is not None:
        assert counter.get_total_flops() == 2 * facts.multiply_accumulates


@pytest.mark.parametrize("name", CSV_NAMES)
def test_facts_equal_zoo_csv(name: str) -> None:
    row, facts = csv_row(name), info(name)
    assert facts.name == name
    assert facts.family == row["family"]
    assert facts.num_classes == int(row["num_classes"])
    assert facts.in_channels == int(row["in_channels"])
    assert facts.input_size == int(row["input_size"])
    assert facts.parameters == int(row["parameters"])
    assert facts.multiply_accumulates == (int(row["multiply_accumulates"]) if row["multiply_accumulates"] else None)
    assert facts.torchvision == (row["torchvision"] or None)


def test_googlenet_parameters_with_auxiliary_heads() -> None:
    (row,) = [row for row in read_zoo_csv() if row["name"] == "googlenet" and row["arguments"] == "aux_logits=True"]
    assert count_parameters(build_on_meta("googlenet", aux_logits=True)) == int(row["parameters"])


@pytest.mark.parametrize("name", list_models(pretrained=True))
def test_weights_and_accuracy_equal_torchvision(name: str) -> None:
    facts = info(name)
    enum = get_model_weights(facts.torchvision)
    loadable = [key for key, member in enum.__members__.items() if key == member.name and member.meta["categories"]]
    assert list(facts.weights) == loadable
    metrics = enum["IMAGENET1K_V1"].meta["_metrics"]["ImageNet-1K"]
    assert facts.accuracy is not None
    assert facts.accuracy.top1 == pytest.approx(metrics["acc@1"] / 100, abs=1e-9)
    assert facts.accuracy.top5 == pytest.approx(metrics["acc@5"] / 100, abs=1e-9)
    assert f"{enum.__name__}.IMAGENET1K_V1".lower() in facts.accuracy.source.lower()


@pytest.mark.parametrize("name", [name for name in list_models() if info(name).torchvision is None])
def test_no_torchvision_network_no_weights(name: str) -> None:
    assert info(name).weights == ()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("alexnet", 2_472_266),
        ("vgg11_bn", 9_231_114),
        ("vgg16_bn", 14_728_266),
        ("vgg19_bn", 20_040_522),
        ("resnet18", 11_173_962),
        ("resnet34", 21_282_122),
        ("resnet50", 23_520_842),
        ("densenet121", 6_956_298),
    ],
)
def test_small_stem_parameters(name: str, parameters: int) -> None:
    assert count_parameters(build_on_meta(name, num_classes=10, stem="small")) == parameters


@pytest.mark.parametrize("stem", ["native", "small"])
@pytest.mark.parametrize("name", name_params())
def test_min_size_is_exact(name: str, stem: str) -> None:
    facts = info(name)
    side = facts.sizes(stem)[0]

    net = build_on_meta(name, num_classes=10, stem=stem)

    def run(side: int, *, train: bool) -> None:
        net.train(train)
        images = torch.empty(2 if train else 1, facts.in_channels, side, side, device="meta")
        logits = net(images)
        assert logits.shape == (len(images), 10)
        if train:
            logits.sum().backward()

    run(side, train=False)
    run(side, train=True)
    with pytest.raises((RuntimeError, ValueError)):
        run(side - 1, train=False)


@pytest.mark.parametrize(("name", "stem"), [("zfnet", "small"), ("googlenet", "small"), ("squeezenet1_1", "small")])
def test_small_stem_accepts_16_pixels(name: str, stem: str) -> None:
    assert info(name).sizes(stem)[0] <= 16


def test_max_size_is_exact() -> None:
    assert info("lenet5").sizes("native") == info("lenet5").sizes("small") == (32, 32)
    with pytest.raises(RuntimeError):
        build_on_meta("lenet5")(torch.empty(1, 1, 36, 36, device="meta"))
