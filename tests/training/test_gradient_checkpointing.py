"""Gradient checkpointing: the same gradients and statistics, with fewer tensors kept."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

import cnnzoo
from cnnzoo.errors import UserError
from cnnzoo.training.gradient_checkpointing import checkpoint_gradients

NETWORKS = {
    "alexnet": 64, "densenet_bc_100_12": 32, "fractalnet20": 32, "googlenet": 64, "nin_cifar": 32,
    "resnet18": 32, "resnet20": 32, "resnet110_stochastic_depth": 32, "squeezenet1_1": 64, "vgg11_bn": 32,
    "wrn_16_8": 32, "resnext29_8x64d": 32, "zfnet": 64, "preresnet110": 32,
}  # fmt: skip
LARGE = ("googlenet", "densenet_bc_100_12", "resnext29_8x64d", "zfnet", "alexnet", "wrn_16_8", "fractalnet20")


def train_step(net, images):
    """A step's gradients, the state after it, and the bytes of the tensors that the backward pass needed."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)  # of dropout
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = F.cross_entropy(net(images), torch.arange(len(images)) % 10)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    loss.backward()
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    return gradients, net.state_dict(), sum(size for address, size in kept.items() if address not in parameters)


def build(name):
    torch.manual_seed(0)
    return cnnzoo.create_model(name, num_classes=10, stem="small").train()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in LARGE else []) for name in NETWORKS]
)
def test_checkpointing_keeps_gradients_and_statistics(name):
    images = torch.randn(2, 3, NETWORKS[name], NETWORKS[name])
    gradients, state, kept = train_step(build(name), images)
    net = build(name)
    checkpoint_gradients(net)
    other_gradients, other_state, other_kept = train_step(net, images)
    assert len(gradients) == len(other_gradients)
    assert all(torch.equal(first, second) for first, second in zip(gradients, other_gradients, strict=True))
    assert state.keys() == other_state.keys()
    assert all(torch.equal(state[name], other_state[name]) for name in state)
    assert other_kept < 0.7 * kept


def test_checkpointing_without_blocks_is_an_error():
    with pytest.raises(UserError, match="LeNet has no blocks, only single layers"):
        checkpoint_gradients(build("lenet5"))


def test_checkpointing_in_evaluation_is_plain_forward():
    net = build("resnet20").eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = net(images)
        checkpoint_gradients(net)
        assert torch.equal(net(images), expected)
