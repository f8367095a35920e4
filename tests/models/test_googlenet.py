"""GoogLeNet: the sizes of Table 1, and the differences between the paper's network and torchvision's."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnzoo.models import create_model
from cnnzoo.models.googlenet import Inception
from tests.helpers.zoo import build_on_meta, node_shapes, read_zoo_csv


@pytest.mark.parametrize("name", ["googlenet", "googlenet_paper"])
def test_shapes(name: str) -> None:
    expected = {
        "conv1": (64, 112),
        "maxpool1": (64, 56),
        "conv3": (192, 56),
        "maxpool2": (192, 28),
        "inception3a": (256, 28),
        "inception3b": (480, 28),
        "maxpool3": (480, 14),
        "inception4a": (512, 14),
        "inception4b": (512, 14),
        "inception4c": (512, 14),
        "inception4d": (528, 14),
        "inception4e": (832, 14),
        "maxpool4": (832, 7),
        "inception5a": (832, 7),
        "inception5b": (1024, 7),
        "avgpool": (1024, 1),
    }
    assert node_shapes(name, list(expected)) == [(channels, size, size) for channels, size in expected.values()]


def test_paper_parameters_with_auxiliary_heads() -> None:
    (row,) = [
        row for row in read_zoo_csv() if row["name"] == "googlenet_paper" and row["arguments"] == "aux_logits=True"
    ]
    net = build_on_meta("googlenet_paper", aux_logits=True)
    assert sum(p.numel() for p in net.parameters()) == int(row["parameters"]) == 13_378_280


@pytest.mark.parametrize(("aux_logits", "parameters"), [(False, 5_983_802), (True, 10_334_030)])
def test_paper_parameters_for_10_classes(aux_logits: bool, parameters: int) -> None:
    net = build_on_meta("googlenet_paper", num_classes=10, aux_logits=aux_logits)
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize(("name", "size"), [("googlenet", 3), ("googlenet_paper", 5)])
def test_kernel_of_5x5_branch(name: str, size: int) -> None:
    modules = [module for module in build_on_meta(name).modules() if isinstance(module, Inception)]
    assert len(modules) == 9
    assert {module.branch3[1].conv.kernel_size for module in modules} == {(size, size)}


def test_paper_has_biases_and_no_batch_norm() -> None:
    net = build_on_meta("googlenet_paper", aux_logits=True)
    kinds = [type(module) for module in net.modules()]
    assert nn.BatchNorm2d not in kinds
    assert kinds.count(nn.Conv2d) == 3 + 9 * 6 + 2
    assert all(module.bias is not None for module in net.modules() if isinstance(module, nn.Conv2d))
    order = [name for name, _ in net.named_children()][:7]
    assert order == ["conv1", "maxpool1", "norm1", "conv2", "conv3", "norm2", "maxpool2"]
    assert isinstance(net.norm1, nn.LocalResponseNorm)
    assert isinstance(net.norm2, nn.LocalResponseNorm)
    assert net.maxpool4.kernel_size == 3
    assert net.dropout.p == 0.4
    assert net.aux1.dropout.p == net.aux2.dropout.p == 0.7


def test_paper_norms_are_applied() -> None:
    norm_inputs = []
    net = build_on_meta("googlenet_paper").eval()
    for norm in (net.norm1, net.norm2):
        norm.register_forward_hook(lambda _, args, __: norm_inputs.append(tuple(args[0].shape[1:])))
    net(torch.empty(1, 3, 224, 224, device="meta"))
    assert norm_inputs == [(64, 56, 56), (192, 56, 56)]


def test_paper_auxiliary_heads_pool_5x5_stride_3() -> None:
    torch.manual_seed(0)
    head = create_model("googlenet_paper", num_classes=10, stem="small", aux_logits=True).aux1
    x = torch.randn(2, 512, 14, 14)
    torch.testing.assert_close(head.pool(x), F.avg_pool2d(x, 5, 3), rtol=1e-6, atol=1e-6)
    assert head.pool(torch.randn(2, 512, 2, 2)).shape == (2, 512, 4, 4)


def test_paper_auxiliary_heads_run_in_training_only() -> None:
    torch.manual_seed(0)
    net = create_model("googlenet_paper", num_classes=7, stem="small", aux_logits=True)
    images = torch.randn(4, 3, 8, 8)
    logits, auxiliary = net.forward_with_aux(images)
    assert [output.shape for output in (logits, *auxiliary)] == [(4, 7)] * 3
    sum(output.square().sum() for output in (logits, *auxiliary)).backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
    net.eval()
    with torch.inference_mode():
        expected, _ = net.forward_with_aux(images)
        for head in (net.aux1, net.aux2):
            head.register_forward_hook(lambda *_: pytest.fail("an auxiliary head ran"))
        torch.testing.assert_close(net(images), expected)


def test_paper_loads_weights_with_auxiliary_heads(tmp_path) -> None:
    torch.manual_seed(0)
    net = create_model("googlenet_paper", num_classes=7, stem="small", aux_logits=True)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    loaded = create_model("googlenet_paper", num_classes=7, stem="small", weights=tmp_path / "net.pth")
    images = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(loaded.eval()(images), net.eval()(images))
