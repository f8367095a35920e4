"""DenseNet: shapes of blocks and transitions, dropout, and memory-efficient training."""

import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from cnnzoo.errors import UserError
from cnnzoo.models import create_model, info
from cnnzoo.models.densenet import BottleneckLayer, DenseBlock, DenseLayer
from tests.helpers.zoo import build_on_meta


def slow(name: str, channels: list[int]) -> object:
    """A parameter for `-m zoo` only, because tracing the network takes seconds."""
    return pytest.param(name, channels, marks=pytest.mark.zoo, id=name)


def block_shapes(name: str) -> list[tuple[int, int]]:
    """Channels and size of the outputs of the first convolution or pool, the blocks and the transitions."""
    blocks = 4 if info(name).input_size == 224 else 3
    nodes = ["features.pool0" if blocks == 4 else "features.conv0"]
    for i in range(1, blocks + 1):
        nodes += [f"features.denseblock{i}"] + [f"features.transition{i}"] * (i < blocks)
    extractor = create_feature_extractor(build_on_meta(name).eval(), nodes)
    features = extractor(torch.empty(1, 3, info(name).input_size, info(name).input_size, device="meta"))
    assert all(feature.shape[2] == feature.shape[3] for feature in features.values())
    return [(features[node].shape[1], features[node].shape[2]) for node in nodes]


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("densenet121", [64, 256, 128, 512, 256, 1024, 512, 1024]),
        slow("densenet161", [96, 384, 192, 768, 384, 2112, 1056, 2208]),
        slow("densenet169", [64, 256, 128, 512, 256, 1280, 640, 1664]),
        slow("densenet201", [64, 256, 128, 512, 256, 1792, 896, 1920]),
        slow("densenet264", [64, 256, 128, 512, 256, 2304, 1152, 2688]),
    ],
)
def test_imagenet_shapes(name: str, channels: list[int]) -> None:
    assert block_shapes(name) == list(zip(channels, [56, 56, 28, 28, 14, 14, 7, 7], strict=True))


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("densenet_40_12", [16, 160, 160, 304, 304, 448]),
        slow("densenet_100_12", [16, 400, 400, 784, 784, 1168]),
        slow("densenet_100_24", [16, 784, 784, 1552, 1552, 2320]),
        ("densenet_bc_100_12", [24, 216, 108, 300, 150, 342]),
        slow("densenet_bc_250_24", [48, 1032, 516, 1500, 750, 1734]),
        slow("densenet_bc_190_40", [80, 1320, 660, 1900, 950, 2190]),
    ],
)
def test_cifar_shapes(name: str, channels: list[int]) -> None:
    assert block_shapes(name) == list(zip(channels, [32, 32, 16, 16, 8, 8], strict=True))
    layers = [module for module in build_on_meta(name).modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == int(name.split("_")[-2])


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({"depth": 40, "growth_rate": 36}, 1_542_682),  # the wide networks on the authors' page
        ({"depth": 40, "growth_rate": 48}, 2_733_130),
        ({"depth": 40, "growth_rate": 60}, 4_261_690),
        ({"num_classes": 100}, 800_032),
    ],
)
def test_cifar_overrides_parameters(arguments: dict, parameters: int) -> None:
    assert sum(p.numel() for p in build_on_meta("densenet_bc_100_12", **arguments).parameters()) == parameters


@pytest.mark.parametrize(("name", "depth"), [("densenet_40_12", 41), ("densenet_bc_100_12", 43), ("densenet_40_12", 4)])
def test_cifar_invalid_depth_is_an_error(name: str, depth: int) -> None:
    with pytest.raises(UserError, match=f"depth={depth}: with bc=.* expected "):
        create_model(name, depth=depth)


@pytest.mark.parametrize("name", ["densenet_40_12", "densenet_bc_100_12", "densenet121"])
def test_dropout_follows_all_but_the_first_convolution(name: str) -> None:
    nodes = [m for m in build_on_meta(name, dropout=0.2).modules() if isinstance(m, nn.Conv2d | nn.Dropout)]
    assert isinstance(nodes[0], nn.Conv2d)
    convs, dropouts = nodes[1::2], nodes[2::2]
    assert len(convs) == len(dropouts) > 30
    assert all(isinstance(conv, nn.Conv2d) for conv in convs)
    assert all(isinstance(dropout, nn.Dropout) and dropout.p == 0.2 for dropout in dropouts)
    assert {m.p for m in build_on_meta(name).modules() if isinstance(m, nn.Dropout)} == {0.0}


def test_cifar_initialization() -> None:
    """N(0, 2 / fan_out), as in the authors' code; for ImageNet N(0, 2 / fan_in), as in torchvision."""
    torch.manual_seed(0)
    weight = create_model("densenet_40_12").features.denseblock3.denselayer12.conv1.weight  # 436 to 12
    assert weight.std().item() == pytest.approx((2 / (12 * 9)) ** 0.5, rel=0.02)
    weight = create_model("densenet121", stem="small").features.denseblock4.denselayer16.conv2.weight  # 128 to 32
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


def build_thin(name: str, **arguments: object) -> nn.Module:
    """A network of three or four blocks with few narrow layers, for 5 classes."""
    if name == "densenet121":
        arguments |= {"depths": (2, 3, 2, 2), "stem": "small"}
    else:
        arguments |= {"depth": 16}
    torch.manual_seed(0)
    net = create_model(name, growth_rate=4, num_classes=5, **arguments)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5), nn.init.normal_(module.bias)
    return net


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("name", ["densenet_40_12", "densenet_bc_100_12", "densenet121"])
def test_memory_efficient_gives_the_same_results(name: str, dropout: float) -> None:
    nets = [build_thin(name, dropout=dropout, memory_efficient=efficient) for efficient in (False, True)]
    assert list(nets[0].state_dict()) == list(nets[1].state_dict())
    images = torch.randn(4, 3, 8, 8)
    for net in nets:
        torch.manual_seed(1)
        net.train()
        for _ in range(2):  # the second pass depends on the running statistics of the first
            logits = net(images)
            logits.square().sum().backward()
        net.logits = logits
    torch.testing.assert_close(nets[1].logits, nets[0].logits)
    for (key, efficient), plain in zip(nets[1].named_parameters(), nets[0].parameters(), strict=True):
        torch.testing.assert_close(efficient.grad, plain.grad, msg=lambda m, key=key: f"{key}: {m}")
    # The running statistics are updated once per step, not twice.
    for (key, efficient), plain in zip(nets[1].named_buffers(), nets[0].buffers(), strict=True):
        torch.testing.assert_close(efficient, plain, msg=lambda m, key=key: f"{key}: {m}")
    with torch.inference_mode():
        torch.testing.assert_close(nets[1].eval()(images), nets[0].eval()(images))


def saved_bytes(block: nn.Module, images: torch.Tensor) -> int:
    """Bytes of activations that autograd saves in the forward pass of `block`; each storage is counted once."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in block.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = block(images)
    del output
    return sum(storage.nbytes() for storage in saved.values())


@pytest.mark.parametrize(("layer", "convs"), [(DenseLayer, 1), (BottleneckLayer, 2)])
def test_memory_efficient_saves_only_new_maps(layer: type[nn.Module], convs: int) -> None:
    """The memory is linear in the number of layers, that of a plain block quadratic (Pleiss et al., 2017)."""
    torch.manual_seed(0)
    depth, growth_rate, side = 12, 4, 8
    plain, efficient = (
        DenseBlock(8, depth, growth_rate, layer=layer, dropout=0.0, memory_efficient=memory_efficient).train()
        for memory_efficient in (False, True)
    )
    images = torch.randn(2, 8, side, side, requires_grad=True)
    one_map = 2 * side * side * 4  # bytes of one channel of both images
    inputs = sum(8 + i * growth_rate for i in range(depth))  # sum of the input channels of all layers
    assert saved_bytes(plain, images) > 2 * inputs * one_map  # concatenated and normalized
    assert saved_bytes(efficient, images) == (8 + (depth - 1) * growth_rate) * one_map


def test_memory_efficient_trace_export_compile() -> None:
    net = build_thin("densenet_bc_100_12", memory_efficient=True)
    images = torch.randn(3, 3, 8, 8)
    extractor = create_feature_extractor(net, ["classifier"])
    assert extractor.train()(images)["classifier"].shape == (3, 5)
    torch.compiler.reset()
    torch.compile(net, fullgraph=True, backend="eager")(images).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    net.eval()
    expected = net(images)
    torch.testing.assert_close(extractor.eval()(images)["classifier"], expected)
    torch.testing.assert_close(torch.export.export(net, (images,)).module()(images), expected)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="eager")(images), expected)
