"""The types that users of the package see: mypy accepts correct code in strict mode, and rejects wrong code."""

import re
import subprocess
import sys

import pytest

import cnnzoo
import cnnzoo.data
from tests.helpers import ROOT

CODE = """
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import cnnzoo
from cnnzoo.data import Augment, Cache, Digits, ImageFolder, Preprocess, TorchLoader
from cnnzoo.data.load_data import DataLoaders, SplitLoader
from cnnzoo.data.split import Split
from cnnzoo.models import Info
from cnnzoo.models.features import FeatureNetwork
from cnnzoo.models.network import Network
from cnnzoo.predict.predictor import Prediction

images = torch.rand(1, 3, 224, 224)
net = cnnzoo.create_model("resnet50", num_classes=10, weights=Path("weights.pth"), stem="native", dropout=0.2).eval()
assert_type(net, Network)
assert_type(net(images), Tensor)
assert_type(net.forward_head(net.forward_features(images), pre_logits=True), Tensor)
assert_type(net.get_classifier(), nn.Module)
assert_type(net.num_features, int)
assert_type(net.preprocess, Preprocess)
assert_type(net.preprocess(Path("cat.jpg"))[None], Tensor)
assert_type(net.classes[net(images).argmax()], str)
assert_type(net.thresholds, tuple[float, ...])
features = cnnzoo.create_model("resnet50", features_only=True, out_indices=(1, 2))
assert_type(features, FeatureNetwork)
assert_type(features(images), list[Tensor])
assert_type(features.feature_info.channels(), list[int])
assert_type(cnnzoo.info("resnet50"), Info)
assert_type(cnnzoo.info("resnet50").parameters, int)
assert_type(cnnzoo.list_models("resnet*", pretrained=True), list[str])
assert_type(cnnzoo.load_run("runs/digits"), Network)
assert_type(cnnzoo.load_run(Path("runs/digits"), checkpoint="last", trust_code=True), nn.Module)
assert_type(cnnzoo.load_run("runs/digits", network=nn.Linear(2, 3)), nn.Linear)
data = cnnzoo.load_data("imagenette", image_size=(224, 160), cache=Cache("decoded"), size="160px")
assert_type(data, DataLoaders)
for batch, labels in data.train:
    assert_type(batch, Tensor)
    assert_type(labels, Tensor)
assert_type(data.val, SplitLoader)
assert_type(data.val.dataset, Split)
assert_type(data.test, SplitLoader | None)
assert_type(data.classes, tuple[str, ...])
assert_type(data.device, torch.device)
assert_type(data.image_size, tuple[int, int])
assert_type(data.preprocess("cat.jpg"), Tensor)
with cnnzoo.load_data(Digits, loader=partial(TorchLoader, kind="threads"), workers=2) as digits:
    assert_type(digits, DataLoaders)
cnnzoo.load_data(ImageFolder, root="flowers", augment=Augment(flip=0.5), device="cpu")
for prediction in cnnzoo.predict_images(net, ["cat.jpg", Path("dog.jpg")], topk=3, batch_size=8, precision="32"):
    assert_type(prediction, Prediction)
    assert_type(prediction.error, str | None)
    assert_type(prediction.probabilities, tuple[float, ...])

from cnnzoo.data import ImageFoldr  # error: attr-defined
cnnzoo.creat_model("resnet50")  # error: attr-defined
cnnzoo.create_model("resnet50", num_classes="10")  # error: call-overload
cnnzoo.create_model("resnet50", stem="tiny")  # error: call-overload
cnnzoo.load_run("runs/digits", checkpoint="best.ckpt")  # error: call-overload
cnnzoo.load_data("digits", cache="decode")  # error: arg-type
cnnzoo.load_data("digits", workers="all")  # error: arg-type
cnnzoo.predict_images(net, ["cat.jpg"], top_k=3)  # error: call-arg
net.preprocess(3)  # error: arg-type
"""
NAMES = [*(f"cnnzoo.{name}" for name in cnnzoo.__all__), *(f"cnnzoo.data.{name}" for name in cnnzoo.data.__all__)]


def expected_errors(code):
    lines = enumerate(code.splitlines(), 1)
    return {(number, match[1]) for number, line in lines if (match := re.search(r"# error: ([\w-]+)$", line))}


@pytest.mark.long
def test_public_names_have_useful_types(tmp_path):
    """Uses the options and the cache of `mypy` in the checkout, with which it takes seconds."""
    settings = (ROOT / "pyproject.toml").read_text().partition("[tool.mypy]")[2].partition("[tool.pytest")[0]
    assert "strict = true" in settings
    config = tmp_path / "mypy.toml"
    config.write_text("[tool.mypy]" + settings.replace('packages = ["cnnzoo"]', ""))  # -c excludes it
    code = "\n".join([CODE, "import cnnzoo.data", *(f"reveal_type({name})" for name in NAMES)])
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = {
        (int(number), code) for number, code in re.findall(r"^<string>:(\d+): error: .*\[(.+)\]$", done.stdout, re.M)
    }
    assert found == expected_errors(code), done.stdout + done.stderr
    revealed = re.findall(r'note: Revealed type is "(.+)"$', done.stdout, re.MULTILINE)
    assert len(revealed) == len(NAMES)
    assert not [name for name, kind in zip(NAMES, revealed, strict=True) if kind == "Any"]


def test_package_says_that_it_is_typed():
    assert (ROOT / "cnnzoo/py.typed").is_file()
