"""Weights: torchvision's from a download cache that the test fills, files, adaptation and errors."""

import hashlib
import logging
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models as torchvision_models
from torchvision.models import get_model_weights

from cnnzoo.errors import UserError
from cnnzoo.models import create_model, info, weights
from cnnzoo.models.weights import Preprocessing, published_preprocessing


@pytest.fixture
def download_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download cache of torchvision, without network access."""

    def raise_error(*_: object, **__: object) -> None:
        raise OSError("no network in the tests")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", raise_error)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def save_as_published(
    name: str, state_dict: dict[str, torch.Tensor], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Save `state_dict` like torchvision's downloaded weights of `name`, with its hash in the file name."""
    path = folder / "weights.pth"
    torch.save(state_dict, path)
    path = path.rename(folder / f"{name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")
    member = get_model_weights(info(name).torchvision)["DEFAULT"]
    fake_member = SimpleNamespace(
        url=f"https://download.example.org/models/{path.name}",
        transforms=member.transforms,
        meta=member.meta,
        get_state_dict=None,
    )
    monkeypatch.setattr(weights, "_weights_enum_member", lambda *_: fake_member)
    return path


def build_state_dict(name: str, **arguments: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return create_model(name, **arguments).state_dict()


def save(value: object, path: Path) -> str:
    torch.save(value, path)
    return str(path)


def log_text(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


def test_published_weights_are_read_from_the_cache(download_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = build_state_dict("squeezenet1_1")
    save_as_published("squeezenet1_1", state, download_cache, monkeypatch)
    for member in ("IMAGENET1K_V1", "DEFAULT"):
        loaded = create_model("squeezenet1_1", weights=member).state_dict()
        assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_head_for_other_classes_is_initialized_and_logged(
    download_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state = build_state_dict("resnet18")
    save_as_published("resnet18", state, download_cache, monkeypatch)
    with caplog.at_level(logging.INFO):
        net = create_model("resnet18", weights="IMAGENET1K_V1", num_classes=7)
    loaded = net.state_dict()
    assert loaded["fc.weight"].shape == (7, 512)
    assert loaded["fc.weight"].std() > 0
    assert all(torch.equal(loaded[key], state[key]) for key in state if not key.startswith("fc."))
    assert "has 1000 classes, expected 7: fc.weight and fc.bias keep their initialization" in log_text(caplog)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_first_convolution_is_adapted_to_channels(
    channels: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = build_state_dict("squeezenet1_1", num_classes=4)
    path = save(state, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        net = create_model("squeezenet1_1", weights=path, num_classes=4, in_channels=channels).eval()
    colour = create_model("squeezenet1_1", weights=path, num_classes=4).eval()
    grey = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(net(grey.expand(-1, channels, -1, -1)), colour(grey.expand(-1, 3, -1, -1)))
    assert f"changed from 3 to {channels} channels" in log_text(caplog)
    if channels == 1:
        assert torch.equal(net.features[0].weight, state["features.0.weight"].sum(1, keepdim=True))


def test_googlenet_drops_heads_and_transforms_input(download_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    reference = torchvision_models.googlenet(aux_logits=True, transform_input=True, init_weights=False).eval()
    save_as_published("googlenet", reference.state_dict(), download_cache, monkeypatch)
    images = torch.randn(2, 3, 64, 64)
    net = create_model("googlenet", weights="DEFAULT").eval()
    assert net.transform_input
    assert not any(key.startswith("aux") for key in net.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(net(images), reference(images), rtol=1e-5, atol=1e-5)

    assert net.arguments["transform_input"] is True  # so that a loaded run transforms its input too
    checkpoint = {
        "cnnzoo": {"model": net.arguments},
        "state_dict": {f"net.{k}": v for k, v in net.state_dict().items()},
    }
    assert create_model("googlenet", weights=save(checkpoint, download_cache / "best.ckpt")).transform_input

    heads = create_model("googlenet", weights="DEFAULT", aux_logits=True, num_classes=7).state_dict()
    assert torch.equal(heads["aux1.fc1.weight"], reference.state_dict()["aux1.fc1.weight"])
    assert heads["aux2.fc2.weight"].shape == (7, 1024)


def test_googlenet_folds_transform_for_other_channels(download_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    state = build_state_dict("googlenet", aux_logits=True)
    save_as_published("googlenet", state, download_cache, monkeypatch)
    colour = create_model("googlenet", weights="DEFAULT").eval()
    grey = create_model("googlenet", weights="DEFAULT", in_channels=1).eval()
    assert not grey.transform_input
    images = torch.randn(2, 1, 40, 40)
    with torch.inference_mode():
        expected = colour.conv1(
            torch.cat([images * s + t for s, t in zip((0.458, 0.448, 0.45), (-0.03, -0.088, -0.188), strict=True)], 1)
        )
        output = grey.conv1(images)
    inner = slice(2, -2)  # the zero padding has another meaning at the border
    torch.testing.assert_close(output[..., inner, inner], expected[..., inner, inner], rtol=1e-4, atol=1e-5)


def test_densenet_accepts_old_torchvision_keys(tmp_path: Path) -> None:
    arguments = {"growth_rate": 4, "depths": (1, 1, 1, 1), "num_classes": 3}
    state = build_state_dict("densenet121", **arguments)
    old = {
        key.replace("norm1", "norm.1")
        .replace("norm2", "norm.2")
        .replace("conv1", "conv.1")
        .replace("conv2", "conv.2"): v
        for key, v in state.items()
        if not key.endswith("num_batches_tracked")  # old files do not have the counter
    }
    assert old.keys() != state.keys()
    loaded = create_model("densenet121", weights=save(old, tmp_path / "old.pth"), **arguments).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_cnnzoo_checkpoint(tmp_path: Path) -> None:
    net = create_model("lenet5", in_channels=1)
    checkpoint = {
        "cnnzoo": {"model": {"name": "lenet5"}},
        "state_dict": {**{f"net.{key}": value for key, value in net.state_dict().items()}, "other": torch.zeros(1)},
    }
    path = save(checkpoint, tmp_path / "a run (1), ü=2.ckpt")
    loaded = create_model("lenet5", in_channels=1, weights=path).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in net.state_dict().items())
    assert all(
        torch.equal(create_model("lenet5", in_channels=1, weights=Path(path)).state_dict()[k], loaded[k])
        for k in loaded
    )


def test_checkpoint_of_another_network_is_an_error(tmp_path: Path) -> None:
    checkpoint = {"cnnzoo": {"model": {"name": "alexnet"}}, "state_dict": {"net.weight": torch.zeros(1)}}
    path = save(checkpoint, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"best\.ckpt is a checkpoint of alexnet, not of lenet5"):
        create_model("lenet5", weights=path)


def test_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    state = build_state_dict("lenet5", in_channels=1)
    save_file(state, path)
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
        ("zfnet", {"weights": "DEFAULT"}, r"zfnet has no published weights; type the path of a file"),
        ("resnet18", {"weights": "DEFAULT", "stem": "small"}, r"are for stem=native, not stem=small"),
        ("lenet5", {"weights": "gone.pth"}, r"weights=gone\.pth: there is no such file"),
        ("lenet5", {"weights": "runs/gone"}, r"weights=runs/gone: there is no such file"),
    ],
)
def test_unknown_weights_are_an_error(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_model(name, **arguments)


def test_mismatched_keys_are_listed(tmp_path: Path) -> None:
    state = build_state_dict("lenet5", in_channels=1)
    state["c7.weight"] = state.pop("c5.weight")
    state["f6.weight"] = state["f6.weight"][:, :7]
    path = save(state, tmp_path / "w.pth")
    with pytest.raises(UserError) as raised:
        create_model("lenet5", in_channels=1, weights=path)
    assert str(raised.value) == (
        f"weights={path} for lenet5 does not fit: missing: c5.weight; unexpected: c7.weight; "
        "wrong shape: f6.weight (84, 7), expected (84, 120)"
    )


def test_state_dict_of_another_network_is_an_error(tmp_path: Path) -> None:
    path = save(build_state_dict("squeezenet1_1"), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"and \d+ more") as raised:
        create_model("resnet18", weights=path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value).removeprefix(str(tmp_path))) < 300


class MaliciousPickle:
    """Creates a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    path = save({"c1.weight": MaliciousPickle(tmp_path / "created")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth holds more than tensors, which could run code, and was not loaded"):
        create_model("lenet5", weights=path)
    assert not (tmp_path / "created").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_and_foreign_files_are_errors(tmp_path: Path) -> None:
    content = Path(save(build_state_dict("lenet5", in_channels=1), tmp_path / "complete.pth")).read_bytes()
    contents = {
        "half.pth": content[: len(content) // 2],
        "empty.pth": b"",
        "text.pth": b"hello world",
        "page.pth": b"<html>404</html>",
        "pickle.pth": pickle.dumps([1, 2]),
        "half.ckpt": content[: len(content) // 2],
    }
    for file, damaged in contents.items():
        (tmp_path / file).write_bytes(damaged)
        with pytest.raises(UserError, match=file.replace(".", r"\.")) as raised:
            create_model("lenet5", in_channels=1, weights=str(tmp_path / file))
        assert "\n" not in str(raised.value)
    save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"list\.pth holds no state dict"):
        create_model("lenet5", weights=str(tmp_path / "list.pth"))
    save({"epoch": 3}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"other\.ckpt is not a checkpoint of cnnzoo"):
        create_model("lenet5", weights=str(tmp_path / "other.ckpt"))


def test_damaged_file_in_the_cache_is_an_error(download_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_as_published("squeezenet1_1", build_state_dict("squeezenet1_1"), download_cache, monkeypatch)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(UserError, match=r"is damaged .* delete it") as raised:
        create_model("squeezenet1_1", weights="DEFAULT")
    assert str(path) in str(raised.value)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is damaged"):
        create_model("squeezenet1_1", weights="DEFAULT")


def test_failed_download_names_the_file(download_cache: Path) -> None:
    with pytest.raises(UserError, match=r"cannot download https://.*resnet50-11ad3fa6\.pth \(no network") as raised:
        create_model("resnet50", weights="IMAGENET1K_V2")
    assert str(download_cache / "resnet50-11ad3fa6.pth") in str(raised.value)
    (download_cache / "resnet50-11ad3fa6.pth").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"starts with [0-9a-f]{8}, expected 11ad3fa6"):
        create_model("resnet50", weights="DEFAULT")


def test_published_preprocessing() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert published_preprocessing("resnet50", "IMAGENET1K_V1") == Preprocessing(224, 256, mean, std)
    assert published_preprocessing("resnet50", "DEFAULT") == Preprocessing(224, 232, mean, std)
    assert published_preprocessing("resnet50", "some/file.pth") is None
    with pytest.raises(UserError, match="unknown weights"):
        published_preprocessing("resnet50", "IMAGENET")


def test_file_without_head_is_an_error(tmp_path: Path) -> None:
    state = {key: value for key, value in build_state_dict("resnet18").items() if not key.startswith("fc.")}
    with pytest.raises(UserError, match=r"missing: fc\.weight, fc\.bias"):
        create_model("resnet18", weights=save(state, tmp_path / "trunk.pth"))


def test_loading_weights_uses_no_random_numbers(tmp_path: Path) -> None:
    """The second network, built to find the heads, does not change the state of the random generator."""
    path = save(build_state_dict("lenet5", in_channels=1), tmp_path / "w.pth")
    torch.manual_seed(3)
    create_model("lenet5", in_channels=1, weights=path)
    after_weights = torch.rand(1)
    torch.manual_seed(3)
    create_model("lenet5", in_channels=1)
    assert torch.equal(after_weights, torch.rand(1))
    assert isinstance(create_model("lenet5", weights=None), nn.Module)
