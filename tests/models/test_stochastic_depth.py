"""Stochastic depth: survival probabilities, dropped blocks, and evaluation."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

from cnnzoo.errors import UserError
from cnnzoo.models import create_model
from cnnzoo.models.resnet import Bottleneck, ResNet
from cnnzoo.models.stochastic_depth import GatedBasicBlock, GatedBlock, GatedBottleneck, StochasticDepth, gate
from tests.helpers.zoo import build_on_meta


def gated_blocks(net: nn.Module) -> list[GatedBlock]:
    return [module for module in net.modules() if isinstance(module, GatedBlock)]


def freeze_batch_norm(block: GatedBlock) -> GatedBlock:
    """Put the batch norm of a training block into eval mode, with biases other than zero."""
    for norm in (module for module in block.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.bias)
        norm.eval()
    return block


@pytest.mark.parametrize(
    ("name", "blocks", "expected"),
    [
        ("resnet110_stochastic_depth", 54, 40.25),
        pytest.param("resnet1202_stochastic_depth", 600, 449.75, marks=pytest.mark.zoo),
        ("resnet152_stochastic_depth", 50, 37.25),
    ],
)
def test_survival_probability_decays_linearly(name: str, blocks: int, expected: float) -> None:
    probabilities = [block.survival_probability for block in gated_blocks(build_on_meta(name))]
    assert len(probabilities) == blocks
    assert probabilities == pytest.approx([1 - i / blocks * 0.5 for i in range(1, blocks + 1)])
    assert probabilities[-1] == 0.5
    assert sum(probabilities) == pytest.approx(expected) == (3 * blocks - 1) / 4  # section 3
    if blocks == 54:
        assert probabilities[0] == pytest.approx(0.99074, abs=5e-6)


def test_survival_probability_argument() -> None:
    net = build_on_meta("resnet110_stochastic_depth", survival_probability=0.2)
    assert [block.survival_probability for block in gated_blocks(net)][26::27] == pytest.approx([0.6, 0.2])
    for invalid in (-0.1, 1.5):
        with pytest.raises(
            UserError, match=rf"survival_probability={invalid}: expected a number >= 0 and <= 1 for the last block"
        ):
            build_on_meta("resnet110_stochastic_depth", survival_probability=invalid)


def test_blocks_survive_with_their_probability() -> None:
    """In 400 mini-batches each rate is within 4 standard deviations, and the mean number of blocks within 3."""
    torch.manual_seed(0)
    net = create_model("resnet110_stochastic_depth")
    runs: Counter[int] = Counter()
    for i, block in enumerate(gated_blocks(net)):
        block.residual = lambda x, i=i: runs.update([i]) or x.new_zeros(())  # type: ignore[method-assign]
    batches = 400
    with torch.inference_mode():
        for _ in range(batches):
            net(torch.randn(2, 3, 4, 4))
    probabilities = torch.tensor([1 - i / 54 * 0.5 for i in range(1, 55)])
    variances = probabilities * (1 - probabilities)
    rates = torch.tensor([runs[i] / batches for i in range(54)])
    assert ((rates - probabilities).abs() < 4 * (variances / batches).sqrt()).all()
    assert abs(rates.sum() - 40.25) < 3 * (variances.sum() / batches).sqrt()


def test_gate_opens_with_the_given_probability() -> None:
    torch.manual_seed(0)
    for probability in (0.0, 0.5, 0.9, 1.0):
        opened = torch.stack([gate(torch.ones(3), probability) for _ in range(2000)])
        assert torch.equal(opened.amin(1), opened.amax(1))  # one sample for the whole mini-batch
        deviation = (probability * (1 - probability) / 2000) ** 0.5
        assert abs(opened.mean().item() - probability) <= 4 * deviation


@pytest.mark.parametrize(("channels", "stride"), [(8, 1), (4, 2)])
def test_block_is_dropped_for_the_whole_mini_batch(channels: int, stride: int) -> None:
    torch.manual_seed(0)
    block = freeze_batch_norm(GatedBasicBlock(channels, 8, stride))
    block.survival_probability = 0.5
    x = torch.randn(5, channels, 6, 6)
    identity = x if block.downsample is None else block.downsample(x)
    dropped, kept = F.relu(identity), F.relu(identity + block.residual(x))
    outcomes = []
    for _ in range(40):
        y = block(x)
        assert torch.equal(y, dropped) or torch.equal(y, kept)
        outcomes.append(torch.equal(y, kept))
    assert 5 < sum(outcomes) < 35


def test_eval_equals_the_mean_of_training() -> None:
    torch.manual_seed(0)
    block = freeze_batch_norm(GatedBasicBlock(4, 4, 1))
    block.survival_probability = 0.7
    x = 100 + torch.randn(2, 4, 5, 5)  # so large that the last ReLU has no effect
    with torch.inference_mode():
        residual = block.residual(x)
        mean = torch.stack([block(x) for _ in range(2000)]).mean(0)
        output = block.eval()(x)
    torch.testing.assert_close(output, x + 0.7 * residual)  # equation 5
    deviation = (0.7 * 0.3 / 2000) ** 0.5
    assert ((mean - output).abs() <= 4 * deviation * residual.abs() + 1e-3).all()
    assert residual.abs().max() > 10  # another probability would exceed the bound above by far


def test_eval_applies_relu_after_the_addition() -> None:
    torch.manual_seed(0)
    block = freeze_batch_norm(GatedBottleneck(8, 2, 1)).eval()
    block.survival_probability = 0.5
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(block(x), F.relu(x + 0.5 * block.residual(x)))


def test_eval_is_deterministic_training_depends_on_seed() -> None:
    torch.manual_seed(0)
    net = create_model("resnet110_stochastic_depth", depth=3)
    images = torch.randn(4, 3, 8, 8)
    with torch.inference_mode():
        state = torch.get_rng_state()
        assert torch.equal(net.eval()(images), net(images))
        assert torch.equal(torch.get_rng_state(), state)

        torch.manual_seed(1)
        first, second = net.train()(images), net(images)
        torch.manual_seed(1)
        assert torch.equal(net(images), first)
        assert not torch.equal(first, second)


@pytest.mark.parametrize("dropped", ["layer1.1", "layer3.0"])
def test_dropped_block_is_unchanged(dropped: str) -> None:
    torch.manual_seed(0)
    net = StochasticDepth(GatedBottleneck, (2, 1, 1, 1), num_classes=5, stem="small", survival_probability=1.0)
    net.get_submodule(dropped).survival_probability = 0.0
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net(torch.randn(4, 3, 16, 16)).square().sum().backward()
    for key, parameter in net.named_parameters():
        is_dropped = key.startswith(f"{dropped}.") and "downsample" not in key  # the shortcut is computed
        assert parameter.grad is not None, key  # zero, not None: weight decay applies and ranks agree
        assert parameter.grad.any() != is_dropped, key
    for key, value in net.state_dict().items():
        if key.endswith("num_batches_tracked"):
            is_dropped = key.startswith(f"{dropped}.") and "downsample" not in key
            assert value - before[key] == (0 if is_dropped else 1), key


def test_dropped_frozen_parameters_get_no_gradient() -> None:
    block = GatedBasicBlock(4, 4, 1)
    block.survival_probability = 0.0
    block.conv1.requires_grad_(False)
    block(torch.randn(2, 4, 5, 5)).sum().backward()
    assert block.conv1.weight.grad is None
    assert block.conv2.weight.grad is not None


def test_survival_probability_1_equals_resnet() -> None:
    torch.manual_seed(0)
    gated_net = StochasticDepth(GatedBottleneck, (1, 2, 1, 1), num_classes=5, survival_probability=1.0)
    plain = ResNet(Bottleneck, (1, 2, 1, 1), num_classes=5)
    plain.load_state_dict(gated_net.state_dict(), strict=True)
    images = torch.randn(3, 3, 40, 40)
    torch.testing.assert_close(gated_net(images), plain(images))
    torch.testing.assert_close(gated_net.eval()(images), plain.eval()(images))


def test_imagenet_keys_equal_resnet152() -> None:
    ours, plain = build_on_meta("resnet152_stochastic_depth").state_dict(), build_on_meta("resnet152").state_dict()
    assert [(key, value.shape) for key, value in ours.items()] == [(key, value.shape) for key, value in plain.items()]


def test_shortcut_averages_and_pads() -> None:
    net = create_model("resnet110_stochastic_depth", depth=2)
    assert [block.downsample is not None for block in gated_blocks(net)] == [False, False, True, False, True, False]
    x = torch.randn(2, 16, 6, 6)
    y = net.layer2[0].downsample(x)
    torch.testing.assert_close(y[:, :16], x.unflatten(3, (3, 2)).unflatten(2, (3, 2)).mean((3, 5)))
    assert y.shape == (2, 32, 3, 3)
    assert not y[:, 16:].any()
    assert net.layer2[0].downsample(x[..., :5, :5]).shape == (2, 32, 3, 3)  # rounded like the convolution


def test_traced_training_graph_has_all_blocks() -> None:
    torch.manual_seed(0)
    net = create_model("resnet110_stochastic_depth")
    extractor = create_feature_extractor(net, ["fc"]).train()
    called = Counter(str(node.target) for node in extractor.graph.nodes if node.op == "call_module")
    for key, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            assert called[key] == 1, key
    assert sum(node.target is gate for node in extractor.graph.nodes) == 54
    images = torch.randn(2, 3, 4, 4)
    with torch.inference_mode():
        assert not torch.equal(extractor(images)["fc"], extractor(images)["fc"])


def test_compiled_training_graph_samples_every_step() -> None:
    torch.manual_seed(0)
    net = create_model("resnet110_stochastic_depth", depth=1)
    torch.compiler.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    images = torch.randn(2, 3, 8, 8)
    assert len({tuple(compiled(images).flatten().tolist()) for _ in range(20)}) > 2
