"""The checks of the command line before Hydra runs, and the quoting of paths."""

import os
import re
import tempfile
from itertools import zip_longest
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from cnnzoo import cli
from cnnzoo.cli.overrides import ConfigTree, parse_override
from cnnzoo.cli.validate import has_key
from cnnzoo.errors import UserError
from cnnzoo.jobs import train


def prepare(*argv):
    return cli.prepare(list(argv), job="train", help_text=train.__doc__)


def compose(*argv):
    argv, _ = prepare(*argv)
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        return hydra.compose("train", overrides=argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["model=resnt"], "unknown model 'resnt': did you mean resnet"),
        (["model=resnet50"], "type model=resnet model.name=resnet50"),
        (["data=digit"], "unknown data 'digit': did you mean digits?"),
        (["optimizer=sdg"], "unknown optimizer 'sdg': did you mean sgd?"),
        (["modle=resnet"], "unknown key 'modle': did you mean model"),
        (["lr=0.1"], "unknown key 'lr': type optimizer.lr=0.1"),
        (["trainer.max_epoch=3"], "unknown key 'trainer.max_epoch': did you mean trainer.max_epochs"),
        (["data.batchsize=3"], "unknown key 'data.batchsize': did you mean data.batch_size?"),
        (["augment.flp=1"], "unknown key 'augment.flp': did you mean augment.flip?"),
        (["+foo=1"], "+foo: nothing reads this key"),
        (["+modle.name=x"], "+modle.name: nothing reads this key"),
        (["~optimizer.momentun"], "unknown key 'optimizer.momentun': did you mean optimizer.momentum"),
        (["resnet"], "'resnet' is not of the form key=value: did you mean model=resnet?"),
        (["optimizer.lr=["], "'optimizer.lr=[' cannot be parsed: "),
        (["model=lenet,resnet"], "model=lenet,resnet: several values need a multirun; add -m"),
        (["optimizer.lr=0.1,0.2"], "several values need a multirun"),
        (
            ["-m", "model=lenet,resnet", "optimizer.lrr=0.1,0.2"],
            "unknown key 'optimizer.lrr': did you mean optimizer.lr",
        ),
        (["-m", "model=nosuch,nope"], "model=nosuch,nope: none of these values exists"),
    ],
)
def test_bad_override_is_one_line_with_similar_names(argv, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        prepare(*argv)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        "optimizer.lr=0.1",
        "trainer.devices=[0,1]",
        "data.cache={mode: encoded}",
        r"data.root='a=b, \${c}'",
        "seed=${oc.env:HOME}",
        "scheduler.warmup_epochs=2",
    ],
)
def test_set_values_equals_composing(line):
    tree = ConfigTree("train")
    changed = tree.set_values(tree.compose(["model=lenet"]), [parse_override(line)])
    assert OmegaConf.to_container(changed) == OmegaConf.to_container(tree.compose(["model=lenet", line]))


@pytest.mark.parametrize("line", ["+model.args.dropout=0.1", "~optimizer.nesterov", "data=mnist", "optimizer.speed=1"])
def test_set_values_leaves_other_overrides_to_hydra(line):
    tree = ConfigTree("train")
    assert tree.set_values(tree.compose([]), [parse_override(line)]) is None


def test_sweep_drops_choices_that_do_not_exist(capsys):
    argv, dropped = prepare("-m", "model=lenet,nosuch,resnet", "optimizer.lr=0.1,0.2")
    assert argv[:3] == ["--multirun", "model=lenet,resnet", "optimizer.lr=0.1,0.2"]
    assert len(dropped) == 1
    assert "unknown model 'nosuch'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "path",
    [
        "/data/a b",
        "/data/a,b",
        "/data/a=b",
        "/data/a(1)",
        "/data/é/ü",
        "/data/it's",
        "/data/[x]{y}",
        "/data/$x ${y}",
        "C:\\data\\",
        "/data/'",
        "/data/\\'",
        "rel/#1: x",
    ],
)
def test_path_is_taken_literally(path):
    cfg = compose("data=folder", f"data.root={path}", f"run_dir={path}")
    assert (cfg.data.root, cfg.run_dir) == (path, path)


def test_path_home_is_expanded():
    assert compose("data=folder", "data.root=~/flowers, red").data.root == os.path.expanduser("~/flowers, red")


def test_path_in_home_of_unknown_user_is_reported():
    with pytest.raises(UserError, match=r"^data.root=~nosuchuser/x: there is no home directory ~nosuchuser; "):
        prepare("data=folder", "data.root=~nosuchuser/x")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_full_disk_is_reported_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Path("/dev/full").open("wb"))  # noqa: SIM115
    with pytest.raises(UserError, match=r"^run_dir=.*/run: .* is not writable \(No space left on device\); choose"):
        prepare("model=lenet", f"run_dir={tmp_path}/run")


def test_quoted_path_is_unchanged():
    assert compose("data=folder", "data.root='/a b,c'").data.root == "/a b,c"
    assert compose("data=folder", "data.root=null").data.root is None


def test_path_with_comma_is_no_sweep():
    argv, _ = prepare("-m", "model=lenet,resnet", "data=folder", "data.root=/a,b")
    assert argv[3] == "data.root='/a,b'"


def test_run_dir_in_use_raises(tmp_path):
    prepare(f"run_dir={tmp_path}")
    (tmp_path / "checkpoints").mkdir()
    prepare(f"run_dir={tmp_path}")
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(UserError, match="already holds an unfinished run; type resume="):
        prepare(f"run_dir={tmp_path}")
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="already holds a finished run; choose another run_dir"):
        prepare(f"run_dir={tmp_path}")
    with pytest.raises(UserError, match="is a file, not a directory"):
        prepare(f"run_dir={tmp_path / 'metrics.json'}")


def test_help_lists_every_choice(capsys):
    with pytest.raises(SystemExit) as exit_:
        prepare("--help")
    assert exit_.value.code == 0
    page = capsys.readouterr().out
    assert page.startswith("Train a network on images")
    assert max(map(len, page.splitlines())) <= 120
    for group in cli.ConfigTree("train").groups():
        assert re.search(rf"^  {group} ", page, re.MULTILINE), group
        for choice in cli.ConfigTree("train").choices(group):
            assert choice in page


def test_help_names_only_existing_keys():
    cfg = compose()
    for key in re.findall(r"[\w.]+(?==)", train.__doc__):
        if key not in (*cli.ConfigTree("train").groups(), "HYDRA_FULL_ERROR", "group", "key"):
            assert has_key(cfg, key) or key == "model.target", key  # the target is a key of model=custom


CHOICES = {group: cli.ConfigTree("train").choices(group) for group in cli.ConfigTree("train").groups()}


@pytest.mark.parametrize("group", CHOICES)
def test_every_choice_has_a_comment(group):
    for choice in CHOICES[group]:
        text = (cli.CONF / group / f"{choice}.yaml").read_text()
        assert text.replace("# @package _global_\n", "").startswith("# "), (
            f"{group}/{choice}: no comment says what it is"
        )


def combine_choices():
    """Overrides that together contain every choice: each experiment, and the nth choice of all other groups.

    An experiment chooses the network itself; the sweeps are composed in test_sweep.py.
    """
    columns = [[f"{group}={choice}" for choice in CHOICES[group]] for group in CHOICES.keys() - {"experiment", "sweep"}]
    experiments = [(f"experiment={choice}",) for choice in CHOICES["experiment"]]
    rows = [tuple(filter(None, row)) for row in zip_longest(*sorted(columns))]
    target = {"model=custom": ("model.target=package.net",)}  # it has no default
    return [*experiments, *(sum((target.get(choice, ()) for choice in row), row) for row in rows)]


@pytest.mark.long
@pytest.mark.parametrize("overrides", combine_choices(), ids=" ".join)
def test_every_choice_composes(overrides):
    compose(*overrides)


def test_trainer_config_lists_all_arguments_of_lightning():
    import inspect

    from pytorch_lightning import Trainer

    arguments = set(inspect.signature(Trainer.__init__).parameters) - {"self", "callbacks", "logger"}
    assert set(compose().trainer) - {"_target_"} == arguments
