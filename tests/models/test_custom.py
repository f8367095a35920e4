"""Networks of the user: how their arguments are found, the check of their output, and what their layers are."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from cnnzoo.errors import UserCodeError, UserError
from cnnzoo.models.custom import (
    build_custom,
    custom_head_parameters,
    find_classifier,
    load_custom_weights,
    meta_copy,
    read_custom_weights,
    rebuild_custom,
)
from cnnzoo.models.factory import head_parameters
from cnnzoo.models.output_check import check_output


class Net(nn.Module):
    """A network with everything that a forward pass changes: batch norm's statistics and random numbers."""

    def __init__(self, num_classes=10, in_channels=3, width=4):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.dropout(self.norm(self.conv(x)).relu().mean((2, 3))))


class Renamed(Net):
    def __init__(self, n_classes, n_channels):
        super().__init__(n_classes, n_channels)


class Fixed(Net):
    def __init__(self):
        super().__init__(7, 2)


def passes_on(**kwargs):
    """As timm's and torchvision's functions: any keyword is accepted, and passed on to a class that may reject it."""
    return Chans(**kwargs)


class Chans(Net):
    def __init__(self, num_classes=1000, in_chans=3):
        super().__init__(num_classes, in_chans)


def needs(depth, num_classes):
    return Net(num_classes)


def fails(num_classes):
    raise ValueError("no luck")


def gives_number(num_classes):
    return num_classes


def with_taken_attribute(num_classes):
    net = Net(num_classes)
    net.classes = ["a", "b"]
    return net


class TupleInTraining(Net):
    def forward(self, x):
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


class Predicted(Net):
    def forward(self, x):
        return super().forward(x).argmax(1)


class FeatureMap(Net):
    def forward(self, x):
        return self.conv(x)


class Lazy(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(num_classes))


class WithGetClassifier(Net):
    """A layer after the classes, as a scale, would be found without the method."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.scale = nn.Linear(num_classes, num_classes)

    def get_classifier(self):
        return self.head


@pytest.fixture(autouse=True)
def user_module(monkeypatch):
    """These classes and functions as the module `mynet`."""
    module = ModuleType("mynet")
    vars(module).update({name: value for name, value in globals().items() if not name.startswith("_")})
    module.instance = Net()
    monkeypatch.setitem(sys.modules, "mynet", module)


def build(name, **args):
    torch.manual_seed(0)
    return build_custom(f"mynet.{name}", args, num_classes=5, in_channels=2)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("Net", {"num_classes": 5, "in_channels": 2}),
        ("Renamed", {"n_classes": 5, "n_channels": 2}),
        ("passes_on", {"num_classes": 5, "in_chans": 2}),
        ("Fixed", {}),
        ("Lazy", {"num_classes": 5}),
    ],
)
def test_numbers_reach_the_usual_arguments(name, call):
    net = build(name)
    assert net.arguments["args"] == call
    again = rebuild_custom(net.arguments)
    assert again.arguments == net.arguments
    assert again.state_dict().keys() == net.state_dict().keys()


def test_named_arguments_and_typed_values_take_precedence():
    def arguments(args, **options):
        return build_custom("mynet.Net", args, num_classes=5, in_channels=2, **options).arguments["args"]

    assert arguments({"in_channels": 1, "width": 8}) == {"num_classes": 5, "in_channels": 1, "width": 8}
    assert arguments({}, classes_argument="width", channels_argument=None) == {"width": 5}


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("Nett", {}, "mynet has no Nett; did you mean Net?"),
        ("Net", {"widht": 8}, "model.args.widht=8: mynet.Net has no such argument; did you mean model.args.width?"),
        ("passes_on", {"widht": 8}, "unexpected keyword argument 'widht'"),
        ("needs", {}, "needs the argument depth; type model.args.depth=..."),
        ("gives_number", {}, "returns an object of type int, expected a network"),
        ("instance", {}, "is a network; expected a function or a class"),
        ("with_taken_attribute", {}, "its attribute 'classes' has a meaning in cnnzoo"),
    ],
)
def test_target_that_cannot_be_built_is_refused(name, args, message):
    with pytest.raises(UserError) as error:
        build(name, **args)
    assert message in str(error.value)


def test_error_of_the_target_keeps_its_cause():
    with pytest.raises(UserCodeError, match=r"mynet.fails: ValueError: no luck") as error:
        build("fails")
    assert isinstance(error.value.__cause__, ValueError)


def test_name_and_argument_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"model.name=resnet18: is a network of cnnzoo"):
        build_custom("mynet.Net", {}, name="resnet18")
    with pytest.raises(UserError, match=r"model.classes_argument=n: mynet.Net has no such argument; expected one of"):
        build_custom("mynet.Net", {}, num_classes=5, classes_argument="n")


def check(net, num_classes=5, shape=(2, 6, 6)):
    return check_output(net, "model.target=mynet.X", [shape], num_classes, error_hint="HINT", classes_hint="; CLASSES")


def test_check_of_the_output_leaves_no_trace():
    net = build("Net")
    net.norm.eval()  # frozen, as in fine-tuning
    state = {name: value.clone() for name, value in net.state_dict().items()}
    buffers = {name: id(value) for name, value in net.named_buffers()}
    random_state = torch.get_rng_state()
    assert check(net) == check(net, None) == 5
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert {name: id(value) for name, value in net.named_buffers()} == buffers
    assert torch.equal(torch.get_rng_state(), random_state)
    assert net.training
    assert not net.norm.training


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Fixed", r"\(2, 2, 6, 6\) in evaluation mode it returns float32 \(2, 7\); expected \(2, 5\).*; CLASSES"),
        ("TupleInTraining", r"in training mode it returns a tuple of 2; expected float logits \(2, 5\)"),
        ("Predicted", r"it returns int64 \(2,\); expected float logits"),
        ("FeatureMap", r"it returns float32 \(2, 4, 6, 6\); expected float logits"),
    ],
)
def test_wrong_output_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        check(build(name))


def test_error_in_the_forward_pass_is_one_line():
    with pytest.raises(UserError, match=r"^model.target=mynet.X: for images \(2, 3, 6, 6\).*RuntimeError.*; HINT$"):
        check(build("Net"), shape=(3, 6, 6))


def test_lazy_network_gets_its_sizes():
    net = build("Lazy")
    check(net)
    assert net[2].weight.shape == (5, 64)


@pytest.mark.parametrize(("name", "path"), [("Net", "head"), ("WithGetClassifier", "head"), ("FeatureMap", "head")])
def test_last_layer_is_found(name, path):
    net = build(name)
    assert find_classifier(net) == path
    assert head_parameters(net) == custom_head_parameters(net) == [f"{path}.weight", f"{path}.bias"]


def test_network_without_such_a_layer_has_no_head():
    net = build("Net")
    net.head = nn.Linear(4, 6)
    assert find_classifier(net) is None
    assert head_parameters(net) == []


def test_weights_of_another_number_of_classes_leave_the_head(tmp_path):
    trained = Net(num_classes=3, in_channels=2)
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "mine.pth")
    net = build("Net")
    head = net.head.weight.clone()
    load_custom_weights(net, read_custom_weights("mynet.Net", tmp_path / "mine.pth"), source="mine.pth")
    assert torch.equal(net.conv.weight, trained.conv.weight)
    assert torch.equal(net.head.weight, head)
    assert net.replaced_parameters == ["head.weight", "head.bias"]


def test_weights_that_do_not_fit_are_refused(tmp_path):
    torch.save(Net(width=5).state_dict(), tmp_path / "mine.pth")
    with pytest.raises(UserError, match=r"mine.pth does not fit: wrong shape: conv.weight"):
        load_custom_weights(build("Net"), read_custom_weights("mynet.Net", tmp_path / "mine.pth"), source="mine.pth")
    with pytest.raises(UserError, match=r"model.weights=DEFAULT: there is no such file"):
        read_custom_weights("mynet.Net", "DEFAULT")


def test_meta_copy_has_no_values_and_keeps_tied_weights():
    net = build("Net")
    net.tied = net.conv
    copy = meta_copy(net)
    assert {tensor.device.type for tensor in (*copy.parameters(), *copy.buffers())} == {"meta"}
    assert copy.tied is copy.conv
    assert copy(torch.empty(1, 2, 6, 6, device="meta")).shape == (1, 5)
    assert net.conv.weight.device.type == "cpu"
