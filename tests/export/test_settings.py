"""The settings of an export are checked before anything is loaded; nothing that exists is overwritten."""

import builtins
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from cnnzoo import cli
from cnnzoo.cli.overrides import parse_override
from cnnzoo.errors import UserError
from cnnzoo.export import settings
from cnnzoo.export.settings import FORMATS, check_out, check_settings, default_out
from tests.mistakes.cases_export import SETTINGS


@lru_cache
def default_config():
    return cli.compose("export", [])


def config(line):
    """The configuration that the overrides in `line` give, and the keys that they set."""
    cfg, keys = deepcopy(default_config()), []
    for override in map(parse_override, ["run=run", *line.split()]):
        keys.append(override.key_or_group)
        if override.key_or_group != "model":  # a group; the settings do not depend on it
            OmegaConf.update(cfg, override.key_or_group, override.value())
    return cfg, keys


@pytest.mark.parametrize("line", SETTINGS)
def test_check_settings_names_the_mistake(line):
    with pytest.raises(UserError, match=SETTINGS[line]) as error:
        check_settings(*config(line))
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FORMATS)
def test_check_settings_accepts_every_format(name):
    check_settings(*config(f"format={name}"))


def test_check_settings_of_a_missing_package(monkeypatch):
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'format=onnx: onnx is not installed; type pip install "cnnzoo\[onnx\]"'):
        check_settings(*config("format=onnx"))
    check_settings(*config("format=pt2"))


def test_check_out_of_an_existing_file_leaves_it_alone(tmp_path):
    out = tmp_path / "network.pt2"
    out.write_text("mine")
    with pytest.raises(UserError, match="exists already, and nothing is overwritten"):
        check_out(out, "pt2")
    assert out.read_text() == "mine"


def test_check_out_leaves_nothing_behind(tmp_path):
    check_out(tmp_path / "network.onnx", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_check_out_of_a_read_only_directory(tmp_path, monkeypatch):
    def touch(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", touch)
    with pytest.raises(UserError, match="cannot be written: Permission denied"):
        check_out(tmp_path / "network.onnx", "onnx")


def test_default_names_differ_between_formats():
    assert str(default_out("lenet5", "aoti")) == "lenet5.aoti.pt2"
    names = {str(default_out("lenet5", name)) for name in FORMATS}
    assert len(names) == len(FORMATS)
    for name in FORMATS:
        assert default_out("lenet5", name).suffix in (".pt2", ".onnx", ".safetensors")


def test_aoti_without_a_compiler_is_an_error(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="no-such-compiler, which is not installed"):
        check_settings(*config("format=aoti"))


def test_check_settings_does_not_import_torch(monkeypatch):
    imported = []
    original = builtins.__import__

    def record(name, *args, **kwargs):
        imported.append(name)
        return original(name, *args, **kwargs)

    cfg, keys = config("format=onnx")
    monkeypatch.setattr(builtins, "__import__", record)
    check_settings(cfg, keys)
    assert not any(name.partition(".")[0] in ("torch", "onnx") for name in imported)
