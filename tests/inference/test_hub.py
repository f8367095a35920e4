"""Names on the Hugging Face Hub, with a fake of `hf_hub_download`."""

import sys

import pytest
from huggingface_hub import errors

import cnnzoo
from cnnzoo import cli
from cnnzoo.data import Digits
from cnnzoo.data.datamodule import DataModule
from cnnzoo.errors import UserError
from cnnzoo.inference.subject import load_subject
from cnnzoo.inference.weights_file import save_safetensors
from cnnzoo.training import train
from tests.inference.test_networks import equal, ready

NAME = "hf://someone/my.net_1"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A function that sets what downloading raises, or the network that it gives; `hub.calls` lists the downloads."""

    def put(result):
        put.calls = []

        def download(*arguments, **options):
            put.calls.append((arguments, options))
            if isinstance(result, Exception):
                raise result
            save_safetensors(result, tmp_path / "model.safetensors")
            return str(tmp_path / "model.safetensors")

        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)

    return put


class Config(dict):
    """A job's configuration without a model."""

    run = f"{NAME}@v2"
    checkpoint = None


def test_hub_name_loads_a_network(hub):
    net = ready("lenet5", num_classes=3)
    hub(net)
    loaded = cnnzoo.create_model("lenet5", weights=NAME)
    assert equal(net, loaded)
    assert loaded.classes == net.classes
    assert hub.calls == [(("someone/my.net_1", "model.safetensors"), {"revision": None})]
    assert equal(net, cnnzoo.load_run(f"{NAME}@refs/pr/1"))
    assert hub.calls[-1][1] == {"revision": "refs/pr/1"}
    subject = load_subject(Config())
    assert (subject.label, subject.run_dir, subject.name) == (f"{NAME}@v2", None, "lenet5")


def test_training_starts_from_a_hub_name(hub):
    hub(ready("lenet5", num_classes=10, in_channels=1))
    cfg = cli.ConfigTree("train").compose(["model=lenet", f"model.weights={NAME}"])
    net, _ = train.build_network(cfg.model, DataModule(Digits))
    assert equal(net, ready("lenet5", num_classes=10, in_channels=1))
    assert hub.calls == [(("someone/my.net_1", "model.safetensors"), {"revision": None})]


def with_response(error_class):
    """An error as an answer of the Hub raises it."""
    error = error_class.__new__(error_class)
    error.args = ("404 Client Error.\n\nRepository not found.",)
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (with_response(errors.RepositoryNotFoundError), "no such repository, or it is private; .*hf auth login"),
        (with_response(errors.RevisionNotFoundError), "has no revision main2"),
        (with_response(errors.EntryNotFoundError), r"has no model\.safetensors"),
        (errors.LocalEntryNotFoundError("no\nnetwork"), "cannot be reached"),
        (OSError("[Errno -2] Name or service not known"), r"cannot be downloaded \(.*not known\); try again"),
        (TimeoutError(), r"cannot be downloaded \(TimeoutError\)"),
    ],
)
def test_failed_download_is_one_line(error, message, hub):
    hub(error)
    with pytest.raises(UserError, match=message) as raised:
        cnnzoo.create_model("lenet5", weights=f"{NAME}@main2")
    assert str(raised.value).startswith(f"weights={NAME}@main2: ")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("name", ["hf://", "hf://someone", "hf://a/b/c", "hf://a/b@", "hf://../b", "hf://a/b@x y"])
def test_bad_hub_name_says_what_is_expected(name):
    with pytest.raises(UserError, match=r"run=hf://.*: expected hf://USER/REPO"):
        cnnzoo.load_run(name)


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r'needs huggingface_hub; pip install "cnnzoo\[hub\]"'):
        cnnzoo.create_model("lenet5", weights=NAME)
