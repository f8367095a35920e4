"""FractalNet: its recursion, its depth law, drop-path's chances, a column run alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from cnnzoo.errors import UserError
from cnnzoo.models import create_model
from cnnzoo.models.fractalnet import FractalBlock, FractalNet, draw_paths, ends
from tests.helpers.zoo import on_meta

DRAWS = 20_000
BATCHES = 1000


def small(columns: int = 3, **arguments: object) -> FractalNet:
    """Two blocks for images of 4 pixels or more, without dropout."""
    torch.manual_seed(0)
    return FractalNet(columns, (4, 6), num_classes=5, dropout=0.0, **arguments)


def local(drop_path: float) -> torch.Tensor:
    """Local drop-path in DRAWS blocks of four columns, which draw by themselves: (DRAWS, steps, columns)."""
    torch.manual_seed(0)
    return draw_paths(torch.empty(0), DRAWS, 4, drop_path, 0.0)


def batches(drop_path: float, global_share: float) -> torch.Tensor:
    """BATCHES mini-batches of a network of three blocks and four columns: (BATCHES, blocks, steps, columns)."""
    torch.manual_seed(0)
    return torch.stack([draw_paths(torch.empty(0), 3, 4, drop_path, global_share) for _ in range(BATCHES)])


def near(share: float, expected: float, number: int) -> bool:
    """Within four standard deviations of `number` draws."""
    return abs(share - expected) <= 4 * (expected * (1 - expected) / number) ** 0.5


@pytest.mark.parametrize(
    ("columns", "parameters"),
    [(1, 258_292), (2, 847_716), (3, 2_125_204), (4, 4_778_820), (5, 10_184_692), (6, 21_095_076)],
)
def test_depth_study(columns: int, parameters: int) -> None:
    """The paper's nets of 5 to 160 layers on CIFAR-100, 0.3 to 21.1 million parameters."""
    net = on_meta("fractalnet20", columns=columns, widths=(16, 32, 64, 128, 128), num_classes=100)
    assert sum(p.numel() for p in net.parameters()) == parameters
    for c in range(columns):
        convolutions = [module for module in net.column(c).modules() if isinstance(module, nn.Conv2d)]
        assert len(convolutions) == 5 * 2**c


@pytest.mark.parametrize(("name", "depth"), [("fractalnet20", 20), ("fractalnet40", 40), ("fractalnet34", 34)])
def test_depth(name: str, depth: int) -> None:
    """Layers on the longest path; the paper counts those of ResNet-34 in, first and last."""
    column = on_meta(name).column(-1)
    layers = [module for module in column.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth + (name != "fractalnet34")


def test_columns_that_are_joined() -> None:
    assert ends(4) == [[3], [2, 3], [3], [1, 2, 3], [3], [2, 3], [3], [0, 1, 2, 3]]
    assert ends(1) == [[0]]


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_block_is_the_papers_recursion(columns: int) -> None:
    """f1(z) = conv(z), f(C+1)(z) = join[f(C)(f(C)(z)), conv(z)], where a join of joins is one join of all."""
    torch.manual_seed(0)
    block = FractalBlock(3, 4, columns, dropout=0.0, pool=True).eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight), nn.init.normal_(module.bias)
    images = torch.randn(2, 3, 8, 8)
    units = [iter(column) for column in block.columns]

    def fractal(c: int, z: torch.Tensor) -> list[torch.Tensor]:
        """What columns columns - c to columns - 1 end with."""
        conv = next(units[columns - c])
        if c == 1:
            return [conv(z)]
        half = fractal(c - 1, z)
        deep = fractal(c - 1, sum(half) / len(half))
        return [conv(z), *deep]

    with torch.no_grad():
        pooled = [torch.nn.functional.max_pool2d(out, 2) for out in fractal(columns, images)]
        torch.testing.assert_close(block(images), sum(pooled) / columns)
    assert all(next(column, None) is None for column in units)


def test_unit_is_convolution_dropout_batch_norm_rectifier() -> None:
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
    net = on_meta(name).eval()
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
        pytest.param(lambda: local(0.15), id="local"),
        pytest.param(lambda: local(0.95), id="most are dropped"),
        pytest.param(lambda: batches(0.15, 0.5).flatten(0, 1), id="mixed"),
    ],
)
def test_every_join_keeps_one_and_weighs_the_kept_alike(weights: Callable[[], torch.Tensor]) -> None:
    drawn = weights()
    kept = (drawn > 0).sum(-1, keepdim=True)
    assert (kept >= 1).all()
    torch.testing.assert_close(drawn, (drawn > 0) / kept)
    for step, together in enumerate(ends(4)):
        others = [c for c in range(4) if c not in together]
        assert (drawn[:, step, others] == 0).all()


def test_local_drop_path_rates() -> None:
    """An input survives with 1 - p, or as the one that is kept where all n would go: p^n / n."""
    p = 0.15
    kept = local(p) > 0
    for step, together in enumerate(ends(4)):
        n = len(together)
        for c in together:
            assert near(kept[:, step, c].float().mean().item(), 1 - p + p**n / n, DRAWS), (step, c)
        if n > 1:
            alone = (kept[:, step].sum(-1) == 1).float().mean().item()
            assert near(alone, n * (1 - p) * p ** (n - 1) + p**n, DRAWS), step
    of_two_joins = torch.stack([kept[:, 1, 3].float(), kept[:, 5, 3].float()])
    assert abs(torch.corrcoef(of_two_joins)[0, 1].item()) < 4 / DRAWS**0.5
    survivors = local(1.0)[:, -1]
    assert all(near(share, 1 / 4, DRAWS) for share in survivors.mean(0).tolist())  # uniform where all would go


def test_global_drop_path_draws_one_column_for_the_whole_network() -> None:
    weights = batches(0.15, 1.0)
    chosen = weights[:, 0, -1].argmax(-1)
    assert all(near((chosen == c).float().mean().item(), 1 / 4, BATCHES) for c in range(4))
    for step, together in enumerate(ends(4)):
        for c in together:
            assert (weights[chosen == c][:, :, step, c] == 1).all()


def test_half_of_the_mini_batches_are_global() -> None:
    """With local drop-path keeping all, one survivor in the last join means global."""
    alone = (batches(0.0, 0.5)[:, 0, -1] > 0).sum(-1) == 1
    assert near(alone.float().mean().item(), 0.5, BATCHES)
    net = create_model("fractalnet20", widths=(4, 4, 4, 4, 4))
    assert (net.drop_path, net.global_share) == (0.15, 0.5)


def test_expectation_of_a_join_is_the_mean_of_evaluation() -> None:
    """Whatever is dropped, an input weighs 1/n on average; its variance is at most that of a single survivor."""
    for weights in (local(0.15)[:, -1], local(0.7)[:, -1], batches(0.15, 0.5)[:, 0, -1]):
        bound = 4 * (1 / 4 * 3 / 4 / len(weights)) ** 0.5
        torch.testing.assert_close(weights.mean(0), torch.full((4,), 1 / 4), atol=bound, rtol=0)


@pytest.mark.parametrize("argument", ["drop_path", "global_share"])
def test_a_share_beyond_1_is_an_error(argument: str) -> None:
    with pytest.raises(UserError, match=f"{argument}=1.5: expected 0 to 1"):
        small(**{argument: 1.5})


def test_evaluation_draws_nothing() -> None:
    net = small().eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        before = torch.get_rng_state()
        first, second = net(images), net(images)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_global_drop_path_computes_one_column() -> None:
    """Once each of its layers, and the batch norm of the others stays as it was."""
    net = small(global_share=1.0)
    calls: list[nn.Module] = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, *_: calls.append(module))
    turns = set()
    for _ in range(20):
        calls.clear()
        before = [int(norm.num_batches_tracked) for norm in net.modules() if isinstance(norm, nn.BatchNorm2d)]
        net(torch.randn(2, 3, 8, 8))
        after = [int(norm.num_batches_tracked) for norm in net.modules() if isinstance(norm, nn.BatchNorm2d)]
        assert sum(after) - sum(before) == len(calls) == len(set(calls)) in (2, 4, 8)
        turns.add(len(calls))
    assert turns == {2, 4, 8}


@pytest.mark.parametrize("traced", [False, True])
def test_global_drop_path_runs_one_column(traced: bool) -> None:
    """Every training step under global drop-path answers as one of the columns does alone, and each has its turn."""
    net = small(global_share=1.0)
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        net(images)
        expected = [net.column(c).eval()(images) for c in range(3)]
        training = create_feature_extractor(net, ["fc"]).train() if traced else net.train()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()  # the running statistics, as the columns have
        turns = set()
        for _ in range(30):
            logits = training(images)["fc"] if traced else training(images)
            turns.update(c for c in range(3) if torch.allclose(logits, expected[c], atol=1e-6))
            assert any(torch.allclose(logits, one, atol=1e-6) for one in expected)
    assert turns == {0, 1, 2}
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)


def test_a_column_is_plain_and_shares_the_weights() -> None:
    net = small().eval()
    column = net.column(1)
    assert not column.training
    assert not any(isinstance(module, FractalBlock) for module in column.modules())
    own = {id(p) for p in net.parameters()}
    assert {id(p) for p in column.parameters()} < own
    assert torch.equal(net.column(-1)[1].conv.weight, net.blocks[0].columns[2][0].conv.weight)
    with pytest.raises(IndexError):
        net.column(3)


def test_every_parameter_gets_a_gradient_over_a_few_draws() -> None:
    net = small()
    for _ in range(8):
        net(torch.randn(4, 3, 8, 8)).square().sum().backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("traced", [False, True])
def test_a_dropped_column_gets_a_gradient_of_zero(traced: bool) -> None:
    """Not a missing one, which training on several devices would stumble over."""
    net = small(global_share=1.0)
    training = torch.fx.symbolic_trace(net) if traced else net
    training(torch.randn(4, 3, 8, 8)).square().sum().backward()
    moved = [any(p.grad.any() for p in net.blocks[0].columns[c].parameters()) for c in range(3)]
    assert sorted(moved) == [False, False, True]


def test_training_compiles_into_one_graph() -> None:
    net = small(columns=2)
    torch.compiler.reset()
    logits = torch.compile(net, fullgraph=True, backend="eager")(torch.randn(2, 3, 8, 8))
    assert logits.shape == (2, 5)


def test_weights_for_other_channels_fold_in_every_column(tmp_path: Path) -> None:
    """Each column's first convolution sees the image."""
    narrow = {"widths": (4, 4, 4, 4, 4)}
    net = create_model("fractalnet20", **narrow).eval()
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    grey = create_model("fractalnet20", in_channels=1, weights=tmp_path / "weights.pth", **narrow).eval()
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(grey(images), net(images.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)
