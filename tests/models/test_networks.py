"""Properties of all networks: outputs, gradients, feature extraction, export and compilation."""

import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from cnnzoo.models import create_model, info
from tests.helpers.zoo import build_on_meta, build_small, name_params, set_batch_norm_statistics, shallow_params

# The paper's initialization is so small that all images get nearly the same logits before training.
TOLERANCES = {"lenet5_paper": (1e-5, 5e-4)}

# Arguments that turn off the random dropping of layers, because dropped layers have a gradient of zero.
NO_DROPPING = {
    "fractalnet": {"drop_path": 0.0, "global_share": 0.0},
    "stochastic_depth": {"survival_probability": 1.0},
}


@pytest.mark.parametrize("name", name_params())
def test_all_parameters_get_a_gradient(name: str) -> None:
    net, side = build_small(name, num_classes=7, **NO_DROPPING.get(info(name).family, {}))
    logits = net(torch.randn(4, 3, side, side))
    assert logits.shape == (4, 7)
    logits.square().sum().backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("name", name_params())
def test_logits_of_one_image_equal_those_in_a_batch(name: str) -> None:
    net, side = build_small(name)
    side = max(side, 32)
    images = torch.randn(3, 3, side, side)
    with torch.inference_mode():
        set_batch_norm_statistics(net, images)
        batch, one = net.eval()(images), net(images[1:2])
    assert one.shape == (1, 10)
    torch.testing.assert_close(one, batch[1:2], rtol=5e-3, atol=1e-3)
    rtol, atol = TOLERANCES.get(name, (1e-2, 1e-3))
    assert not torch.allclose(batch[0], batch[1], rtol=rtol, atol=atol)  # the logits depend on the image


@pytest.mark.parametrize("stem", ["native", "small"])
@pytest.mark.parametrize("name", name_params())
def test_channels_classes_and_feature_shapes(name: str, stem: str) -> None:
    colour = build_on_meta(name, in_channels=3, num_classes=7, stem=stem)
    grey = build_on_meta(name, in_channels=1, num_classes=7, stem=stem).eval()
    images = torch.empty(2, 1, info(name).input_size, info(name).input_size, device="meta")
    assert grey(images).shape == (2, 7)
    features = grey.forward_features(images)
    assert features.ndim in (2, 4)
    assert features.shape[:2] == (2, grey.num_features)
    first = next(key for key, module in colour.named_modules() if isinstance(module, nn.Conv2d))
    first_convs = [f"{first}.weight"]
    if name in ("fractalnet20", "fractalnet40"):  # every column of the first block receives the image
        first_convs = [f"blocks.0.columns.{i}.0.conv.weight" for i in range(len(colour.blocks[0].columns))]
    shapes = [{key: tensor.shape for key, tensor in net.state_dict().items()} for net in (colour, grey)]
    assert shapes[0].keys() == shapes[1].keys()
    assert [key for key in shapes[0] if shapes[0][key] != shapes[1][key]] == first_convs


@pytest.mark.parametrize("name", name_params())
def test_small_stem_accepts_larger_images(name: str) -> None:
    side = info(name).sizes("small")[1] or info(name).sizes("small")[0] + 37
    net = build_on_meta(name, num_classes=10, stem="small").eval()
    assert net(torch.empty(1, info(name).in_channels, side, side, device="meta")).shape == (1, 10)


@pytest.mark.parametrize("stem", ["native", "small"])
@pytest.mark.parametrize("name", name_params())
def test_feature_extractor_traces_the_network(name: str, stem: str) -> None:
    if stem == "native":
        net, side = build_on_meta(name, in_channels=3, num_classes=10), info(name).input_size
    else:
        net, side = build_small(name)
    device = next(net.parameters()).device
    last = [key for key, _ in net.named_children()][-1]
    extractor = create_feature_extractor(net, [last])
    images = torch.randn(2, 3, side, side, device=device)
    assert extractor.train()(images)[last].flatten(1).shape == (2, 10)
    if stem == "small":
        with torch.inference_mode():
            torch.testing.assert_close(extractor.eval()(images)[last].flatten(1), net.eval()(images))


@pytest.mark.long
@pytest.mark.parametrize(("name", "arguments"), shallow_params())
def test_export_with_dynamic_batch_size(name: str, arguments: dict[str, object]) -> None:
    net, side = build_small(name, **arguments)
    net.eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (torch.randn(2, 3, side, side),), dynamic_shapes=({0: batch},))
    images = torch.randn(5, 3, side, side)
    torch.testing.assert_close(program.module()(images), net(images))


@pytest.mark.long
@pytest.mark.parametrize(("name", "arguments"), [param for param in shallow_params() if not param.marks])
def test_compiles_to_one_graph(name: str, arguments: dict[str, object]) -> None:
    net, side = build_small(name, **arguments)
    net.eval()
    images = torch.randn(2, 3, side, side)
    torch.compiler.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), net(images))


@pytest.mark.parametrize("stem", ["native", "small"])
def test_googlenet_auxiliary_heads(stem: str) -> None:
    torch.manual_seed(0)
    net = create_model("googlenet", num_classes=7, stem=stem, aux_logits=True)
    images = torch.randn(4, 3, 64, 64) if stem == "native" else torch.randn(4, 3, 16, 16)
    logits, auxiliary = net.forward_with_aux(images)
    assert [output.shape for output in (logits, *auxiliary)] == [(4, 7)] * 3
    sum(output.square().sum() for output in (logits, *auxiliary)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net(images).shape == (4, 7)  # the same type in training
    net.eval()
    logits, auxiliary = net.forward_with_aux(images)
    assert len(auxiliary) == 2
    torch.testing.assert_close(net(images), logits)


def test_googlenet_has_no_auxiliary_heads_by_default() -> None:
    net = create_model("googlenet", num_classes=7, stem="small").eval()
    logits, auxiliary = net.forward_with_aux(torch.randn(1, 3, 16, 16))
    assert logits.shape == (1, 7)
    assert auxiliary == []


@pytest.mark.parametrize(
    "name",
    [
        "lenet5",
        "alexnet",
        "alexnet_paper",
        "zfnet_fig3",
        "nin_cifar",
        "nin_imagenet",
        "vgg11",
        "googlenet_paper",
        "squeezenet1_1",
        "squeezenet1_1_complex_bypass",
    ],
)
def test_signal_scale_without_batch_norm(name: str) -> None:
    """With the small stem, the features of an untrained network neither vanish nor explode."""
    net, side = build_small(name)
    with torch.inference_mode():
        features = net.eval().forward_features(torch.randn(16, 3, max(side, 16), max(side, 16)))
    spread = features.flatten(1).std(0).mean().item()
    assert 0.02 < spread < 20, spread
