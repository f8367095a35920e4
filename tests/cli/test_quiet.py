"""The main ways to train say nothing that a person can do nothing about."""

import re

import pytest

WAYS = {
    "default": ("model=lenet",),
    "resnet": ("model=resnet", "model.name=resnet20", "trainer=cpu"),
    "bf16": ("model=lenet", "trainer.precision=bf16-mixed"),
    "ddp": ("model=lenet", "trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"),
    "multirun": ("-m", "model=lenet", "optimizer.lr=0.1,0.01"),
    "profile": ("model=lenet", "trainer=profile", "trainer.limit_val_batches=2"),
    "googlenet": ("model=googlenet", "trainer=cpu", "data.batch_size=4", "test=false"),
    "loggers": ("model=lenet", "logger=csv"),
}


@pytest.fixture
def quiet(shell, tmp_path):
    """`quiet("model=lenet", ...)`: what a short run prints, in which nothing is found that only disturbs."""

    def run(*words):
        short = [] if "trainer=profile" in words else ["trainer.limit_train_batches=3", "trainer.limit_val_batches=2"]
        done = shell(*words, *short, "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}")
        assert done.returncode == 0, done.stdout + done.stderr
        said = done.stdout + done.stderr
        assert not re.search(r"warning|deprecat|💡|\btip\b|litlogger|\[W\d|USDT|GLOBAL_RANK", said, re.IGNORECASE)
        assert done.stderr == ""
        return done.stdout

    return run


@pytest.mark.parametrize(
    "way", [way if way == "default" else pytest.param(way, marks=pytest.mark.long) for way in WAYS]
)
def test_nothing_but_the_job_speaks(quiet, way):
    said = quiet(*WAYS[way])
    runs = 2 if way == "multirun" else 1  # with several processes, too, each line comes once
    for start in ("model ", "epoch ", "  1/1 ", "validation "):
        assert sum(line.startswith(start) for line in said.splitlines()) == runs, start


@pytest.mark.long
def test_dali_is_quiet(quiet, flowers):
    pytest.importorskip("nvidia.dali")
    quiet("model=lenet", "data=folder", f"data.root={flowers}", "data.batch_size=8", "loader=dali", "trainer=cpu")


@pytest.mark.zoo
def test_compiling_is_quiet(quiet):
    quiet("model=lenet", "compile=true", "trainer=cpu")
