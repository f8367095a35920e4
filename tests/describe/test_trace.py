"""Networks taken apart: the layers' counts against the zoo's facts, and what becomes a layer."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnzoo.describe.trace import MAX_TABLE_ROWS, MINOR_KINDS, kind_of, trace_layers
from cnnzoo.models import info
from tests.helpers.zoo import names, on_meta


@pytest.mark.parametrize("name", names())
def test_the_layers_add_up_to_the_facts(name):
    facts = info(name)
    whole = trace_layers(on_meta(name), (facts.in_channels, facts.input_size, facts.input_size))
    assert whole.shape == (facts.num_classes,)
    assert whole.parameters == facts.parameters
    assert facts.multiply_accumulates in (None, whole.multiply_accumulates)
    for depth in range(1, whole.depth + 1):
        layers = list(whole.opened(depth))
        for figure in ("parameters", "multiply_accumulates", "memory"):
            assert sum(getattr(layer, figure) for layer in layers) == getattr(whole, figure), (depth, figure)
    assert sum(layer.kind not in MINOR_KINDS for layer in whole.opened(whole.page())) <= MAX_TABLE_ROWS


class Odd(nn.Module):
    """What the families do not do, or only one of them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, (3, 5), stride=(2, 1), padding=1)
        self.scale = nn.Parameter(torch.ones(4))
        self.spare = nn.Conv2d(4, 4, 1)
        self.nothing = nn.Identity()

    def forward(self, x):
        x = self.nothing(self.conv(x)) * self.scale.view(1, -1, 1, 1)
        x = F.conv2d(x, self.spare.weight, self.spare.bias)
        x = F.relu(x, inplace=True)
        x = x[:, :2] + x[:, 2:]  # slices are views: no row, no memory
        return torch.flatten(F.adaptive_avg_pool2d(F.relu(self.conv(F.pad(x, (1, 1, 1, 1, 0, 1)))), 1), 1)


def test_functions_parameters_and_repeated_modules():
    with torch.device("meta"):
        net = Odd()
    whole = trace_layers(net, (3, 9, 9))
    rows = [(layer.name, layer.kind, layer.parameters) for layer in whole.opened(1)]
    assert rows == [
        ("conv", "conv 3x5/2 p1, 4", 4 * 3 * 15 + 4),
        ("mul", "scale", 0),
        ("conv2d", "conv2d", 20),
        ("relu", "relu", 0),
        ("add", "add", 0),
        ("pad", "pad", 0),
        ("conv", "conv 3x5/2 p1, 4", 0),  # its parameters were counted above
        ("relu", "relu", 0),
        ("adaptive_avg_pool2d", "global avg pool", 0),
        ("flatten", "flatten", 0),
        ("weights", "weights", 4),  # the scale, which reaches the multiplication as a view
    ]
    assert whole.parameters == sum(p.numel() for p in net.parameters())
    memory = {(layer.name, layer.shape): layer.memory for layer in whole.opened(1)}
    assert memory["relu", (4, 5, 7)] == 0  # in place
    assert memory["relu", (4, 4, 7)] == 4 * 4 * 4 * 7
    macs = [layer.multiply_accumulates for layer in whole.opened(1)]
    assert macs[0] == 4 * 5 * 7 * 3 * 15
    assert macs[2] == 4 * 5 * 7 * 4


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.Conv2d(8, 4, 3, padding=1, groups=2), "conv 3x3 p1 g2, 4"),
        (nn.MaxPool2d(3, stride=2, ceil_mode=True), "max pool 3x3/2 ceil"),
        (nn.AvgPool2d(2), "avg pool 2x2/2"),
        (nn.Linear(2, 5), "fc, 5"),
        (nn.LocalResponseNorm(5), "LRN"),
        (nn.Dropout(0.5), "dropout 0.5"),
        (nn.Softplus(), "Softplus"),
    ],
)
def test_kinds_in_short(module, kind):
    assert kind_of(module) == kind
