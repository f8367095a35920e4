"""FractalNet: the recursion of a block, depths, probabilities of drop-path, and single columns."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from cnnzoo.errors import UserError
from cnnzoo.models import create_model
from cnnzoo.models.fractalnet import FractalBlock, FractalNet, columns_by_step, sample_paths
from tests.helpers.zoo import build_on_meta

SAMPLES = 20_000
BATCHES = 1000


def build_small(columns: int = 3, **arguments: object) -> FractalNet:
    """Two blocks for images of 4 pixels or more, without dropout."""
    torch.manual_seed(0)
    return FractalNet(columns, (4, 6), num_classes=5, dropout=0.0, **arguments)


def local_paths(drop_path: float) -> torch.Tensor:
    """Weights of local drop-path in SAMPLES independent blocks of four columns: (SAMPLES, steps, columns)."""
    torch.manual_seed(0)
    return sample_paths(torch.empty(0), SAMPLES, 4, drop_path, 0.0)


def batch_paths(drop_path: float, global_share: float) -> torch.Tensor:
    """Weights for BATCHES mini-batches, three blocks and four columns: (BATCHES, blocks, steps, columns)."""
    torch.manual_seed(0)
    return torch.stack([sample_paths(torch.empty(0), 3, 4, drop_path, global_share) for _ in range(BATCHES)])


def is_close(share: float, expected: float, samples: int) -> bool:
    """Whether `share` is within four standard deviations of the expectation, for this number of samples."""
    return abs(share - expected) <= 4 * (expected * (1 - expected) / samples) ** 0.5


@pytest.mark.parametrize(
    ("columns", "parameters"),
    [(1, 258_292), (2, 847_716), (3, 2_125_204), (4, 4_778_820), (5, 10_184_692), (6, 21_095_076)],
)
def test_depth_study_parameters(columns: int, parameters: int) -> None:
    """The paper's networks of 5 to 160 layers for CIFAR-100, with 0.3 to 21.1 million parameters."""
    net = build_on_meta("fractalnet20", columns=columns, widths=(16, 32, 64, 128, 128), num_classes=100)
    assert sum(p.numel() for p in net.parameters()) == parameters
    for c in range(columns):
        convolutions = [module for module in net.column(c).modules() if isinstance(module, nn.Conv2d)]
        assert len(convolutions) == 5 * 2**c


@pytest.mark.parametrize(("name", "depth"), [("fractalnet20", 20), ("fractalnet40", 40), ("fractalnet34", 34)])
def test_number_of_layers(name: str, depth: int) -> None:
    """Layers on the longest path. For fractalnet34 the paper also counts the first and the last layer of ResNet-34."""
    column = build_on_meta(name).column(-1)
    layers = [module for module in column.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth + (name != "fractalnet34")


def test_columns_by_step() -> None:
    assert columns_by_step(4) == [[3], [2, 3], [3], [1, 2, 3], [3], [2, 3], [3], [0, 1, 2, 3]]
    assert columns_by_step(1) == [[0]]


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_block_equals_the_recursion(columns: int) -> None:
    """f1(z) = conv(z), f(C+1)(z) = join[f(C)(f(C)(z)), conv(z)], where nested joins are one join."""
    torch.manual_seed(0)
    block = FractalBlock(3, 4, columns, dropout=0.0, pool=True).eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight), nn.init.normal_(module.bias)
    images = torch.randn(2, 3, 8, 8)
    units = [iter(column) for column in block.columns]

    def fractal(c: int, z: torch.Tensor) -> list[torch.Tensor]:
        """The outputs of the last c columns."""
        conv = next(units[columns - c])
        if c == 1:
            return [conv(z)]
        first_half = fractal(c - 1, z)
        second_half = fractal(c - 1, sum(first_half) / len(first_half))
        return [conv(z), *second_half]

    with torch.no_grad():
        pooled = [torch.nn.functional.max_pool2d(out, 2) for out in fractal(columns, images)]
        torch.testing.assert_close(block(images), sum(pooled) / columns)
    assert all(next(column, None) is None for column in units)


def test_unit_layers_and_dropout_rates() -> None:
    net = create_model("fractalnet20", widths=(4, 4, 4, 4, 4))
    for rate, block in zip((0.0, 0.1, 0.2, 0.3, 0.4), net.blocks, strict=True):
        for column in block.columns:
            for unit in column:
                assert [type(layer) for layer in unit] == [nn.Conv2d, nn.Dropout, nn.BatchNorm2d, nn.ReLU]
                assert unit.dropout.p == rate


@pytest.mark.parametrize(
    ("name", "side", "shapes"),
    [
        ("fractalnet20", 32, [(64, 16), (128, 8), (256, 4), (512, 2), (512, 1)]),
        ("fractalnet34", 224, [(128, 28), (256, 14), (512, 7), (1024, 7)]),
    ],
)
def test_shapes(name: str, side: int, shapes: list[tuple[int, int]]) -> None:
    net = build_on_meta(name).eval()
    units = [f"blocks.{i}.columns.0.0.relu" for i in range(len(shapes))]
    features = create_feature_extractor(net, [*units, "avgpool"])(torch.empty(1, 3, side, side, device="meta"))
    sides = [56, 28, 14, 7] if name == "fractalnet34" else [32, 16, 8, 4, 2]
    assert [features[unit].shape[1:] for unit in units] == [(w, s, s) for (w, _), s in zip(shapes, sides, strict=True)]
    x = net.first(torch.empty(1, 3, side, side, device="meta"))
    for block, (width, after) in zip(net.blocks, shapes, strict=True):
        x = block(x)
        assert x.shape == (1, width, after, after)


@pytest.mark.parametrize(
    "weights",
    [
        pytest.param(lambda: local_paths(0.15), id="local"),
        pytest.param(lambda: local_paths(0.95), id="mostly dropped"),
        pytest.param(lambda: batch_paths(0.15, 0.5).flatten(0, 1), id="mixed"),
    ],
)
def test_join_keeps_at_least_one_with_equal_weights(weights: Callable[[], torch.Tensor]) -> None:
    paths = weights()
    kept = (paths > 0).sum(-1, keepdim=True)
    assert (kept >= 1).all()
    torch.testing.assert_close(paths, (paths > 0) / kept)
    for step, ending in enumerate(columns_by_step(4)):
        others = [c for c in range(4) if c not in ending]
        assert (paths[:, step, others] == 0).all()


def test_local_drop_path_rates() -> None:
    """An input is kept with probability 1 - p, plus p^n / n for the one kept if all n would be dropped."""
    p = 0.15
    kept = local_paths(p) > 0
    for step, ending in enumerate(columns_by_step(4)):
        n = len(ending)
        for c in ending:
            assert is_close(kept[:, step, c].float().mean().item(), 1 - p + p**n / n, SAMPLES), (step, c)
        if n > 1:
            alone = (kept[:, step].sum(-1) == 1).float().mean().item()
            assert is_close(alone, n * (1 - p) * p ** (n - 1) + p**n, SAMPLES), step
    two_joins = torch.stack([kept[:, 1, 3].float(), kept[:, 5, 3].float()])
    assert abs(torch.corrcoef(two_joins)[0, 1].item()) < 4 / SAMPLES**0.5
    # If all inputs would be dropped, the one that is kept is chosen uniformly.
    last_join = local_paths(1.0)[:, -1]
    assert all(is_close(share, 1 / 4, SAMPLES) for share in last_join.mean(0).tolist())


def test_global_drop_path_samples_one_column() -> None:
    weights = batch_paths(0.15, 1.0)
    chosen = weights[:, 0, -1].argmax(-1)
    assert all(is_close((chosen == c).float().mean().item(), 1 / 4, BATCHES) for c in range(4))
    for step, ending in enumerate(columns_by_step(4)):
        for c in ending:
            assert (weights[chosen == c][:, :, step, c] == 1).all()


def test_global_share_of_mini_batches() -> None:
    """With drop_path=0, a last join that keeps a single input is global."""
    alone = (batch_paths(0.0, 0.5)[:, 0, -1] > 0).sum(-1) == 1
    assert is_close(alone.float().mean().item(), 0.5, BATCHES)
    net = create_model("fractalnet20", widths=(4, 4, 4, 4, 4))
    assert (net.drop_path, net.global_share) == (0.15, 0.5)


def test_expected_weights_equal_the_mean() -> None:
    """The expected weight of an input is 1/n. Its variance is largest if only one input is kept."""
    for weights in (local_paths(0.15)[:, -1], local_paths(0.7)[:, -1], batch_paths(0.15, 0.5)[:, 0, -1]):
        bound = 4 * (1 / 4 * 3 / 4 / len(weights)) ** 0.5
        torch.testing.assert_close(weights.mean(0), torch.full((4,), 1 / 4), atol=bound, rtol=0)


@pytest.mark.parametrize("argument", ["drop_path", "global_share"])
def test_probability_above_1_is_an_error(argument: str) -> None:
    with pytest.raises(UserError, match=f"{argument}=1.5: expected a number >= 0 and <= 1"):
        build_small(**{argument: 1.5})


def test_eval_uses_no_random_numbers() -> None:
    net = build_small().eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        before = torch.get_rng_state()
        first, second = net(images), net(images)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_global_drop_path_computes_only_one_column() -> None:
    """Each layer of the column runs once, and the batch norm of the other columns is unchanged."""
    net = build_small(global_share=1.0)
    calls: list[nn.Module] = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, *_: calls.append(module))
    num_calls = set()
    for _ in range(20):
        calls.clear()
        before = [int(norm.num_batches_tracked) for norm in net.modules() if isinstance(norm, nn.BatchNorm2d)]
        net(torch.randn(2, 3, 8, 8))
        after = [int(norm.num_batches_tracked) for norm in net.modules() if isinstance(norm, nn.BatchNorm2d)]
        assert sum(after) - sum(before) == len(calls) == len(set(calls)) in (2, 4, 8)
        num_calls.add(len(calls))
    assert num_calls == {2, 4, 8}


@pytest.mark.parametrize("traced", [False, True])
def test_global_drop_path_equals_one_column(traced: bool) -> None:
    """Each training step gives the output of one column, and every column occurs."""
    net = build_small(global_share=1.0)
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        net(images)
        expected = [net.column(c).eval()(images) for c in range(3)]
        training = create_feature_extractor(net, ["fc"]).train() if traced else net.train()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()  # the running statistics, as the columns have
        columns = set()
        for _ in range(30):
            logits = training(images)["fc"] if traced else training(images)
            columns.update(c for c in range(3) if torch.allclose(logits, expected[c], atol=1e-6))
            assert any(torch.allclose(logits, output, atol=1e-6) for output in expected)
    assert columns == {0, 1, 2}
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)


def test_column_shares_the_weights() -> None:
    net = build_small().eval()
    column = net.column(1)
    assert not column.training
    assert not any(isinstance(module, FractalBlock) for module in column.modules())
    all_parameters = {id(p) for p in net.parameters()}
    assert {id(p) for p in column.parameters()} < all_parameters
    assert torch.equal(net.column(-1)[1].conv.weight, net.blocks[0].columns[2][0].conv.weight)
    with pytest.raises(IndexError):
        net.column(3)


def test_all_parameters_get_a_gradient_in_a_few_steps() -> None:
    net = build_small()
    for _ in range(8):
        net(torch.randn(4, 3, 8, 8)).square().sum().backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("traced", [False, True])
def test_dropped_column_gets_zero_gradients(traced: bool) -> None:
    """Zero and not None, which would fail in training on several devices."""
    net = build_small(global_share=1.0)
    training = torch.fx.symbolic_trace(net) if traced else net
    training(torch.randn(4, 3, 8, 8)).square().sum().backward()
    has_gradient = [any(p.grad.any() for p in net.blocks[0].columns[c].parameters()) for c in range(3)]
    assert sorted(has_gradient) == [False, False, True]


def test_training_compiles_to_one_graph() -> None:
    net = build_small(columns=2)
    torch.compiler.reset()
    logits = torch.compile(net, fullgraph=True, backend="eager")(torch.randn(2, 3, 8, 8))
    assert logits.shape == (2, 5)


def test_channel_folding_applies_to_every_column(tmp_path: Path) -> None:
    """The first convolution of each column receives the image."""
    narrow = {"widths": (4, 4, 4, 4, 4)}
    net = create_model("fractalnet20", **narrow).eval()
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    grey = create_model("fractalnet20", in_channels=1, weights=tmp_path / "weights.pth", **narrow).eval()
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(grey(images), net(images.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)
