"""How the settings of a run and of the command line combine."""

import pytest
from omegaconf import OmegaConf

from cnnzoo import cli, data
from cnnzoo.errors import UserError
from cnnzoo.evaluate.settings import SAFE_TARGETS, combined_config, create_out, read_run_config


@pytest.fixture
def run(tmp_path):
    """A run directory with a configuration."""
    overrides = [
        "data.batch_size=16",
        "trainer.precision=bf16-mixed",
        "trainer=cpu",
        "loader=torch",
        "loader.workers=3",
    ]
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(cli.compose("train", overrides), tmp_path / ".hydra/config.yaml")
    return tmp_path


def combine(run, *overrides):
    typed = [override.partition("=")[0] for override in overrides]
    return combined_config(run, cli.compose("evaluate", overrides), typed)


def test_all_data_sets_and_loaders_of_cnnzoo_are_safe():
    names = {f"cnnzoo.data.{name}" for name in data.__all__ if name != "Preprocess"}
    assert set(SAFE_TARGETS) == names | {"cnnzoo.data.datamodule.DataModule"}


def test_settings_of_the_run_are_used_unless_typed(run):
    cfg = combine(run)
    assert (cfg.data.batch_size, cfg.data.loader.workers, cfg.trainer.precision) == (16, 3, "bf16-mixed")
    assert (cfg.trainer.accelerator, cfg.test_time_flip, cfg.compile) == ("cpu", False, False)
    cfg = combine(run, "data.batch_size=8", "loader.workers=1", "trainer.precision=32", "trainer=gpu", "compile=true")
    assert (cfg.data.batch_size, cfg.data.loader.workers, cfg.trainer.precision) == (8, 1, 32)
    assert (cfg.trainer.accelerator, cfg.data.loader._target_) == ("gpu", "cnnzoo.data.TorchLoader")
    assert cfg.compile is True


def test_other_data_has_none_of_the_settings_of_the_run(run):
    cfg = combine(run, "data=synthetic")
    assert (cfg.data.name, cfg.data.batch_size, cfg.data.loader._target_) == (
        "synthetic",
        64,
        "cnnzoo.data.auto_loader",
    )
    assert cfg.trainer.precision == "bf16-mixed"


def test_run_without_configuration_is_one_line(run):
    (run / ".hydra/config.yaml").write_text("data: [1, {")
    with pytest.raises(UserError, match=r"config\.yaml cannot be read"):
        combine(run)
    (run / ".hydra/config.yaml").write_text("[]")
    with pytest.raises(UserError, match="is not the configuration of a training"):
        read_run_config(run)
    (run / ".hydra/config.yaml").unlink()
    with pytest.raises(UserError, match=r"config\.yaml is missing; type data="):
        read_run_config(run)


def test_create_out_returns_what_was_missing(tmp_path):
    assert create_out(tmp_path / "a/b") == [tmp_path / "a/b", tmp_path / "a"]
    assert create_out(tmp_path / "a/b") == []
    (tmp_path / "a/b/x").touch()
    with pytest.raises(UserError, match="has files already"):
        create_out(tmp_path / "a/b")
