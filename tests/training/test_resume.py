"""A run that is stopped or killed at any time resumes, and ends bit-identical to a run that was not."""

import json
import re
import signal

import pytest
import torch
import yaml
from omegaconf import OmegaConf

import cnnzoo
from cnnzoo.cli.resume import merge_run_config, recorded_overrides
from cnnzoo.errors import UserError
from tests.helpers import ROOT
from tests.helpers.loaders import needs_dali
from tests.helpers.optimizers import needs_optim
from tests.helpers.run_files import metrics_rows, tensorboard_events

LENET = ("model=lenet", "trainer.max_epochs=3")
OVERRIDES = (
    "trainer=cpu",
    "callbacks=minimal",
    "callbacks.checkpoint.every_n_seconds=1e-9",  # after every step
    "callbacks.checkpoint.background=false",  # so that it is known which step was saved last
    "+callbacks.killer._target_=tests.helpers.killer.Killer",
)
CONSTANT = ("optimizer.lr=1e-7",)
"""The accuracy does not change, so the second validation brings no new best."""
GROWING = (
    "model=resnet",
    "model.name=resnet20",
    "trainer.max_epochs=4",  # of 8, 10, 13 and 16 pixels
    "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=1",
    "data.batch_size=16",
    "data.start_size=8",
)
FULL = ("trainer=cpu", "callbacks=full", OVERRIDES[-1])
BACKGROUND = "callbacks.checkpoint.background=true"


@pytest.fixture(scope="module")
def train(fork, tmp_path_factory):
    """`train(name, *overrides, kill=None)` runs `train.py`, which may kill itself: (process, run directory)."""
    directory = tmp_path_factory.mktemp("runs")

    def run(name, *overrides, kill=None):
        return fork(*overrides, cwd=directory, **({"KILL": kill} if kill else {})), directory / name

    return run


@pytest.fixture(scope="module")
def unbroken_run(train):
    """`unbroken_run(*overrides)`: the directory of a run that was never stopped; trained once per overrides."""
    runs = {}

    def run(*overrides):
        if overrides not in runs:
            name = f"unbroken{len(runs)}"
            process, runs[overrides] = train(name, *OVERRIDES, *overrides, f"run_dir={name}")
            assert process.returncode == 0, process.stderr
        return runs[overrides]

    return run


def bit_identical(one, other):
    """Whether two values of a checkpoint are equal to the last bit; durations and speeds are not compared."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        names = {name for name in one if not str(name).startswith(("perf/", "seconds"))}
        return names <= other.keys() and all(bit_identical(one[name], other[name]) for name in names)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(bit_identical, one, other))
    return one == other


def assert_same_run(run, expected_run):
    for name in ("best", "last"):
        path = f"checkpoints/{name}.ckpt"
        checkpoint, expected = (torch.load(directory / path, weights_only=True) for directory in (run, expected_run))
        for key in expected:
            assert bit_identical(checkpoint[key], expected[key]), (name, key)
    assert metrics_rows(run) == metrics_rows(expected_run)


@pytest.mark.parametrize(
    ("kill", "step", "overrides"),
    [
        pytest.param("SIGKILL on_train_batch_end 27", 26, LENET, marks=pytest.mark.long),
        pytest.param("SIGKILL writing 6", None, (*LENET, BACKGROUND), marks=pytest.mark.long),
        pytest.param("SIGKILL on_train_batch_end 31", None, (*LENET, BACKGROUND), marks=pytest.mark.long),
        pytest.param("SIGKILL on_validation_batch_start 6", 39, LENET, marks=pytest.mark.long),
        pytest.param(
            "SIGKILL on_train_batch_start 44",
            40,
            (*LENET, "callbacks.checkpoint.every_n_seconds=null"),
            marks=pytest.mark.long,
        ),
        pytest.param(
            "SIGKILL writing 16",
            14,
            (*LENET, "ema=0.99", "loader.workers=2", "trainer.accumulate_grad_batches=2"),
            marks=pytest.mark.long,
        ),
        pytest.param(  # best.ckpt is newer than last.ckpt, and was saved right after a validation
            "SIGKILL on_train_batch_end 33",
            20,
            (*LENET, "callbacks.checkpoint.every_n_seconds=null", "trainer.val_check_interval=0.5"),
            marks=pytest.mark.long,
        ),
        pytest.param("SIGKILL on_test_start 1", 60, LENET, marks=pytest.mark.long),
        pytest.param(
            "SIGKILL on_train_batch_end 28",
            27,
            (*LENET, *CONSTANT, "scheduler=plateau", "scheduler.patience=0", "scheduler.warmup_epochs=0.5"),
            marks=pytest.mark.long,
            id="plateau, reduced at the end of the epoch",
        ),
        pytest.param(
            "SIGKILL on_test_end 1",
            40,
            (*LENET, *CONSTANT, "callbacks.early_stopping.patience=1"),
            marks=pytest.mark.long,
            id="stopped early",
        ),
        pytest.param(
            "SIGKILL on_train_batch_end 29",
            28,
            (*LENET, "optimizer=soap", "scheduler=one_cycle", "ema=0.9", "decay_norm_bias=true"),
            marks=[pytest.mark.long, needs_optim],
            id="SOAP, one cycle, EMA",
        ),
        pytest.param(
            "SIGKILL on_train_batch_end 12",
            11,
            (*GROWING, "loader.workers=1", "mixup=0.2", "cutmix=1", "ema=0.9"),
            id="progressive size, mixup, cutmix, EMA",
        ),
        pytest.param(
            "SIGKILL on_train_batch_end 30",
            29,
            (*LENET, "data=digits_multilabel", "task=multilabel", "mixup=0.2", "ema=0.9", "loader.workers=1"),
            marks=pytest.mark.long,
            id="multi-label, mixup, EMA",
        ),
        pytest.param(
            "SIGKILL on_train_batch_end 9",
            8,
            ("model=alexnet", "trainer.max_epochs=2", "trainer.limit_train_batches=6", "ema=0.9", "loader=dali"),
            marks=[needs_dali, pytest.mark.long],
            id="dropout, EMA, DALI",
        ),
    ],
)
def test_killed_run_resumes_bit_identically(train, unbroken_run, kill, step, overrides):
    name = kill.replace(" ", "_")
    """`step` is the one that it resumes at; None: any, as a thread writes the checkpoints."""
    killed, run = train(name, *OVERRIDES, *overrides, f"run_dir={name}", kill=kill)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    process, _ = train(name, f"resume={name}")
    assert process.returncode == 0, process.stderr
    (entry,) = yaml.safe_load((run / "resumes.yaml").read_text())
    assert entry["step"] == step or (step is None and 0 < entry["step"] <= 60)
    assert entry["overrides"] == []
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert_same_run(run, unbroken_run(*overrides))


@pytest.fixture(scope="module")
def stopped_run(train):
    """A run that SIGTERM stopped in its second epoch: (process, run directory)."""
    overrides = (*LENET, *FULL, "callbacks.checkpoint.every_n_seconds=null", "logger=default")
    return train("stopped", *overrides, "run_dir=stopped", kill="SIGTERM on_train_batch_end 27")


def test_signal_in_an_epoch_saves_and_stops(stopped_run):
    process, run = stopped_run
    assert process.returncode == 128 + signal.SIGTERM
    command = f"python {ROOT / 'train.py'} resume=stopped"
    assert f"stopped by SIGTERM after 1 epoch and 27 steps, and saved; {command} continues" in process.stdout
    assert "Traceback" not in process.stdout + process.stderr
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert (checkpoint["global_step"], checkpoint["DataModule"]["batch"]) == (27, 7)
    assert not (run / "metrics.json").exists()


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), pytest.param("SIGUSR1", 138, marks=pytest.mark.long)])
def test_signal_in_a_validation_saves_and_stops(train, name, code):
    process, run = train(name, *LENET, *OVERRIDES, f"run_dir={name}", kill=f"{name} on_validation_batch_start 5")
    assert process.returncode == code
    assert f"stopped by {name} after 1 epoch and 20 steps, and saved" in process.stdout
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 20


def test_resume_with_overrides_continues_all_logs(train, stopped_run):
    """Overrides may change how a run trains. TensorBoard and metrics.csv have every step exactly once."""
    _, run = stopped_run
    before = {path: path.read_bytes() for path in (run / ".hydra").iterdir()}
    overrides = ("callbacks.checkpoint.every_n_seconds=300", "test=false")
    process, _ = train("stopped", "run_dir=stopped", "resume=auto", *overrides)
    assert process.returncode == 0, process.stderr
    assert "resuming from stopped/checkpoints/last.ckpt after 1 epoch and 27 steps" in process.stdout
    assert {path: path.read_bytes() for path in (run / ".hydra").iterdir()} == before
    (entry,) = yaml.safe_load((run / "resumes.yaml").read_text())
    assert entry["overrides"] == list(overrides)
    assert (entry["epoch"], entry["step"], entry["checkpoint"]) == (1, 27, "checkpoints/last.ckpt")
    assert (run / "train.log").read_text().count("loader") == 2
    environment = json.loads((run / "environment.json").read_text())
    (resumed,) = environment["resumed"]
    assert resumed["packages"] == environment["packages"]
    assert resumed["date"] >= environment["date"]

    unbroken, expected_run = train("unbroken", *LENET, *FULL, "run_dir=unbroken", "test=false")
    assert unbroken.returncode == 0, unbroken.stderr
    expected = metrics_rows(expected_run)
    assert metrics_rows(run) == expected
    assert tensorboard_events(run) == tensorboard_events(expected_run)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["epochs"] == 3
    assert metrics["train/loss"] == pytest.approx(float(expected[-1]["train/loss_epoch"]))


def test_resume_of_a_finished_run_needs_more_epochs(train, unbroken_run):
    run = unbroken_run(*LENET)
    process, _ = train("", f"resume={run}")
    assert process.returncode == 1
    assert process.stderr.startswith(
        f"error: resume={run.name}: the run has trained 3 epochs and trainer.max_epochs=3; to "
    )
    assert (run / "metrics.json").exists()


def test_ema_weights_are_used_everywhere(train, unbroken_run):
    """The test loss in metrics.json equals that of the loaded network. The raw weights have another loss."""
    overrides = (*LENET, "ema=0.99", "loader.workers=2", "trainer.accumulate_grad_batches=2")
    run = unbroken_run(*overrides)
    metrics = json.loads((run / "metrics.json").read_text())
    net = cnnzoo.load_run(run)
    from cnnzoo.data import Digits

    test = Digits(split_seed=0).split("test")
    images = torch.stack([net.preprocess(image) for image in test.pixels])
    labels = torch.from_numpy(test.labels)

    def loss():
        with torch.no_grad():
            return torch.nn.functional.cross_entropy(net(images), labels).item()

    assert loss() == pytest.approx(metrics["test/loss"], abs=1e-5)
    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    net.load_state_dict({name.removeprefix("net."): value for name, value in checkpoint["raw_state_dict"].items()})
    assert abs(loss() - metrics["test/loss"]) > 1e-3
    assert metrics["val/acc1"] == checkpoint["cnnzoo"]["metrics"]["val/acc1"]


def create_run_dir(path, *overrides, **values):
    """Write the files that Hydra writes to a run directory."""
    (path / ".hydra").mkdir()
    (path / ".hydra/overrides.yaml").write_text("".join(f"- {override}\n" for override in overrides) or "[]")
    (path / ".hydra/config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(values)))
    return path


def test_merge_run_config_keeps_the_run_settings(tmp_path):
    run = create_run_dir(
        tmp_path, model={"name": "a"}, optimizer={"lr": 0.5, "old": 1}, trainer={"max_epochs": 3}, run_dir="x"
    )
    current = {"model": {"name": "a"}, "optimizer": {"lr": 0.1}, "trainer": {"max_epochs": 3}, "run_dir": "y", "new": 0}
    before = OmegaConf.create(current)
    after = OmegaConf.create({**current, "trainer": {"max_epochs": 9}})
    cfg = merge_run_config(run, before, after, ["trainer.max_epochs=9"])
    assert (cfg.optimizer.lr, cfg.optimizer.old, cfg.trainer.max_epochs) == (0.5, 1, 9)
    assert (cfg.run_dir, cfg.resume) == (str(run), ["trainer.max_epochs=9"])
    other = OmegaConf.create({**current, "model": {"name": "b"}})
    with pytest.raises(UserError, match=r"^model\.name=b: the run in .* has a, and a resumed run keeps its network"):
        merge_run_config(run, before, other, ["model.name=b"])
    other = OmegaConf.create({**current, "optimizer": {"lr": 0.1, "_target_": "torch.optim.Adam"}})
    with pytest.raises(UserError, match=r"^optimizer\._target_=torch\.optim\.Adam: .* keeps its .*optimizer"):
        merge_run_config(run, before, other, ["optimizer=adam"])


@pytest.mark.parametrize(("minutes", "seconds"), [(0.5, 30), (0, None)])
def test_resume_of_an_old_run_replaces_every_minutes(tmp_path, minutes, seconds):
    checkpoint = {"dirpath": "x", "every_minutes": minutes}
    override = f"callbacks.checkpoint.every_minutes={minutes}"
    run = create_run_dir(tmp_path, "seed=1", override, callbacks={"checkpoint": checkpoint}, run_dir="x")
    empty = OmegaConf.create({})
    cfg = merge_run_config(run, empty, empty, [])
    assert cfg.callbacks.checkpoint == {"dirpath": "x", "every_n_seconds": seconds}
    first, second = recorded_overrides(run)
    key, _, value = second.partition("=")
    assert (first, key) == ("seed=1", "callbacks.checkpoint.every_n_seconds")
    assert (None if value == "null" else float(value)) == seconds


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["resume=nowhere"], r"resume=nowhere: no such directory"),
        (["resume=."], r"resume=\.: the directory holds no run; \.hydra/overrides\.yaml is missing"),
        (["resume=auto"], r"resume=auto needs run_dir=DIR"),
        (["resume=stopped", "run_dir=other"], r"resume=stopped: .*leave run_dir out"),
        (["resume=stopped", "seed=3"], r"seed=3: the run in stopped has 0, and a resumed run keeps its"),
        (["resume=stopped", "model=vgg"], r"model\.family=vgg: the run in stopped has lenet"),
        (
            ["resume=stopped", "data.batch_size=32", "trainer.max_epochs=9"],
            r"data\.batch_size=32: 32 images per step .* type data\.batch_size=64",
        ),
        (["resume=stopped", "trainer.max_epoch=3"], r"unknown key 'trainer\.max_epoch'"),
        (["run_dir=stopped", "model=lenet"], r"run_dir=stopped already holds an? (un)?finished run; "),
    ],
)
def test_resume_that_is_impossible_is_one_line(train, stopped_run, overrides, message):
    def modification_times():
        return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != "train.log"}

    _, run = stopped_run
    before = modification_times()
    process, _ = train("stopped", *overrides)
    assert process.returncode == 1
    assert modification_times() == before
    assert re.match(rf"error: {message}[^\n]*\n$", process.stderr), process.stderr
