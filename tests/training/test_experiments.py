"""The recipes of `conf/experiment/` and `conf/debug/`, each run for two steps on generated images."""

import math
import re

import pytest

from cnnzoo import cli

NAMES = sorted(path.stem for path in (cli.CONF / "experiment").glob("*.yaml"))
QUICK = ("mnist_lenet", "cifar10_fast", "transfer")
SYNTHETIC = ("data.source._target_=cnnzoo.data.Synthetic", "+data.source.images=60")
TWO_STEPS = (
    *(
        "trainer.max_epochs=1",
        "scheduler.warmup_epochs=0",
        "trainer.limit_train_batches=2",
        "trainer.limit_val_batches=1",
        "data.batch_size=2",
    ),
    *("trainer.num_sanity_val_steps=0", "trainer.check_val_every_n_epoch=1", "callbacks=minimal", "logger=none"),
    *("test=false", "callbacks.checkpoint=null", "compile=false"),
)


def stand_in(name, pretrained):
    """Overrides that replace the data of an experiment by generated images of a suitable size."""
    if name == "transfer":
        return (f"model.weights={pretrained}", "model=lenet", *SYNTHETIC)
    if name.startswith("imagenet"):
        return (*SYNTHETIC, "+data.source.image_size=96", "data.image_size=224")
    return SYNTHETIC


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """A file with weights of lenet5 for color images in five classes."""
    import torch

    import cnnzoo

    path = tmp_path_factory.mktemp("weights") / "lenet5.pth"
    torch.save(cnnzoo.create_model("lenet5", num_classes=5).state_dict(), path)
    return path


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.long]) for name in NAMES]
)
def test_experiment_trains_two_steps(job, pretrained, name):
    result = job(f"experiment={name}", *stand_in(name, pretrained), *TWO_STEPS)
    assert result is not None
    assert math.isfinite(result)


@pytest.mark.parametrize("name", NAMES)
def test_experiment_starts_with_its_command_and_cost(name):
    lines = (cli.CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    header = " ".join(line.removeprefix("#").strip() for line in lines[1:8] if line.startswith("#"))
    assert lines[0] == "# @package _global_"
    assert re.search(rf"python train\.py experiment={name}\b", header)
    assert "Cost: " in header or " seconds on " in header


@pytest.mark.parametrize("name", ["fast", "few", "overfit", pytest.param("profile", marks=pytest.mark.long)])
def test_debug_choice_runs(job, name):
    epochs = ("trainer.max_epochs=1",) if name == "overfit" else ()
    job(f"debug={name}", "model=lenet", "callbacks=minimal", "logger=none", *epochs)
