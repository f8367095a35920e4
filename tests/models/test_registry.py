"""The registry and `create_model`: names, overrides, stems, and error messages."""

import dataclasses
from functools import partial

import pytest
import torch

from cnnzoo.errors import UserError
from cnnzoo.models import create_model, info, list_models, registry
from cnnzoo.models.registry import Info, Paper, register
from cnnzoo.models.resnet import Bottleneck


def test_list_models() -> None:
    assert list_models("vgg1?_bn") == ["vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]
    assert list_models(family="nin") == ["nin_cifar", "nin_imagenet"]
    assert list_models("nothing*") == []
    assert "vgg16_c" in list_models(pretrained=False)
    assert "vgg16_c" not in list_models(pretrained=True)
    assert sorted(list_models(pretrained=True) + list_models(pretrained=False)) == sorted(list_models())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(create_model, "resnt50"), r"unknown model 'resnt50': did you mean resnet50"),
        (partial(info, "vgg_16"), r"unknown model 'vgg_16': did you mean vgg16"),
        (partial(list_models, family="resnets"), r"unknown family 'resnets': did you mean resnet"),
        (partial(create_model, "alexnet", stem="smal"), r"unknown stem 'smal': did you mean small"),
        (partial(create_model, "alexnet", stem="auto"), r"unknown stem 'auto': expected one of: native, small"),
        (partial(create_model, "lenet5", stem="huge"), r"unknown stem 'huge': expected one of: native, small"),
        (
            partial(create_model, "alexnet", droput=0.1),
            r"alexnet has no argument 'droput' \(did you mean dropout\?\): expected dropout$",
        ),
        (
            partial(create_model, "lenet5", depths=3),
            r"lenet5 has no argument 'depths': expected no further arguments",
        ),
        (
            partial(create_model, "densenet121", growth=3),
            r"'growth' \(did you mean growth_rate\?\): expected growth_rate, ",
        ),
        (partial(create_model, "alexnet", num_classes=0), r"num_classes=0: expected a whole number >= 1 for alexnet"),
        (
            partial(create_model, "alexnet", in_channels=1.5),
            r"in_channels=1.5: expected a whole number >= 1 for alexnet",
        ),
        (partial(create_model, "googlenet", in_channels=1, transform_input=True), r"transform_input=True needs"),
        (partial(info("resnet18").sizes, "tiny"), r"unknown stem 'tiny'"),
    ],
)
def test_error_names_the_value_and_the_alternatives(call: partial, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_register_twice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))
    facts = Info(name="fresh", family="test", paper=Paper("A paper", 2024, None), parameters=1, min_size=1)
    register(facts, torch.nn.Identity)
    assert info("fresh") is facts
    with pytest.raises(ValueError, match="'fresh' is registered twice"):
        register(facts, torch.nn.Identity)


def test_info_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        info("alexnet").parameters = 3  # type: ignore[misc]


def test_sizes_by_stem() -> None:
    assert info("alexnet").sizes("native") == (63, None)
    assert info("alexnet").sizes("small") == (29, None)
    assert info("lenet5").sizes("small") == (32, 32)


def test_overrides_are_passed_to_the_constructor() -> None:
    net = create_model("squeezenet1_1", dropout=0.25, num_classes=3)
    assert [module.p for module in net.modules() if isinstance(module, torch.nn.Dropout)] == [0.25]
    # a list, as in a configuration file, instead of a tuple
    thin = create_model("densenet121", growth_rate=4, depths=[1, 1, 2, 1], stem="small", num_classes=3)
    assert thin.num_features == 10
    assert thin(torch.randn(2, 3, 8, 8)).shape == (2, 3)


def test_arguments_rebuild_the_network() -> None:
    net = create_model("densenet121", growth_rate=4, depths=(1, 1, 1, 1), stem="small", num_classes=3, in_channels=1)
    again = create_model(**net.arguments)
    assert again.arguments == net.arguments
    again.load_state_dict(net.state_dict(), strict=True)


def test_network_without_small_stem_accepts_both() -> None:
    native, small = (create_model("lenet5", stem=stem) for stem in ("native", "small"))
    small.load_state_dict(native.state_dict(), strict=True)


def test_block_override_moves_the_stride() -> None:
    """With the stride in the first 1 x 1 convolution there are fewer multiply-accumulates (1512.03385, Table 1)."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net = create_model("resnet50", block=partial(Bottleneck, strided=1)).eval()
        net(torch.empty(1, 3, 224, 224))
    assert sum(p.numel() for p in net.parameters()) == 25_557_032
    assert counter.get_total_flops() == 2 * 3_857_973_248
