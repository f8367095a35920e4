"""Data sets and augmentations by name: they are those of the configuration."""

import inspect

import hydra
import pytest
import yaml

from cnnzoo import cli
from cnnzoo.data.presets import named_augment, named_source


def names_in(group):
    return sorted(path.stem for path in (cli.CONF / group).glob("[!_]*.yaml"))


def read_own_settings(name):
    """The settings of the data set alone."""
    shared, own = (
        yaml.safe_load((cli.CONF / "data" / f"{name}.yaml").read_text(encoding="utf-8")) for name in ("_base", name)
    )
    return {key: value for key, value in own.items() if key not in {*shared, "defaults", "source"}}


@pytest.fixture
def compose():
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        yield hydra.compose


@pytest.mark.filterwarnings("ignore:.*Defaults list is missing `_self_`")
def test_named_augment_equals_the_configuration(compose):
    for name in names_in("augment"):
        assert hydra.utils.instantiate(compose(f"augment/{name}").augment) == named_augment(name)


def test_named_source_equals_the_configuration(compose):
    for name in names_in("data"):
        source, augment_name = named_source(name)
        assert (source.func.name, augment_name in names_in("augment")) == (name, True)
        parameters = inspect.signature(source.func).parameters
        for key, value in read_own_settings(name).items():
            assert parameters[key].default == value, f"{name}: {key}"
    cfg = compose("train", ["data=synthetic", "data.source.images=100"])
    source, augment_name = named_source("synthetic")
    partial_source = hydra.utils.instantiate(cfg.data.source)
    assert (partial_source.func, partial_source.keywords) == (source.func, {**source.keywords, "images": 100})
    assert hydra.utils.instantiate(cfg.augment) == named_augment(augment_name)
