"""Feature maps instead of logits, and another number of classes: what users of timm know."""

import pytest
import torch
from torch import nn

from cnnzoo.errors import UserError
from cnnzoo.models import create_model, info
from tests.helpers.zoo import build_on_meta, name_params, set_batch_norm_statistics, shallow_params


def input_of(name: str) -> torch.Tensor:
    facts = info(name)
    return torch.empty(2, facts.in_channels, facts.input_size, facts.input_size, device="meta")


@pytest.mark.parametrize("name", name_params())
def test_feature_maps_have_the_stated_shapes(name):
    net = build_on_meta(name, features_only=True).eval()
    images = input_of(name)
    maps = net(images)
    reductions = net.feature_info.reduction()
    assert reductions == sorted(set(reductions))
    assert [feature.shape[1] for feature in maps] == net.feature_info.channels()
    for feature, reduction in zip(maps, reductions, strict=True):
        assert reduction <= images.shape[2] / feature.shape[2] < 2 * reduction


@pytest.mark.parametrize(("name", "arguments"), [("fractalnet20", {}), ("resnet110_stochastic_depth", {"depth": 2})])
def test_training_with_random_paths_gives_all_maps(name, arguments):
    net = create_model(name, features_only=True, **arguments).train()
    maps = net(torch.randn(2, 3, 32, 32))
    assert [feature.shape[1] for feature in maps] == net.feature_info.channels()
    assert [32 // feature.shape[2] for feature in maps] == net.feature_info.reduction()


def test_resnet50_feature_info_equals_timm():
    net = build_on_meta("resnet50", features_only=True)
    assert net.feature_info.channels() == [64, 256, 512, 1024, 2048]
    assert net.feature_info.reduction() == [2, 4, 8, 16, 32]


@pytest.mark.parametrize("name", name_params())
def test_last_map_gives_the_logits(name):
    net = build_on_meta(name).eval()
    features = net.forward_features(input_of(name))
    assert features.shape[1] == net.num_features
    assert net.forward_head(features, pre_logits=True).shape == (2, net.num_features)
    assert net.forward_head(features).shape == (2, net.num_classes)


def test_out_indices_select_maps():
    torch.manual_seed(0)
    net = create_model("resnet20", features_only=True).eval()
    images = torch.randn(2, 3, 32, 32)
    some = create_model("resnet20", features_only=True, out_indices=(-1, 0)).eval()
    some.body.load_state_dict(net.body.state_dict())
    assert some.feature_info.reduction() == [4, 1]
    torch.testing.assert_close(some(images)[0], net(images)[2])
    torch.testing.assert_close(some(images)[1], net(images)[0])


def test_out_indices_out_of_range_is_an_error():
    with pytest.raises(UserError, match=r"out_indices=\[3\]: expected numbers from 0 to 2.*reductions 1, 2, 4"):
        create_model("resnet20", features_only=True, out_indices=[3])


def test_out_indices_without_features_only_is_an_error():
    with pytest.raises(UserError, match=r"out_indices=.*features_only=True"):
        create_model("resnet20", out_indices=[0])


@pytest.mark.long
@pytest.mark.parametrize(("name", "arguments"), [param for param in shallow_params() if not param.marks])
def test_features_are_exported(name, arguments):
    net = create_model(name, in_channels=info(name).in_channels, features_only=True, **arguments)
    images = torch.randn(2, info(name).in_channels, info(name).input_size, info(name).input_size)
    set_batch_norm_statistics(net, images)  # as after a training
    exported = torch.export.export(net.eval(), (images,)).module()
    with torch.no_grad():
        for expected, actual in zip(net(images), exported(images), strict=True):
            torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", name_params())
def test_reset_classifier_changes_only_the_head(name):
    net = build_on_meta(name, num_classes=7).eval()
    before = {key: value.shape for key, value in net.state_dict().items()}
    net.reset_classifier(5)
    assert net.num_classes == net.arguments["num_classes"] == 5
    assert net(input_of(name)).shape == (2, 5)
    fresh = build_on_meta(name, num_classes=5).state_dict()
    assert {key: value.shape for key, value in net.state_dict().items()} == {k: v.shape for k, v in fresh.items()}
    changed = {key for key, shape in before.items() if fresh[key].shape != shape}
    assert all(key.startswith((net.classifier_path[0], "aux")) for key in changed)


@pytest.mark.parametrize("name", name_params())
def test_network_without_classes_returns_features(name):
    net = build_on_meta(name, num_classes=0).eval()
    images = input_of(name)
    assert net(images).shape == (2, net.num_features)
    assert isinstance(net.get_classifier(), nn.Identity)
    net.reset_classifier(3)
    assert net(images).shape == (2, 3)


def test_reset_classifier_keeps_device_mode_and_weights():
    torch.manual_seed(0)
    net = create_model("googlenet", num_classes=4, stem="small", aux_logits=True).double().eval()
    weight = net.conv1.conv.weight.clone()
    net.reset_classifier(6)
    assert net.fc.weight.dtype == torch.float64
    assert not net.fc.training
    assert torch.equal(net.conv1.conv.weight, weight)
    logits, aux = net.forward_with_aux(torch.randn(2, 3, 32, 32).double())
    assert [output.shape for output in (logits, *aux)] == [(2, 6)] * 3
    net.reset_classifier(0)
    assert net.forward_with_aux(torch.randn(2, 3, 32, 32).double())[1] == []


@pytest.mark.parametrize("num_classes", [-1, 2.5, "3"])
def test_reset_classifier_wrong_number_is_an_error(num_classes):
    with pytest.raises(UserError, match="num_classes"):
        create_model("resnet20").reset_classifier(num_classes)
