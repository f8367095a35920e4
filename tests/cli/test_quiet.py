"""The common ways to train print no warnings, hints or notices of libraries."""

import re

import pytest

RUNS = {
    "default": ("model=lenet",),
    "resnet": ("model=resnet", "model.name=resnet20", "trainer=cpu"),
    "bf16": ("model=lenet", "trainer.precision=bf16-mixed"),
    "ddp": ("model=lenet", "trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"),
    "multirun": ("-m", "model=lenet", "optimizer.lr=0.1,0.01"),
    "profile": ("model=lenet", "trainer=profile", "trainer.limit_val_batches=2"),
    "googlenet": ("model=googlenet", "trainer=cpu", "data.batch_size=4", "test=false"),
    "loggers": ("model=lenet", "logger=csv"),
}
NOISE = re.compile(r"warning|deprecat|💡|\btip\b|litlogger|\[W\d|USDT|GLOBAL_RANK", re.IGNORECASE)


@pytest.fixture
def quiet_output(shell, tmp_path):
    """`quiet_output("model=lenet", ...)` does a short run, checks that its output has no noise, and returns it."""

    def run(*arguments):
        limits = ["trainer.limit_train_batches=3", "trainer.limit_val_batches=2"]
        if "trainer=profile" in arguments:
            limits = []
        process = shell(*arguments, *limits, "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}")
        assert process.returncode == 0, process.stdout + process.stderr
        assert not NOISE.search(process.stdout + process.stderr)
        assert process.stderr == ""
        return process.stdout

    return run


@pytest.mark.parametrize(
    "name", [name if name == "default" else pytest.param(name, marks=pytest.mark.long) for name in RUNS]
)
def test_run_prints_only_its_own_lines(quiet_output, name):
    output = quiet_output(*RUNS[name])
    num_jobs = 2 if name == "multirun" else 1
    for start in ("model ", "epoch ", "  1/1 ", "validation "):  # each once per job, also with several ranks
        assert sum(line.startswith(start) for line in output.splitlines()) == num_jobs, start


@pytest.mark.long
def test_dali_run_is_quiet(quiet_output, flowers):
    pytest.importorskip("nvidia.dali")
    data = ("data=folder", f"data.root={flowers}", "data.batch_size=8")
    quiet_output("model=lenet", *data, "loader=dali", "trainer=cpu")


@pytest.mark.zoo
def test_compiled_run_is_quiet(quiet_output):
    quiet_output("model=lenet", "compile=true", "trainer=cpu")
