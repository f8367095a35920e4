"""The keys of the benchmarks: which one reads what, their values, and the names of the result files."""

from copy import deepcopy

import pytest
from omegaconf import OmegaConf

from cnnzoo import cli
from cnnzoo.benchmark.check_config import DEFAULT_SECONDS, check_config
from cnnzoo.cli.overrides import parse_override
from cnnzoo.errors import UserError


@pytest.fixture(scope="module")
def defaults():
    return cli.compose("benchmark", [])


@pytest.fixture
def check(defaults, tmp_path, monkeypatch):
    """`check("job=graph", ...)` checks the configuration with these overrides, of which groups change nothing."""
    monkeypatch.chdir(tmp_path)

    def check(*texts):
        cfg, overrides = deepcopy(defaults), list(map(parse_override, texts))
        for override in overrides:
            if override.key_or_group not in ("model", "data"):
                OmegaConf.update(cfg, override.key_or_group, override.value(), force_add=True)
        check_config(cfg, [override.key_or_group for override in overrides])
        return cfg

    return check


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["job=hardware", "model=vgg"], "model: job=hardware does not read it; leave it out (its keys: job, seconds,"),
        (["job=hardware", "compile=default"], "compile: job=hardware does not read it"),
        (["job=hardware", "variants=[eager]"], "variants: only job=graph reads it; leave it out"),
        (["job=hardware", "images=9"], "images: only job=data and job=train read it; leave it out"),
        (["job=graph", "models=[vgg16]"], "models: only job=hardware reads it; leave it out"),
        (["job=graph", "data=digits"], "data: job=graph does not read it"),
        (["job=graph", "model.weights=DEFAULT"], "model.weights: job=graph does not read it"),
        (["job=graph", "variants=[egaer]"], "unknown variant 'egaer': did you mean eager?"),
        (["job=graph", "variants=[]"], "variants=[]: expected a list of names; type for example variants=[eager,"),
        (["job=inference", "data.batch_size=8"], "data.batch_size: job=inference does not read it"),
        (["job=inference", "batch_sizes=[0]"], "batch_sizes=0: expected a whole number >= 1 in the list"),
        (["job=inference", "batch_sizes=all"], "batch_sizes=all: expected a list of numbers"),
        (["job=train", "csv=x.csv"], "csv: only job=data reads it; leave it out"),
        (["job=train", "data=folder", "images=9"], "images: the number of generated images, of which there are none"),
        (["job=train", "finalists=2"], "finalists: only job=data reads it; leave it out"),
        (["job=hardware", "models=3"], "models=3: expected a list of names; type for example models=[vgg16,resnet50]"),
        (["job=hardware", "data.batch_size=0"], "data.batch_size=0: expected a whole number >= 1"),
        (["job=hardware", "data.image_size=0"], "data.image_size=0: expected a whole number >= 1"),
        (["job=hardware", "json=no/x.json"], "json=no/x.json cannot be written: there is no directory"),
    ],
)
def test_bad_key_or_value_is_a_one_line_error(overrides, message, check):
    with pytest.raises(UserError) as error:
        check(*overrides)
    assert str(error.value).startswith(message)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["job=hardware"], "data.batch_size", 16),
        (["job=hardware", "data.batch_size=4"], "data.batch_size", 4),
        (["job=hardware", "models=vgg16"], "models", ["vgg16"]),
        (["job=hardware", "models=[vgg16,vgg16]"], "models", ["vgg16"]),
        (["job=inference", "batch_sizes=[8,1,8]"], "batch_sizes", [1, 8]),
        (["job=inference", "batch_sizes=8"], "batch_sizes", [8]),
        (["job=graph", "+model.args.dropout=0.1"], "json", "graph_benchmark.json"),
        (["job=data"], "json", None),
        (["job=data", "json=x.json"], "json", "x.json"),
    ],
)
def test_defaults_and_lists_are_resolved(overrides, key, value, check):
    cfg = check(*overrides)
    assert OmegaConf.select(cfg, key) == value
    assert cfg.seconds == DEFAULT_SECONDS[cfg.job]


def test_existing_results_are_not_overwritten(check, tmp_path):
    for name in ("mine.json", "chart.png", "gpu_benchmark.json"):
        (tmp_path / name).write_text("mine")
    for name, existing in (("mine.json", "mine.json"), ("chart.json", "chart.png")):
        with pytest.raises(UserError, match=f"^json={name}: {existing} exists already; nothing is overwritten"):
            check("job=graph", f"json={name}")
    assert check("job=gpu").json == "gpu_benchmark_2.json"
