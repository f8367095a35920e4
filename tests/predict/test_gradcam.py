"""Grad-CAM finds the place of the evidence, on the layer that suits each network."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnzoo.data import Digits
from cnnzoo.errors import UserError
from cnnzoo.models import create_model
from cnnzoo.predict.gradcam import feature_maps, find_feature_layer, first_convolution, grad_cam
from tests.helpers.zoo import build_small, shallow_params

STEPS = 100  # of training


class RedOrGreen(nn.Module):
    """Class 0 is red and class 1 is green; each color is evidence against the other class."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1, bias=False), nn.ReLU(inplace=True), nn.MaxPool2d(4))
        self.branches = nn.ModuleList([nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)])
        self.unused = nn.Conv2d(2, 2, 1)
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.fc = nn.Linear(32, 2)
        with torch.no_grad():
            self.features[0].weight.zero_()
            self.features[0].weight[0, 0, 1, 1] = self.features[0].weight[1, 1, 1, 1] = 1
            for branch in self.branches:
                branch.weight.copy_(torch.eye(2)[..., None, None])
                branch.bias.zero_()
            self.fc.weight.copy_(torch.tensor([[1.0] * 16 + [-1.0] * 16, [-1.0] * 16 + [1.0] * 16]))

    def forward_features(self, x):
        x = self.features(x)
        return self.pool(self.branches[0](x) + self.branches[1](x))

    def forward(self, x):
        return self.fc(torch.flatten(self.forward_features(x), 1))


@pytest.fixture
def image():
    """Red in the top left corner, green in the bottom right one: (1, 3, 32, 32)."""
    image = torch.zeros(1, 3, 32, 32)
    image[0, 0, :8, :8] = image[0, 1, -8:, -8:] = 1
    return image


def share(heat, rows, columns):
    return float(heat[rows, columns].sum() / heat.sum())


def test_grad_cam_is_where_the_evidence_is(image):
    net = RedOrGreen().eval()
    red, green = (grad_cam(net, "features", image, target) for target in (0, 1))
    top, bottom = slice(0, 12), slice(20, 32)
    assert red.shape == green.shape == (32, 32)
    assert share(red, top, top) > 0.95
    assert share(green, bottom, bottom) > 0.95
    assert red.max() == green.max() == 1


def test_grad_cam_without_evidence_is_zero(image):
    image[:, 0] = 0
    assert not grad_cam(RedOrGreen().eval(), "features", image, target=0).any()


def test_grad_cam_works_with_frozen_parameters(image):
    net = RedOrGreen().eval().requires_grad_(False)
    assert share(grad_cam(net, "features", image, 0), slice(0, 12), slice(0, 12)) > 0.95


def test_feature_layer_is_no_branch_and_no_fixed_pool(image):
    net = RedOrGreen().eval()
    assert find_feature_layer(net, image) == "features"
    assert not any(module._forward_hooks for module in net.modules())


def test_network_without_feature_map_is_an_error():
    with pytest.raises(UserError, match="explain=true: Sequential has no layer that gives a feature map"):
        find_feature_layer(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.zeros(1, 3, 2, 2))


def test_feature_maps_are_the_outputs_of_the_layer(image):
    net = RedOrGreen().eval()
    assert first_convolution(net) == "features.0"
    maps = feature_maps(net, "features.0", image)
    assert torch.equal(maps, image[0, :2])  # not changed by the ReLU behind it
    assert feature_maps(net, "features", image).shape == (2, 8, 8)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("feature", "unknown layer 'feature': did you mean features"),
        ("unused", "layer=unused: the network does not use this layer"),
        ("fc", r"layer=fc: it gives \(1, 2\), not a feature map"),
    ],
)
def test_bad_layer_is_an_error(layer, message, image):
    with pytest.raises(UserError, match=message):
        feature_maps(RedOrGreen().eval(), layer, image)


def paper_grad_cam(net, layer, image, target):
    """Equations 1 and 2 of the paper, scaled to a maximum of 1."""
    kept = []

    def keep(module, inputs, output):
        kept.append(output)
        return output.clone()  # layers behind it may change it in place

    handle = net.get_submodule(layer).register_forward_hook(keep)
    logits = net(image.clone().requires_grad_())
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, target], kept[0])
    scores = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True).relu()
    scores = F.interpolate(scores, image.shape[2:], mode="bilinear", align_corners=False)[0, 0]
    return (scores / scores.max().clamp_min(1e-12)).detach()


@pytest.mark.long
@pytest.mark.parametrize(("name", "arguments"), [param for param in shallow_params() if not param.marks])
def test_grad_cam_equals_the_paper_for_each_family(name, arguments):
    net, _ = build_small(name, **arguments)
    channels = net.arguments["in_channels"]
    image = torch.randn(1, channels, 32, 32)
    layer = find_feature_layer(net.eval(), image)
    assert min(feature_maps(net, layer, image).shape[1:]) >= 4
    for target in range(4):
        torch.testing.assert_close(
            grad_cam(net, layer, image, target), paper_grad_cam(net, layer, image, target), rtol=1e-3, atol=1e-3
        )


@pytest.mark.long
def test_grad_cam_of_a_trained_network_finds_the_digit():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    split = Digits(root=None, split_seed=0).split("train")
    pixels = torch.from_numpy(split.pixels).permute(0, 3, 1, 2).float() / 255
    digits = F.interpolate(pixels, (12, 12), mode="bilinear")
    corners = rng.integers(0, 2, (len(digits), 2)) * 12
    images = 0.1 * torch.rand(len(digits), 1, 24, 24)
    for image, digit, (y, x) in zip(images, digits, corners.tolist(), strict=True):
        image[:, y : y + 12, x : x + 12] += digit
    labels = torch.from_numpy(split.labels)
    net = create_model("resnet20", in_channels=1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        rows = torch.from_numpy(rng.integers(200, len(images), 64))
        optimizer.zero_grad()
        F.cross_entropy(net(images[rows]), labels[rows]).backward()
        optimizer.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        predicted = net(images[:200]).argmax(1)
    assert (predicted == labels[:200]).float().mean() > 0.85
    layer = find_feature_layer(net, images[:1])
    shares = []
    for image, target, (y, x) in zip(images[:50], predicted[:50].tolist(), corners[:50].tolist(), strict=True):
        heat = grad_cam(net, layer, image[None], target)
        shares.append(share(heat, slice(y, y + 12), slice(x, x + 12)))
    assert np.mean(shares) > 0.6  # a quarter by chance; the map of 6 x 6 positions is blurred
