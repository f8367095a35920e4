"""The options of the command line, and the suggestions for what other training scripts call a setting."""

import re

import pytest

from cnnzoo import cli
from cnnzoo.cli.model_names import names_by_family
from cnnzoo.cli.options import sort_arguments
from cnnzoo.cli.suggestions import HABITS, suggest_override
from cnnzoo.cli.validate import has_key
from cnnzoo.errors import UserError
from cnnzoo.models import info, list_models


def test_options_are_put_before_overrides():
    expected = ["--multirun", "model=lenet", "seed=1,2"]
    assert sort_arguments(["model=lenet", "-m", "seed=1,2"]) == expected
    assert sort_arguments(["seed=1", "--cfg", "job", "test=false"]) == ["--cfg=job", "seed=1", "test=false"]
    assert sort_arguments(expected) == expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs", "5"], "--epochs: settings are typed as key=value; type trainer.max_epochs=5"),
        (["--epochs=5"], "type trainer.max_epochs=5"),
        (["\u2013\u2013lr", "0.1"], "type optimizer.lr=0.1"),
        (["-b", "32"], "type data.batch_size=32"),
        (["--gpu"], "type trainer=gpu"),
        (["--pretrained"], "type model.weights=DEFAULT"),
        (["--mutirun"], "--mutirun: unknown option; did you mean --multirun"),
        (["--zzz"], "--zzz: unknown option; settings are typed as key=value; --help lists them"),
        (["--cfg", "jobs"], "--cfg/-c: invalid choice: 'jobs'"),
        (["--cfg"], "--cfg/-c: expected one argument"),
        (["-m", "seed=1,2", "--cfg", "job"], "--cfg shows the configuration of one job; leave out -m"),
        (["--info", "--cfg", "job"], "only one of them is possible"),
        (["--resolve"], "type --cfg job --resolve"),
    ],
)
def test_wrong_option_is_one_line(argv, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        sort_arguments(argv)
    assert "\n" not in str(error.value)


def test_version_names_packages(capsys):
    with pytest.raises(SystemExit) as exit_:
        sort_arguments(["--version"])
    assert exit_.value.code == 0
    assert re.match(r"cnnzoo \d+\.\d+.* \(torch \d+\.\d+.*hydra-core 1\.\d", capsys.readouterr().out)


def test_suggestions_name_existing_keys():
    tree = cli.ConfigTree("train")
    cfg = tree.compose([])
    for name, override in HABITS.items():
        key, _, value = override.partition("=")
        if key in tree.groups():
            assert not value or value in tree.choices(key), name
        else:
            assert key.startswith("+model.args.") or has_key(cfg, key), name


def test_suggestion_keeps_the_value():
    assert suggest_override("epochs", "5") == "trainer.max_epochs=5"
    assert suggest_override("batch-size") == "data.batch_size=..."
    assert suggest_override("amp", "1") == "trainer.precision=16-mixed"
    assert suggest_override("nonsense", "1") is None


def test_model_names_are_those_of_the_registry():
    names = {family: tuple(list_models(family=family)) for family in {info(n).family for n in list_models()}}
    assert names == names_by_family()
