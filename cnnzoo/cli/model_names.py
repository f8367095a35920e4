"""The names of all networks, listed here because importing `cnnzoo.models` imports torch, which takes seconds.

A test compares them with the registry.
"""

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
