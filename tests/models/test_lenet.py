"""LeNet-5: shapes, parameter counts, the connections of C3, subsampling, and the output units with their codes."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnzoo.models import create_model
from cnnzoo.models.lenet import CONNECTIONS, RadialBasis, SparseConv, Subsampling, class_codes, squash
from tests.helpers.zoo import build_on_meta, node_shapes

LAYERS = ["c1", "s2", "c3", "s4", "c5", "f6", "output"]


@pytest.mark.parametrize("name", ["lenet5", "lenet5_paper"])
def test_shapes(name: str) -> None:
    expected = [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (120, 1, 1), (84,), (10,)]
    assert node_shapes(name, LAYERS) == expected


def test_paper_parameters_per_layer() -> None:
    net = build_on_meta("lenet5_paper")
    counts = [sum(p.numel() for p in net.get_submodule(layer).parameters()) for layer in LAYERS]
    assert counts == [156, 12, 1_516, 32, 48_120, 10_164, 0]
    assert [p.ndim for p in net.s2.parameters()] == [1, 1]  # one dimension, so no weight decay


def test_c3_connections_equal_table_1() -> None:
    assert sum(map(len, CONNECTIONS)) == 60
    assert [sum(source in inputs for inputs in CONNECTIONS) for source in range(6)] == [10] * 6
    assert [len(inputs) for inputs in CONNECTIONS] == [3] * 6 + [4] * 9 + [6]
    assert all(len(set(inputs)) == len(inputs) for inputs in CONNECTIONS)
    for first, inputs in enumerate(CONNECTIONS[:12]):  # contiguous, modulo 6
        assert set(inputs) == {(first + step) % 6 for step in range(len(inputs))}


def test_c3_equals_a_dense_convolution_with_zeros() -> None:
    torch.manual_seed(0)
    c3, x = SparseConv(CONNECTIONS), torch.randn(2, 6, 14, 14)
    weight, bias = torch.zeros(16, 6, 5, 5), torch.cat([conv.bias for conv in c3.convs])
    rows = [row for conv in c3.convs for row in conv.weight]
    for target, inputs in enumerate(CONNECTIONS):
        for source, kernel in zip(inputs, rows[target], strict=True):
            weight[target, source] = kernel
    torch.testing.assert_close(c3(x), F.conv2d(x, weight, bias), rtol=1e-5, atol=1e-5)


def test_subsampling_equals_hand_computation() -> None:
    s2 = Subsampling(2)
    with torch.no_grad():
        s2.weight.copy_(torch.tensor([0.5, -1.0]))
        s2.bias.copy_(torch.tensor([1.0, 2.0]))
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 0.0]]])[None]
    assert s2(x).flatten().tolist() == [6.0, -1.0]


def test_squash_values() -> None:
    x = torch.tensor([-100.0, -1.0, 0.0, 1.0, 100.0])
    torch.testing.assert_close(squash(x), torch.tensor([-1.7159, -1.0, 0.0, 1.0, 1.7159]), rtol=1e-4, atol=1e-4)


def test_logits_equal_hand_computation() -> None:
    torch.manual_seed(0)
    output, x = RadialBasis(10), torch.randn(3, 84)
    expected = [
        [-0.5 * sum((a - b) ** 2 for a, b in zip(row, centre, strict=True)) for centre in output.centres.tolist()]
        for row in x.tolist()
    ]
    torch.testing.assert_close(output(x), torch.tensor(expected), rtol=1e-5, atol=1e-4)
    assert output(output.centres[[3]]).argmax() == 3
    assert output(output.centres[[3]]).max() == 0


def test_paper_initialization_bounds() -> None:
    torch.manual_seed(0)
    net = create_model("lenet5_paper", in_channels=1)
    bounds = {"c1": 25, "s2": 4, "s4": 4, "c3.convs.0": 75, "c3.convs.1": 100, "c3.convs.2": 150, "c5": 400, "f6": 120}
    for layer, fan_in in bounds.items():
        values = torch.cat([parameter.flatten() for parameter in net.get_submodule(layer).parameters()])
        assert 0.5 * 2.4 / fan_in < values.abs().max() <= 2.4 / fan_in, layer


def test_class_codes_are_distant_and_constant() -> None:
    torch.manual_seed(1)
    codes = class_codes(1000)
    torch.manual_seed(2)
    assert torch.equal(class_codes(12), codes[:12])
    assert torch.equal(class_codes(7), codes[:7])
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    distances = (84 - codes @ codes.T) / 2 + 84 * torch.eye(1000)  # number of different pixels
    assert distances[:10, :10].min() == 12  # 6 and 8
    assert distances[10:].min() >= 20
    one, seven = ((bitmap.view(12, 7) > 0).sum(1).tolist() for bitmap in codes[[1, 7]])
    assert one == [2, 3, 4, 2, 2, 2, 2, 2, 2, 6, 0, 0]
    assert seven == [7, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0, 0]


def test_centres_are_a_buffer() -> None:
    net = create_model("lenet5_paper", in_channels=1)
    assert "output.centres" in net.state_dict()
    assert "output.centres" not in dict(net.named_parameters())
    assert "c3.inputs" not in net.state_dict()  # Table I is a constant of the code


def test_paper_weights_for_other_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = create_model("lenet5_paper", in_channels=1).state_dict()
    torch.save(state, tmp_path / "digits.pth")
    with caplog.at_level(logging.INFO):
        net = create_model("lenet5_paper", in_channels=1, num_classes=12, weights=tmp_path / "digits.pth")
    assert "has 10 classes, expected 12: output.centres keep their initialization" in caplog.text
    assert torch.equal(net.output.centres[:10], state["output.centres"])
    assert all(torch.equal(tensor, state[key]) for key, tensor in net.state_dict().items() if key != "output.centres")


def test_lenet5_layer_types() -> None:
    net = create_model("lenet5")
    assert [type(net.get_submodule(layer)) for layer in ("s2", "c3", "output")] == [nn.AvgPool2d, nn.Conv2d, nn.Linear]
