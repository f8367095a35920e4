"""Weights: torchvision's, from a cache that the test fills, and files; what fits, is bent to fit, is refused."""

import hashlib
import logging
import os
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models
from torchvision.models import get_model_weights

from cnnzoo.errors import UserError
from cnnzoo.models import create_model, info, weights
from cnnzoo.models.weights import Preprocessing, preprocessing


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torchvision's, and no way to the network."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in the tests")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def publish(name: str, state: dict[str, torch.Tensor], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put `state` where torchvision's cache would hold the weights of `name`, under a name with its own hash."""
    path = cache / "made.pth"
    torch.save(state, path)
    path = path.rename(cache / f"{name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")
    member = get_model_weights(info(name).torchvision)["DEFAULT"]
    stand_in = SimpleNamespace(
        url=f"https://download.example.org/models/{path.name}", transforms=member.transforms, get_state_dict=None
    )
    monkeypatch.setattr(weights, "_member", lambda *_: stand_in)
    return path


def state_of(name: str, **arguments: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return create_model(name, **arguments).state_dict()


def saved(state: object, path: Path) -> str:
    torch.save(state, path)
    return str(path)


def said(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


def test_published_weights_come_from_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of("squeezenet1_1")
    publish("squeezenet1_1", state, cache, monkeypatch)
    for word in ("IMAGENET1K_V1", "DEFAULT"):
        loaded = create_model("squeezenet1_1", weights=word).state_dict()
        assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_head_for_other_classes_is_drawn_anew_and_said_so(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state = state_of("resnet18")
    publish("resnet18", state, cache, monkeypatch)
    with caplog.at_level(logging.INFO):
        net = create_model("resnet18", weights="IMAGENET1K_V1", num_classes=7)
    loaded = net.state_dict()
    assert loaded["fc.weight"].shape == (7, 512)
    assert loaded["fc.weight"].std() > 0
    assert all(torch.equal(loaded[key], state[key]) for key in state if not key.startswith("fc."))
    assert "1000 classes, not 7: fc.weight and fc.bias start anew" in said(caplog)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_first_convolution_answers_alike_to_other_channels(
    channels: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = state_of("squeezenet1_1", num_classes=4)
    path = saved(state, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        net = create_model("squeezenet1_1", weights=path, num_classes=4, in_channels=channels).eval()
    colour = create_model("squeezenet1_1", weights=path, num_classes=4).eval()
    grey = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(net(grey.expand(-1, channels, -1, -1)), colour(grey.expand(-1, 3, -1, -1)))
    assert f"from 3 to {channels} channels" in said(caplog)
    if channels == 1:
        assert torch.equal(net.features[0].weight, state["features.0.weight"].sum(1, keepdim=True))


def test_googlenet_drops_its_heads_and_transforms_its_input(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    theirs = torchvision_models.googlenet(aux_logits=True, transform_input=True, init_weights=False).eval()
    publish("googlenet", theirs.state_dict(), cache, monkeypatch)
    images = torch.randn(2, 3, 64, 64)
    net = create_model("googlenet", weights="DEFAULT").eval()
    assert net.transform_input
    assert not any(key.startswith("aux") for key in net.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(net(images), theirs(images), rtol=1e-5, atol=1e-5)

    assert net.arguments["transform_input"] is True  # so that a run brought back transforms too
    checkpoint = {
        "cnnzoo": {"model": net.arguments},
        "state_dict": {f"net.{k}": v for k, v in net.state_dict().items()},
    }
    assert create_model("googlenet", weights=saved(checkpoint, cache / "best.ckpt")).transform_input

    heads = create_model("googlenet", weights="DEFAULT", aux_logits=True, num_classes=7).state_dict()
    assert torch.equal(heads["aux1.fc1.weight"], theirs.state_dict()["aux1.fc1.weight"])
    assert heads["aux2.fc2.weight"].shape == (7, 1024)


def test_googlenet_folds_the_transform_for_other_channels(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    state = state_of("googlenet", aux_logits=True)
    publish("googlenet", state, cache, monkeypatch)
    colour = create_model("googlenet", weights="DEFAULT").eval()
    grey = create_model("googlenet", weights="DEFAULT", in_channels=1).eval()
    assert not grey.transform_input
    images = torch.randn(2, 1, 40, 40)
    with torch.inference_mode():
        expected = colour.conv1(
            torch.cat([images * s + t for s, t in zip((0.458, 0.448, 0.45), (-0.03, -0.088, -0.188), strict=True)], 1)
        )
        found = grey.conv1(images)
    inner = slice(2, -2)  # zero padding stands for another grey at the rim
    torch.testing.assert_close(found[..., inner, inner], expected[..., inner, inner], rtol=1e-4, atol=1e-5)


def test_densenet_takes_the_old_keys_of_torchvisions_files(tmp_path: Path) -> None:
    thin = {"growth_rate": 4, "depths": (1, 1, 1, 1), "num_classes": 3}
    state = state_of("densenet121", **thin)
    old = {
        key.replace("norm1", "norm.1")
        .replace("norm2", "norm.2")
        .replace("conv1", "conv.1")
        .replace("conv2", "conv.2"): v
        for key, v in state.items()
        if not key.endswith("num_batches_tracked")  # files of that age lack the counter
    }
    assert old.keys() != state.keys()
    loaded = create_model("densenet121", weights=saved(old, tmp_path / "old.pth"), **thin).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_checkpoint_of_ours(tmp_path: Path) -> None:
    net = create_model("lenet5", in_channels=1)
    checkpoint = {
        "cnnzoo": {"model": {"name": "lenet5"}},
        "state_dict": {**{f"net.{key}": value for key, value in net.state_dict().items()}, "other": torch.zeros(1)},
    }
    path = saved(checkpoint, tmp_path / "a run (1), ü=2.ckpt")
    loaded = create_model("lenet5", in_channels=1, weights=path).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in net.state_dict().items())
    assert all(
        torch.equal(create_model("lenet5", in_channels=1, weights=Path(path)).state_dict()[k], loaded[k])
        for k in loaded
    )


def test_checkpoint_of_another_network(tmp_path: Path) -> None:
    path = saved({"cnnzoo": {"model": {"name": "alexnet"}}, "state_dict": {}}, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"best\.ckpt is a checkpoint of alexnet, not of lenet5"):
        create_model("lenet5", weights=path)


def test_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    path.touch()
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match="pip install safetensors"):
        create_model("lenet5", in_channels=1, weights=str(path))
    state = state_of("lenet5", in_channels=1)
    stand_in = SimpleNamespace(load_file=lambda *_, **__: state)
    monkeypatch.setitem(sys.modules, "safetensors.torch", stand_in)
    monkeypatch.setitem(sys.modules, "safetensors", SimpleNamespace(torch=stand_in))
    loaded = create_model("lenet5", in_channels=1, weights=str(path)).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "resnet18",
            {"weights": "IMAGENET1K_V3"},
            r"unknown weights for resnet18 'IMAGENET1K_V3': .*IMAGENET1K_V1",
        ),
        ("resnet18", {"weights": "IMAGENET1K_V2"}, r"unknown weights for resnet18 'IMAGENET1K_V2'"),
        ("vgg16", {"weights": "IMAGENET1K_FEATURES"}, r"unknown weights for vgg16"),
        ("zfnet", {"weights": "DEFAULT"}, r"zfnet has no published weights; name a file"),
        ("resnet18", {"weights": "DEFAULT", "stem": "small"}, r"are for stem=native, not stem=small"),
        ("lenet5", {"weights": "gone.pth"}, r"weights=gone\.pth: there is no such file"),
        ("lenet5", {"weights": "runs/gone"}, r"weights=runs/gone: there is no such file"),
    ],
)
def test_weights_that_are_not_there(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_model(name, **arguments)


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    state = state_of("lenet5", in_channels=1)
    state["c7.weight"] = state.pop("c5.weight")
    state["f6.weight"] = state["f6.weight"][:, :7]
    path = saved(state, tmp_path / "w.pth")
    with pytest.raises(UserError) as raised:
        create_model("lenet5", in_channels=1, weights=path)
    assert str(raised.value) == (
        f"weights={path} for lenet5 does not fit: missing: c5.weight; not of this network: c7.weight; "
        "of another shape: f6.weight (84, 7) for (84, 120)"
    )


def test_a_state_dict_of_another_network_is_one_line(tmp_path: Path) -> None:
    path = saved(state_of("squeezenet1_1"), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"and \d+ more") as raised:
        create_model("resnet18", weights=path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1000


class Malice:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_code_is_not_run(tmp_path: Path) -> None:
    path = saved({"c1.weight": Malice(tmp_path / "done")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth holds more than tensors, which could run code, and is not loaded"):
        create_model("lenet5", weights=path)
    assert not (tmp_path / "done").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_torn_and_foreign_files(tmp_path: Path) -> None:
    whole = Path(saved(state_of("lenet5", in_channels=1), tmp_path / "whole.pth")).read_bytes()
    contents = {
        "half.pth": whole[: len(whole) // 2],
        "empty.pth": b"",
        "text.pth": b"hello world",
        "page.pth": b"<html>404</html>",
        "pickle.pth": pickle.dumps([1, 2]),
        "half.ckpt": whole[: len(whole) // 2],
    }
    for file, content in contents.items():
        (tmp_path / file).write_bytes(content)
        with pytest.raises(UserError, match=file.replace(".", r"\.")) as raised:
            create_model("lenet5", in_channels=1, weights=str(tmp_path / file))
        assert "\n" not in str(raised.value)
    saved([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"list\.pth holds no state dict"):
        create_model("lenet5", weights=str(tmp_path / "list.pth"))
    saved({"epoch": 3}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"other\.ckpt is no checkpoint of cnnzoo"):
        create_model("lenet5", weights=str(tmp_path / "other.ckpt"))


def test_a_changed_file_in_the_cache_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = publish("squeezenet1_1", state_of("squeezenet1_1"), cache, monkeypatch)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(UserError, match=r"is torn or changed .* delete it") as raised:
        create_model("squeezenet1_1", weights="DEFAULT")
    assert str(path) in str(raised.value)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is torn or changed"):
        create_model("squeezenet1_1", weights="DEFAULT")


def test_the_real_enum_without_a_network_says_where_to_put_the_file(cache: Path) -> None:
    with pytest.raises(UserError, match=r"cannot download https://.*resnet50-11ad3fa6\.pth \(no network") as raised:
        create_model("resnet50", weights="IMAGENET1K_V2")
    assert str(cache / "resnet50-11ad3fa6.pth") in str(raised.value)
    (cache / "resnet50-11ad3fa6.pth").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"starts with [0-9a-f]{8}, not 11ad3fa6"):
        create_model("resnet50", weights="DEFAULT")


def test_preprocessing() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert preprocessing("resnet50", "IMAGENET1K_V1") == Preprocessing(224, 256, mean, std)
    assert preprocessing("resnet50", "DEFAULT") == Preprocessing(224, 232, mean, std)
    assert preprocessing("resnet50", "some/file.pth") is None
    with pytest.raises(UserError, match="unknown weights"):
        preprocessing("resnet50", "IMAGENET")


def test_head_in_a_file_cut_off_is_missing_not_replaced(tmp_path: Path) -> None:
    state = {key: value for key, value in state_of("resnet18").items() if not key.startswith("fc.")}
    with pytest.raises(UserError, match=r"missing: fc\.weight, fc\.bias"):
        create_model("resnet18", weights=saved(state, tmp_path / "trunk.pth"))


def test_frozen_modules_are_untouched_by_the_check_of_heads(tmp_path: Path) -> None:
    """The second, weightless network that shows what the heads are leaves the generator as it was."""
    path = saved(state_of("lenet5", in_channels=1), tmp_path / "w.pth")
    torch.manual_seed(3)
    create_model("lenet5", in_channels=1, weights=path)
    after_weights = torch.rand(1)
    torch.manual_seed(3)
    create_model("lenet5", in_channels=1)
    assert torch.equal(after_weights, torch.rand(1))
    assert isinstance(create_model("lenet5", weights=None), nn.Module)
