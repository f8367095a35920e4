"""The recipes of `conf/model/`: the default optimizer, learning rate and number of epochs of a network."""

import hydra
import pytest

from cnnzoo import cli


def compose_config(*overrides: str):
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        return hydra.compose("train", overrides=list(overrides))


@pytest.mark.parametrize(("name", "lr"), [("lenet5", 0.1), ("lenet5_paper", 0.01)])
def test_recipe_lr_depends_on_the_network_name(name, lr):
    cfg = compose_config("model=lenet", f"model.name={name}")
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay, cfg.trainer.max_epochs) == (lr, 5e-4, 30)


def test_lr_override_replaces_the_recipe():
    assert compose_config("model=lenet", "model.name=lenet5_paper", "optimizer.lr=0.5").optimizer.lr == 0.5
    assert compose_config("model=lenet", "model.recipe.sgd.lr=0.5").optimizer.lr == 0.5


@pytest.mark.parametrize("family", ["nin", "googlenet", "squeezenet"])
def test_networks_without_batch_norm_use_adamw(family):
    cfg = compose_config(f"model={family}")
    assert cfg.optimizer._target_ == "torch.optim.AdamW"
    assert cfg.optimizer.lr == 1e-3
