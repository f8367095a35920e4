"""The registry and `create_model`: names, overrides, stems, and error messages."""

import dataclasses
from functools import partial

import pytest
import torch
from torchvision.models import ResNet18_Weights

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
            r"alexnet has no argument 'droput': did you mean dropout\?$",
        ),
        (
            partial(create_model, "lenet5", depths=3),
            r"lenet5 has no argument 'depths': expected in_channels, num_classes, stem, weights$",
        ),
        (
            partial(create_model, "densenet121", growth=3),
            r"densenet121 has no argument 'growth': did you mean growth_rate\?$",
        ),
        (partial(create_model, "resnet18", pretrained=True), r"no argument 'pretrained': type weights=\"DEFAULT\" for"),
        (partial(create_model, "resnet18", in_chans=1), r"'in_chans': the number of image channels is in_channels="),
        (partial(create_model, "resnet18", in_channel=1), r"no argument 'in_channel': did you mean in_channels\?"),
        (partial(create_model, "resnet18", n_classes=2), r"'n_classes': the number of classes is num_classes="),
        (partial(create_model, "resnet18", checkpoint_path="x"), r"'checkpoint_path': type weights=\"FILE\""),
        (partial(create_model, "resnet18", progress=True), r"'progress': a download always shows its progress"),
        (partial(create_model, "alexnet", drop_rate=0.1), r"'drop_rate': networks with dropout call it dropout="),
        (partial(create_model, "alexnet", dropout="a"), r"^dropout=a: expected a number >= 0 and <= 1 .* for alexnet"),
        (partial(create_model, "alexnet", dropout=2), r"^dropout=2: expected a number >= 0 and <= 1 \(a probability\)"),
        (partial(create_model, "densenet121", growth_rate="a"), r"^densenet121 with growth_rate=a: "),
        *(
            (
                partial(create_model, name, dropout=0.1, stem="small"),
                rf"^dropout=0.1: {name} has no dropout with the small stem; leave it out, or choose stem=native",
            )
            for name in ("alexnet", "alexnet_paper", "vgg11", "zfnet", "zfnet_fig3")
        ),
        (partial(create_model, "fractalnet20", columns=99), r"^columns=99: expected a whole number from 1 to 8"),
        (partial(create_model, 50), r"^name=50: expected the name of a network"),
        (partial(create_model, "resnet"), r"'resnet': it is a family; its networks are resnet18, resnet34, "),
        (partial(info, "vgg"), r"'vgg': it is a family; its networks are vgg11, vgg11_bn, "),
        (partial(list_models, 42), r"^pattern=42: expected a text such as"),
        (partial(list_models, pretrained="yes"), r"^pretrained=yes: expected None, True or False"),
        (partial(create_model, "lenet5", weights=True), r"^weights=True: expected a file, or None"),
        (partial(create_model, "resnet18", num_classes=True), r"^num_classes=True: expected a whole number >= 1"),
        (partial(create_model, "resnet18", in_channels="3"), r"^in_channels=3: expected a whole number >= 1"),
        (partial(create_model, "resnet18", weights=True), r"^weights=True: expected 'IMAGENET1K_V1', a file, or None"),
        (
            partial(create_model, "resnet18", weights=ResNet18_Weights.IMAGENET1K_V1),
            r"^weights=ResNet18_Weights.IMAGENET1K_V1: expected 'IMAGENET1K_V1', a file, or None",
        ),
        (partial(create_model, "resnet18", weights="/"), r"^weights=/: is a directory; type a file \(.pth, "),
        (partial(create_model, "alexnet", num_classes=-1), r"num_classes=-1: expected a whole number >= 1 for alexnet"),
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
