"""Networks that torchvision has too: keys, shapes, initial weights, logits, losses and gradients are equal."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models as torchvision_models

from cnnzoo.models import create_model, info
from tests.helpers.zoo import name_params


def build_pair(name: str, **arguments: object) -> tuple[nn.Module, nn.Module]:
    """Our network and torchvision's from the same seed, without dropout."""
    torch.manual_seed(0)
    ours = create_model(name, num_classes=7, **{key: arguments[key] for key in arguments if key != "init_weights"})
    torch.manual_seed(0)
    if name == "googlenet":
        arguments = {"aux_logits": False, "init_weights": True, **arguments}
    reference = torchvision_models.get_model(info(name).torchvision, num_classes=7, **arguments)
    for module in [*ours.modules(), *reference.modules()]:
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return ours, reference


def equal_or_close(tensor: torch.Tensor, expected: torch.Tensor, rtol: float, atol: float) -> bool:
    """As `torch.allclose`, which is slow: most tensors are equal."""
    return torch.equal(tensor, expected) or torch.allclose(tensor, expected, rtol=rtol, atol=atol)


def assert_same_state(ours: nn.Module, reference: nn.Module, tolerance: float = 0.0) -> None:
    state, expected = ours.state_dict(), reference.state_dict()
    assert list(state) == list(expected)
    for key, tensor in state.items():
        assert tensor.shape == expected[key].shape, key
        assert equal_or_close(tensor, expected[key], tolerance, tolerance), key


def assert_same_gradients(ours: nn.Module, reference: nn.Module) -> None:
    for (key, parameter), expected in zip(ours.named_parameters(), reference.parameters(), strict=True):
        scale = expected.grad.abs().max().item()
        assert equal_or_close(parameter.grad, expected.grad, 1e-3, 1e-4 * scale + 1e-7), key


@pytest.mark.parametrize("name", name_params(torchvision_only=True))
def test_equals_torchvision(name: str) -> None:
    ours, reference = build_pair(name)
    assert_same_state(ours, reference)

    images, labels = torch.randn(3, 3, 64, 64), torch.tensor([0, 3, 6])
    losses = [F.cross_entropy(net(images), labels) for net in (ours, reference)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
    for loss in losses:
        loss.backward()
    assert_same_gradients(ours, reference)
    assert_same_state(ours, reference, 1e-5)  # the running statistics of batch norm

    with torch.no_grad():  # other values than the initial ones, whose biases are all equal
        for parameter in reference.parameters():
            parameter.mul_(1.1).add_(0.001)
    ours.load_state_dict(reference.state_dict(), strict=True)
    reference.load_state_dict(ours.state_dict(), strict=True)
    ours.eval(), reference.eval()
    with torch.inference_mode():
        logits, expected = ours(images), reference(images)
    assert expected.std() > 0
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_googlenet_aux_logits_and_transform_input() -> None:
    ours, reference = build_pair("googlenet", aux_logits=True, transform_input=True, init_weights=False)
    ours.load_state_dict(reference.state_dict(), strict=True)
    images = torch.randn(3, 3, 64, 64)
    logits, (shallow, deep) = ours.forward_with_aux(images)
    expected = reference(images)
    torch.testing.assert_close(logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shallow, expected.aux_logits1, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(deep, expected.aux_logits2, rtol=1e-5, atol=1e-5)
    assert not torch.equal(shallow, deep)
    (logits.sum() + shallow.square().sum() + deep.square().sum()).backward()
    (expected.logits.sum() + expected.aux_logits1.square().sum() + expected.aux_logits2.square().sum()).backward()
    assert_same_gradients(ours, reference)
