"""`cnnzoo.create_model`: weights bring their preprocessing and class names along; foreign files load."""

import hashlib
import json
import logging
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import get_model_weights

import cnnzoo
from cnnzoo import models
from cnnzoo.data import Preprocess
from cnnzoo.errors import UserError
from cnnzoo.inference.load_run import load_run
from cnnzoo.inference.weights_file import network_metadata, read_metadata, save_safetensors
from cnnzoo.models import list_models, weights
from tests.helpers import ROOT

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Put random weights of a network where torchvision would put those that it downloads."""

    def put(name):
        torch.manual_seed(1)
        folder = tmp_path / "hub/checkpoints"
        folder.mkdir(parents=True)
        torch.save(models.create_model(name).state_dict(), folder / "weights.pth")
        digest = hashlib.sha256((folder / "weights.pth").read_bytes()).hexdigest()[:8]
        path = (folder / "weights.pth").rename(folder / f"{name}-{digest}.pth")
        member = get_model_weights(name)["DEFAULT"]
        fake = SimpleNamespace(
            url=f"https://download.example.org/{path.name}", transforms=member.transforms, meta=member.meta
        )
        monkeypatch.setattr(weights, "_weights_enum_member", lambda *_: fake)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        return member

    return put


def ready(name, **arguments):
    """A network with preprocessing and class names, as of a run."""
    torch.manual_seed(2)
    net = models.create_model(name, **arguments).eval()
    channels = net.arguments["in_channels"]
    net.preprocess = Preprocess(32, 1.0, channels, [0.25] * channels, [0.5] * channels)
    net.classes = tuple(f"class {n}" for n in range(net.arguments["num_classes"]))
    return net


def equal(net, other):
    state = other.state_dict()
    return all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_published_weights_classify_a_photograph(published, tmp_path):
    member = published("squeezenet1_1")
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    photo.save(tmp_path / "cat.png")

    net = cnnzoo.create_model("squeezenet1_1", weights="DEFAULT").eval()
    logits = net(net.preprocess(tmp_path / "cat.png")[None])
    label = net.classes[logits.argmax()]

    assert label in member.meta["categories"]
    assert net.classes == tuple(member.meta["categories"])
    expected = member.transforms()(photo)
    scale = 255 * torch.tensor(STD).view(-1, 1, 1)
    assert ((net.preprocess(photo) - expected) * scale).abs().mean() < 1


def test_other_channels_average_the_mean_and_the_head_has_no_classes(published):
    published("squeezenet1_1")
    net = cnnzoo.create_model("squeezenet1_1", weights="IMAGENET1K_V1", in_channels=1, num_classes=7)
    assert net.preprocess.channels == 1
    assert net.preprocess.mean == pytest.approx([sum(MEAN) / 3])
    assert net.preprocess.std == pytest.approx([sum(STD) / 3])
    assert not hasattr(net, "classes")


def test_four_channels_have_no_preprocessing(published):
    published("squeezenet1_1")
    net = cnnzoo.create_model("squeezenet1_1", weights="DEFAULT", in_channels=4)
    assert not hasattr(net, "preprocess")
    assert len(net.classes) == 1000


def test_safetensors_of_ours_rebuild_the_network(tmp_path):
    net = ready("densenet121", growth_rate=4, depths=(1, 1, 1, 1), stem="small", num_classes=3, in_channels=1)
    save_safetensors(net, tmp_path / "net.safetensors")
    for loaded in (
        cnnzoo.create_model("densenet121", weights=tmp_path / "net.safetensors"),
        load_run(tmp_path / "net.safetensors"),
    ):
        assert equal(net, loaded)
        assert network_metadata(loaded) == network_metadata(net) == read_metadata(tmp_path / "net.safetensors")
    color = cnnzoo.create_model("densenet121", weights=tmp_path / "net.safetensors", in_channels=3)
    assert (color.preprocess.mean, color.preprocess.channels) == ((0.25,) * 3, 3)
    assert color.arguments["stem"] == "small"


def test_arguments_given_override_those_in_the_file(tmp_path, caplog):
    net = ready("squeezenet1_1", num_classes=3, dropout=0.25)
    save_safetensors(net, tmp_path / "net.safetensors")
    with caplog.at_level(logging.INFO):
        assert cnnzoo.create_model("squeezenet1_1", weights=tmp_path / "net.safetensors").arguments["dropout"] == 0.25
    assert "dropout=0.25, as in the file" in caplog.text
    other = cnnzoo.create_model("squeezenet1_1", weights=tmp_path / "net.safetensors", dropout=0.0, num_classes=5)
    assert (other.arguments["dropout"], other.arguments["num_classes"]) == (0.0, 5)
    assert not hasattr(other, "classes")
    assert other.preprocess.mean == (0.25,) * 3


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_prefixes_and_wrappers_are_removed(prefix, wrapper, tmp_path):
    net = models.create_model("lenet5", num_classes=4, in_channels=1)
    state = {prefix + key: value for key, value in net.state_dict().items()}
    value = state if wrapper is None else {wrapper: state, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}}
    torch.save(value, tmp_path / "net.pth")
    assert equal(net, models.create_model("lenet5", weights=tmp_path / "net.pth"))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_foreign_file_says_what_is_assumed(suffix, tmp_path, caplog):
    state, path = models.create_model("resnet20", num_classes=4, in_channels=1).state_dict(), tmp_path / f"w.{suffix}"
    torch.save(state, path) if suffix == "pth" else save_file(state, path)
    net = cnnzoo.create_model("resnet20", weights=path)
    (message,) = caplog.messages
    assert message.startswith(f"weights={path}: holds no preprocessing and no class names; assumed ")
    assert "32 x 32 pixels" in message
    assert message.endswith("class names: 0 to 3")
    assert net.classes == ("0", "1", "2", "3")
    assert (net.preprocess.image_size, net.preprocess.eval_resize, net.preprocess.channels) == ((32, 32), 1.0, 1)
    assert net.preprocess.mean == pytest.approx([sum(MEAN) / 3])


@pytest.mark.parametrize(("stem", "size", "eval_resize"), [("native", 224, 256 / 224), ("small", 32, 1.0)])
def test_assumed_size_is_that_of_the_network(stem, size, eval_resize, tmp_path):
    with torch.device("meta"):
        net = models.create_model("resnet18", stem=stem, num_classes=2)
    state = {key: torch.zeros(()).expand(value.shape) for key, value in net.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    net = cnnzoo.create_model("resnet18", weights=tmp_path / "w.pth", stem=stem)
    assert (net.preprocess.image_size, net.preprocess.eval_resize) == ((size, size), eval_resize)
    assert net.preprocess.mean == MEAN


def test_without_weights_nothing_is_assumed(caplog):
    net = cnnzoo.create_model("lenet5", in_channels=1)
    assert not hasattr(net, "preprocess")
    assert not hasattr(net, "classes")
    assert not caplog.messages


def test_network_without_preprocessing_cannot_be_saved(tmp_path):
    with pytest.raises(UserError, match="no attribute 'preprocess'"):
        save_safetensors(cnnzoo.create_model("lenet5"), tmp_path / "net.safetensors")
    net = ready("lenet5")
    net.arguments["act"] = print
    with pytest.raises(UserError, match="arguments cannot be saved"):
        network_metadata(net)
    assert not list(tmp_path.iterdir())


def default_networks(families):
    """The first network of each family, at the smallest size that the small stem accepts."""
    for family in families:
        name = list_models(family=family)[0]
        yield ready(name, num_classes=4, stem="small", in_channels=1), max(32, cnnzoo.info(name).sizes("small")[0])


def check_round_trip(families, directory):
    """Save checkpoints as runs do, convert them to .safetensors files, and load these in one fresh process."""
    expected = {}
    for net, size in default_networks(families):
        name = net.arguments["name"]
        metadata = {entry: value for entry, value in network_metadata(net).items() if entry != "version"}
        state = {f"net.{key}": value for key, value in net.state_dict().items()}
        torch.save({"cnnzoo": metadata, "state_dict": state, "epoch": 1}, directory / f"{name}.ckpt")
        save_safetensors(load_run(directory / f"{name}.ckpt"), directory / f"{name}.safetensors")
        images = torch.linspace(-1, 1, size * size).view(1, 1, size, size)
        with torch.no_grad():
            expected[name] = {"logits": net(images).tolist(), "metadata": metadata, "size": size}
    script = """
import json, sys, torch, cnnzoo
from pathlib import Path
from cnnzoo.inference.weights_file import network_metadata
found = {}
for path in sorted(Path(sys.argv[1]).glob("*.safetensors")):
    net = cnnzoo.create_model(path.stem, weights=path).eval()
    size = int(json.loads(sys.argv[2])[path.stem])
    with torch.no_grad():
        logits = net(torch.linspace(-1, 1, size * size).view(1, 1, size, size))
    metadata = network_metadata(net)
    del metadata["version"]
    found[path.stem] = {"logits": logits.tolist(), "metadata": metadata, "size": size}
print(json.dumps(found))
"""
    sizes = json.dumps({name: values["size"] for name, values in expected.items()})
    command = [sys.executable, "-c", script, str(directory), sizes]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    for name in expected:
        torch.testing.assert_close(
            torch.tensor(found[name].pop("logits")), torch.tensor(expected[name].pop("logits")), rtol=1e-5, atol=1e-5
        )
    assert found == expected


def test_checkpoint_to_safetensors_to_fresh_process(tmp_path):
    check_round_trip(["lenet"], tmp_path)


@pytest.mark.long
def test_round_trip_of_every_family(tmp_path):
    check_round_trip(dict.fromkeys(cnnzoo.info(name).family for name in list_models()), tmp_path)
