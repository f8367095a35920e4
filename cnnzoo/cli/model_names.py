"""The names of all networks, listed here because importing `cnnzoo.models` imports torch, which takes seconds.

A test compares them with the registry.
"""

from omegaconf import DictConfig

from cnnzoo.errors import UserError, nearest, unknown

MODEL_NAMES: dict[str, tuple[str, ...]] = {
    "alexnet": (
        "alexnet",
        "alexnet_paper",
    ),
    "densenet": (
        "densenet121",
        "densenet161",
        "densenet169",
        "densenet201",
        "densenet264",
        "densenet_40_12",
        "densenet_100_12",
        "densenet_100_24",
        "densenet_bc_100_12",
        "densenet_bc_250_24",
        "densenet_bc_190_40",
    ),
    "fractalnet": (
        "fractalnet20",
        "fractalnet40",
        "fractalnet34",
    ),
    "googlenet": (
        "googlenet",
        "googlenet_paper",
    ),
    "lenet": (
        "lenet5",
        "lenet5_paper",
    ),
    "nin": (
        "nin_cifar",
        "nin_imagenet",
    ),
    "resnet": (
        "preresnet110",
        "preresnet164",
        "preresnet1001",
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "resnet18_paper",
        "resnet34_paper",
        "resnet50_paper",
        "resnet101_paper",
        "resnet152_paper",
        "resnet20",
        "resnet32",
        "resnet44",
        "resnet56",
        "resnet110",
        "resnet1202",
    ),
    "resnext": (
        "resnext50_32x4d",
        "resnext101_32x4d",
        "resnext101_32x8d",
        "resnext101_64x4d",
        "resnext29_8x64d",
        "resnext29_16x64d",
    ),
    "squeezenet": (
        "squeezenet1_0",
        "squeezenet1_0_simple_bypass",
        "squeezenet1_0_complex_bypass",
        "squeezenet1_1",
        "squeezenet1_1_simple_bypass",
        "squeezenet1_1_complex_bypass",
    ),
    "stochastic_depth": (
        "resnet110_stochastic_depth",
        "resnet1202_stochastic_depth",
        "resnet152_stochastic_depth",
    ),
    "vgg": (
        "vgg11",
        "vgg11_bn",
        "vgg13",
        "vgg13_bn",
        "vgg16",
        "vgg16_bn",
        "vgg16_c",
        "vgg19",
        "vgg19_bn",
    ),
    "wide_resnet": (
        "wide_resnet50_2",
        "wide_resnet101_2",
        "wrn_16_8",
        "wrn_28_10",
        "wrn_40_4",
    ),
    "zfnet": (
        "zfnet",
        "zfnet_fig3",
    ),
}
"""Family -> its networks, as `model=family model.name=network` selects them."""
FAMILIES = {network: family for family, networks in MODEL_NAMES.items() for network in networks}
"""Network -> its family."""


def check_model_name(model: DictConfig | None) -> None:
    """Raise UserError if `model.name` is no network of `model.family`; families of users are not checked.

    model: the configuration group `model`, None if none is chosen.
    """
    if model is None or model.get("family") not in MODEL_NAMES or model.name in MODEL_NAMES[model.family]:
        return
    networks, name = MODEL_NAMES[model.family], str(model.name)
    if model.name in (None, ""):
        first = sorted(networks, key=lambda network: not network.startswith(model.family))[:4]
        raise UserError(f"model.name: expected a network of {model.family}: {', '.join(first)}, ...")
    if family := FAMILIES.get(name.lower()):
        raise UserError(f"model.name={name}: type model={family} model.name={name.lower()}")
    if name in MODEL_NAMES:
        names = ", ".join(MODEL_NAMES[name][:3])
        raise UserError(f"model.name={name}: it is a family; type model={name}; its networks are {names}...")
    similar = nearest(name, FAMILIES)
    if all(FAMILIES[network] == model.family for network in similar):
        raise unknown("model", name, networks)
    options = [f"model={FAMILIES[network]} model.name={network}" for network in similar]
    raise UserError(f"unknown model '{name}': did you mean {' or '.join(options)}?")
