"""The recipes of `conf/model/`: what a network trains with unless the person types otherwise."""

import hydra
import pytest

from cnnzoo import cli


def composed(*words: str):
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        return hydra.compose("train", overrides=list(words))


@pytest.mark.parametrize(("name", "lr"), [("lenet5", 0.1), ("lenet5_paper", 0.01)])
def test_a_name_may_have_a_rate_of_its_own(name, lr):
    cfg = composed("model=lenet", f"model.name={name}")
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay, cfg.trainer.max_epochs) == (lr, 5e-4, 30)


def test_a_typed_rate_wins_over_the_recipes():
    assert composed("model=lenet", "model.name=lenet5_paper", "optimizer.lr=0.5").optimizer.lr == 0.5
    assert composed("model=lenet", "model.recipe.sgd.lr=0.5").optimizer.lr == 0.5


@pytest.mark.parametrize("family", ["nin", "googlenet", "squeezenet"])
def test_networks_without_batch_norm_train_with_adamw(family):
    cfg = composed(f"model={family}")
    assert cfg.optimizer._target_ == "torch.optim.AdamW"
    assert cfg.optimizer.lr == 1e-3
