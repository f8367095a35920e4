"""LeNet-5: the paper's tables, the wiring of C3, subsampling, the output units and their codes."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnzoo.models import create_model
from cnnzoo.models.lenet import LINKS, LinkedConv, RadialBasis, Subsampling, codes, squash
from tests.helpers.zoo import on_meta, shapes

LAYERS = ["c1", "s2", "c3", "s4", "c5", "f6", "output"]


@pytest.mark.parametrize("name", ["lenet5", "lenet5_paper"])
def test_shapes(name: str) -> None:
    expected = [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (120, 1, 1), (84,), (10,)]
    assert shapes(name, LAYERS) == expected


def test_parameters_of_the_layers() -> None:
    net = on_meta("lenet5_paper")
    counts = [sum(p.numel() for p in net.get_submodule(layer).parameters()) for layer in LAYERS]
    assert counts == [156, 12, 1_516, 32, 48_120, 10_164, 0]
    assert [p.ndim for p in net.s2.parameters()] == [1, 1]  # spared weight decay, as biases are


def test_links_of_c3_are_those_of_table_1() -> None:
    assert sum(map(len, LINKS)) == 60
    assert [sum(source in links for links in LINKS) for source in range(6)] == [10] * 6
    assert [len(links) for links in LINKS] == [3] * 6 + [4] * 9 + [6]
    assert all(len(set(links)) == len(links) for links in LINKS)
    for first, links in enumerate(LINKS[:12]):  # contiguous, counted round
        assert set(links) == {(first + step) % 6 for step in range(len(links))}


def test_c3_equals_a_dense_convolution_with_the_missing_links_at_zero() -> None:
    torch.manual_seed(0)
    c3, x = LinkedConv(LINKS), torch.randn(2, 6, 14, 14)
    weight, bias = torch.zeros(16, 6, 5, 5), torch.cat([conv.bias for conv in c3.convs])
    rows = [row for conv in c3.convs for row in conv.weight]
    for target, links in enumerate(LINKS):
        for source, kernel in zip(links, rows[target], strict=True):
            weight[target, source] = kernel
    torch.testing.assert_close(c3(x), F.conv2d(x, weight, bias), rtol=1e-5, atol=1e-5)


def test_subsampling_by_hand() -> None:
    s2 = Subsampling(2)
    with torch.no_grad():
        s2.weight.copy_(torch.tensor([0.5, -1.0]))
        s2.bias.copy_(torch.tensor([1.0, 2.0]))
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 0.0]]])[None]
    assert s2(x).flatten().tolist() == [6.0, -1.0]


def test_squash() -> None:
    x = torch.tensor([-100.0, -1.0, 0.0, 1.0, 100.0])
    torch.testing.assert_close(squash(x), torch.tensor([-1.7159, -1.0, 0.0, 1.0, 1.7159]), rtol=1e-4, atol=1e-4)


def test_logits_by_hand() -> None:
    torch.manual_seed(0)
    output, x = RadialBasis(10), torch.randn(3, 84)
    by_hand = [
        [-0.5 * sum((a - b) ** 2 for a, b in zip(row, centre, strict=True)) for centre in output.centres.tolist()]
        for row in x.tolist()
    ]
    torch.testing.assert_close(output(x), torch.tensor(by_hand), rtol=1e-5, atol=1e-4)
    assert output(output.centres[[3]]).argmax() == 3
    assert output(output.centres[[3]]).max() == 0


def test_first_weights_lie_within_their_bounds() -> None:
    torch.manual_seed(0)
    net = create_model("lenet5_paper", in_channels=1)
    bounds = {"c1": 25, "s2": 4, "s4": 4, "c3.convs.0": 75, "c3.convs.1": 100, "c3.convs.2": 150, "c5": 400, "f6": 120}
    for layer, fan_in in bounds.items():
        drawn = torch.cat([parameter.flatten() for parameter in net.get_submodule(layer).parameters()])
        assert 0.5 * 2.4 / fan_in < drawn.abs().max() <= 2.4 / fan_in, layer


def test_codes_are_digits_then_far_apart_and_always_the_same() -> None:
    torch.manual_seed(1)
    many = codes(1000)
    torch.manual_seed(2)
    assert torch.equal(codes(12), many[:12])
    assert torch.equal(codes(7), many[:7])
    assert set(many.unique().tolist()) == {-1.0, 1.0}
    distances = (84 - many @ many.T) / 2 + 84 * torch.eye(1000)  # pixels that differ
    assert distances[:10, :10].min() == 12  # 6 and 8
    assert distances[10:].min() >= 20
    one, seven = ((bitmap.view(12, 7) > 0).sum(1).tolist() for bitmap in many[[1, 7]])
    assert one == [2, 3, 4, 2, 2, 2, 2, 2, 2, 6, 0, 0]
    assert seven == [7, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0, 0]


def test_centres_are_saved_and_not_trained() -> None:
    net = create_model("lenet5_paper", in_channels=1)
    assert "output.centres" in net.state_dict()
    assert "output.centres" not in dict(net.named_parameters())
    assert "c3.inputs" not in net.state_dict()  # Table I belongs to the code


def test_weights_of_a_network_for_other_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = create_model("lenet5_paper", in_channels=1).state_dict()
    torch.save(state, tmp_path / "digits.pth")
    with caplog.at_level(logging.INFO):
        net = create_model("lenet5_paper", in_channels=1, num_classes=12, weights=tmp_path / "digits.pth")
    assert "10 classes, not 12: output.centres start anew" in caplog.text
    assert torch.equal(net.output.centres[:10], state["output.centres"])
    assert all(torch.equal(tensor, state[key]) for key, tensor in net.state_dict().items() if key != "output.centres")


def test_lenet5_is_the_plain_one() -> None:
    net = create_model("lenet5")
    assert [type(net.get_submodule(layer)) for layer in ("s2", "c3", "output")] == [nn.AvgPool2d, nn.Conv2d, nn.Linear]
