"""Configuration files of the user: `--config-dir`, `--config-name`, `hydra.searchpath`, and resuming with them."""

import re

import pytest
from omegaconf import OmegaConf

from cnnzoo import cli
from cnnzoo.cli.resume import expand_resume, resumed_config
from cnnzoo.errors import UserError
from cnnzoo.runtime.command import config_options
from tests.helpers import ROOT


def prepare(*argv):
    return cli.prepare(list(argv), job="train", help_text="Help.")[0]


@pytest.fixture
def user_dir(tmp_path):
    """A directory with an experiment, a primary configuration, and a space in its name."""
    directory = tmp_path / "my conf"
    (directory / "experiment").mkdir(parents=True)
    (directory / "experiment" / "mine.yaml").write_text("# @package _global_\n# Mine\nseed: 7\n")
    (directory / "own.yaml").write_text("defaults:\n  - train\n  - override model: lenet\n  - _self_\nseed: 9\n")
    return directory


@pytest.mark.parametrize("option", ["--config-dir={}", "hydra.searchpath=['{}']", "hydra.searchpath=['file://{}']"])
def test_choice_of_user_directory_is_accepted(user_dir, option):
    argv = prepare(option.format(user_dir), "experiment=mine")
    assert any(str(user_dir) in argument for argument in argv)
    with pytest.raises(UserError, match="unknown experiment 'mne': did you mean mine"):
        prepare(option.format(user_dir), "experiment=mne")


def test_choice_is_unknown_without_its_directory():
    with pytest.raises(UserError, match="unknown experiment 'mine'"):
        prepare("experiment=mine")


def test_relative_directory_is_accepted(user_dir, monkeypatch):
    monkeypatch.chdir(user_dir.parent)
    prepare("--config-dir", "my conf", "experiment=mine")


def test_help_lists_choices_of_user_directory(user_dir, capsys):
    with pytest.raises(SystemExit):
        prepare("--config-dir", str(user_dir), "--help")
    assert re.search(r"^  experiment .*\bmine\b.*^  loader ", capsys.readouterr().out, re.MULTILINE | re.DOTALL)


def test_own_primary_configuration_is_composed(user_dir):
    options = ["--config-dir", str(user_dir), "--config-name", "own"]
    prepare(*options, "optimizer.lr=0.1")
    with pytest.raises(UserError, match=r"unknown key 'lr': type optimizer\.lr=1"):
        prepare(*options, "lr=1")
    with pytest.raises(UserError, match="unknown configuration 'ownn': did you mean own"):
        prepare("--config-dir", str(user_dir), "--config-name", "ownn")


def test_primary_configuration_without_train_names_keys(user_dir):
    (user_dir / "bare.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match=r"it lacks .*trainer.*; begin its defaults list with '- train'"):
        prepare("--config-dir", str(user_dir), "--config-name", "bare")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--config-dir=/nosuch"], "/nosuch: no such configuration directory"),
        (["hydra.searchpath=[/nosuch]"], "/nosuch: no such configuration directory"),
        (["hydra.searchpath=[pkg://nosuch.conf]"], "no package named nosuch.conf is installed"),
        (["hydra.searchpath=/tmp"], "expected a list; type 'hydra.searchpath=[/tmp]'"),
        (["--config-name=describ"], "unknown configuration 'describ': did you mean describe?"),
        (["--config-path=conf"], "--config-path: the job needs the configuration of cnnzoo; type --config-dir DIR"),
    ],
)
def test_wrong_directory_is_one_line(argv, message):
    with pytest.raises(UserError, match=re.escape(message)):
        prepare(*argv)


def test_file_that_hydra_would_ignore_is_an_error(user_dir):
    (user_dir / "model").mkdir()
    (user_dir / "model" / "resnet.yaml").write_text("name: x\n")
    with pytest.raises(UserError, match=r"cnnzoo's own model.resnet\.yaml takes precedence over it"):
        prepare("--config-dir", str(user_dir))


def test_resume_finds_user_directory_again(user_dir, tmp_path):
    run_dir = tmp_path / "run"
    (run_dir / ".hydra").mkdir(parents=True)
    (run_dir / ".hydra" / "overrides.yaml").write_text("- experiment=mine\n")
    cfg = cli.ConfigTree("train", [user_dir]).compose(["experiment=mine"])
    OmegaConf.save(cfg, run_dir / ".hydra" / "config.yaml")
    sources = [
        {"path": str(ROOT / "conf"), "schema": "file", "provider": "main"},
        {"path": str(user_dir), "schema": "file", "provider": "command-line"},
    ]
    settings = {"job": {"name": "train", "config_name": "train"}, "runtime": {"config_sources": sources}}
    OmegaConf.save({"hydra": settings}, run_dir / ".hydra" / "hydra.yaml")
    argv, _ = expand_resume([f"resume={run_dir}", "trainer.max_epochs=2"])
    assert f"--config-dir={user_dir}" in argv
    resumed = resumed_config(run_dir, prepare(*argv), "train")
    assert (resumed.seed, resumed.trainer.max_epochs) == (7, 2)


def test_config_options_restore_name_and_search_path():
    sources = [
        {"path": "/c", "schema": "file", "provider": "hydra.searchpath in command-line"},
        {"path": "pack.age", "schema": "pkg", "provider": "hydra.searchpath in command-line"},
        {"path": "hydra.conf", "schema": "pkg", "provider": "hydra"},
    ]
    job = {"name": "train", "config_name": "own"}
    settings = OmegaConf.create({"job": job, "runtime": {"config_sources": sources}})
    assert config_options(settings) == ["--config-name=own", "hydra.searchpath=['/c','pkg://pack.age']"]
