"""`trace_layers`: totals against the registered facts, and which modules and functions become layers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnzoo.describe.trace import MAX_TABLE_ROWS, MINOR_KINDS, module_kind, trace_layers
from cnnzoo.models import info
from tests.helpers.zoo import build_on_meta, name_params


@pytest.mark.parametrize("name", name_params())
def test_trace_layers_totals_equal_the_facts(name):
    facts = info(name)
    net = trace_layers(build_on_meta(name), (facts.in_channels, facts.input_size, facts.input_size))
    assert net.shape == (facts.num_classes,)
    assert net.parameters == facts.parameters
    assert facts.multiply_accumulates in (None, net.multiply_accumulates)
    for depth in range(1, net.depth + 1):
        layers = list(net.at_depth(depth))
        for attribute in ("parameters", "multiply_accumulates", "memory"):
            assert sum(getattr(layer, attribute) for layer in layers) == getattr(net, attribute), (depth, attribute)
    assert sum(layer.kind not in MINOR_KINDS for layer in net.at_depth(net.auto_depth())) <= MAX_TABLE_ROWS


class UnusualNet(nn.Module):
    """Operations that no network of the zoo uses, or only one of them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, (3, 5), stride=(2, 1), padding=1)
        self.scale = nn.Parameter(torch.ones(4))
        self.conv1x1 = nn.Conv2d(4, 4, 1)
        self.identity = nn.Identity()

    def forward(self, x):
        x = self.identity(self.conv(x)) * self.scale.view(1, -1, 1, 1)
        x = F.conv2d(x, self.conv1x1.weight, self.conv1x1.bias)
        x = F.relu(x, inplace=True)
        x = x[:, :2] + x[:, 2:]  # slices are views: no layer, no memory
        return torch.flatten(F.adaptive_avg_pool2d(F.relu(self.conv(F.pad(x, (1, 1, 1, 1, 0, 1)))), 1), 1)


def test_trace_layers_of_functions_and_repeated_modules():
    with torch.device("meta"):
        module = UnusualNet()
    net = trace_layers(module, (3, 9, 9))
    rows = [(layer.name, layer.kind, layer.parameters) for layer in net.at_depth(1)]
    assert rows == [
        ("conv", "conv 3x5/2 p1, 4", 4 * 3 * 15 + 4),
        ("mul", "scale", 0),
        ("conv2d", "conv2d", 20),
        ("relu", "relu", 0),
        ("add", "add", 0),
        ("pad", "pad", 0),
        ("conv", "conv 3x5/2 p1, 4", 0),  # parameters are counted at the first call only
        ("relu", "relu", 0),
        ("adaptive_avg_pool2d", "global avg pool", 0),
        ("flatten", "flatten", 0),
        ("weights", "weights", 4),  # `scale`, which is multiplied as a view
    ]
    assert net.parameters == sum(p.numel() for p in module.parameters())
    memory = {(layer.name, layer.shape): layer.memory for layer in net.at_depth(1)}
    assert memory["relu", (4, 5, 7)] == 0  # in place
    assert memory["relu", (4, 4, 7)] == 4 * 4 * 4 * 7
    macs = [layer.multiply_accumulates for layer in net.at_depth(1)]
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
def test_module_kind(module, kind):
    assert module_kind(module) == kind
