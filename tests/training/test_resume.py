"""A run that is killed, at whatever moment, goes on to the very same end."""

import json
import re
import signal

import pytest
import torch
import yaml
from omegaconf import OmegaConf

import cnnzoo
from cnnzoo.cli.resume import merge_run_config
from cnnzoo.errors import UserError
from tests.helpers.loaders import needs_dali
from tests.helpers.run_files import metrics_rows, tensorboard_events

LENET = ("model=lenet", "trainer.max_epochs=3")
WORDS = (
    "trainer=cpu",
    "callbacks=minimal",
    "callbacks.checkpoint.every_minutes=1e-9",  # after each step
    "+callbacks.killer._target_=tests.helpers.killer.Killer",
)
FULL = ("trainer=cpu", "callbacks=full", *WORDS[3:])


@pytest.fixture(scope="module")
def train(shell, tmp_path_factory):
    """`train("run", *words, kill=None)`: `train.py`, which kills itself; (the process, the run directory)."""
    here = tmp_path_factory.mktemp("runs")

    def run(name, *words, kill=None):
        environment = {"OMP_NUM_THREADS": "1"}
        done = shell(*words, cwd=here, **environment, **({"KILL": kill} if kill else {}))
        return done, here / name

    return run


@pytest.fixture(scope="module")
def whole(train):
    """Runs that were never stopped, by the words that they had more."""
    runs = {}

    def run(*words):
        if words not in runs:
            name = f"whole{len(runs)}"
            done, runs[words] = train(name, *WORDS, *words, f"run_dir={name}")
            assert done.returncode == 0, done.stderr
        return runs[words]

    return run


def equal(one, other):
    """Whether two values of a checkpoint are the same to the last bit, seconds and speeds aside."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        names = {name for name in one if not str(name).startswith(("perf/", "seconds"))}
        return names <= other.keys() and all(equal(one[name], other[name]) for name in names)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def assert_same(one, other):
    for name in ("best", "last"):
        saved, expected = (torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True) for run in (one, other))
        for key in expected:
            assert equal(saved[key], expected[key]), (name, key)
    assert metrics_rows(one) == metrics_rows(other)


@pytest.mark.parametrize(
    ("kill", "step", "words"),
    [
        ("SIGKILL on_train_batch_end 27", 26, LENET),
        pytest.param("SIGKILL on_validation_batch_start 6", 39, LENET, marks=pytest.mark.long),
        pytest.param(
            "SIGKILL on_train_batch_start 44",
            40,
            (*LENET, "callbacks.checkpoint.every_minutes=0"),
            marks=pytest.mark.long,
        ),
        pytest.param(
            "SIGKILL writing 16",
            14,
            (*LENET, "ema=0.99", "loader.workers=2", "trainer.accumulate_grad_batches=2"),
            marks=pytest.mark.long,
        ),
        pytest.param(  # the best checkpoint is newer than the last, and from right after a validation
            "SIGKILL on_train_batch_end 33",
            20,
            (*LENET, "callbacks.checkpoint.every_minutes=0", "trainer.val_check_interval=0.5"),
            marks=pytest.mark.long,
        ),
        pytest.param("SIGKILL on_test_start 1", 60, LENET, marks=pytest.mark.long),
        pytest.param(
            "SIGKILL on_train_batch_end 9",
            8,
            ("model=alexnet", "trainer.max_epochs=2", "trainer.limit_train_batches=6", "ema=0.9", "loader=dali"),
            marks=[needs_dali, pytest.mark.long],
            id="dropout, averaged weights, DALI",
        ),
    ],
)
def test_a_killed_run_ends_as_if_it_had_not_been(train, whole, kill, step, words):
    name = kill.replace(" ", "_")
    killed, run = train(name, *WORDS, *words, f"run_dir={name}", kill=kill)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done, _ = train(name, f"resume={name}")
    assert done.returncode == 0, done.stderr
    (entry,) = yaml.safe_load((run / "resumes.yaml").read_text())
    assert entry["step"] == step
    assert entry["overrides"] == []
    assert_same(run, whole(*words))


@pytest.fixture(scope="module")
def stopped(train):
    """A run that SIGTERM stopped in its second epoch: (the process, the run directory)."""
    words = (*LENET, *FULL, "callbacks.checkpoint.every_minutes=0", "logger=default")
    return train("stopped", *words, "run_dir=stopped", kill="SIGTERM on_train_batch_end 27")


def test_a_signal_saves_and_stops(stopped):
    done, run = stopped
    assert done.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after 1 epochs and 27 steps, and saved; python train.py resume=stopped goes on" in (
        done.stdout
    )
    assert "Traceback" not in done.stdout + done.stderr
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert (saved["global_step"], saved["DataModule"]["batch"]) == (27, 7)
    assert not (run / "metrics.json").exists()


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), pytest.param("SIGUSR1", 138, marks=pytest.mark.long)])
def test_other_signals_do_so_within_a_validation(train, name, code):
    done, run = train(name, *LENET, *WORDS, f"run_dir={name}", kill=f"{name} on_validation_batch_start 5")
    assert done.returncode == code
    assert f"stopped by {name} after 1 epochs and 20 steps, and saved" in done.stdout
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 20


def test_a_stopped_run_goes_on_in_its_directory(train, stopped):
    """With other words for how, not for what; nothing in TensorBoard or metrics.csv is there twice, or missing."""
    _, run = stopped
    before = {path: path.read_bytes() for path in (run / ".hydra").iterdir()}
    done, _ = train("stopped", "run_dir=stopped", "resume=auto", "callbacks.checkpoint.every_minutes=5", "test=false")
    assert done.returncode == 0, done.stderr
    assert "going on from stopped/checkpoints/last.ckpt: 1 epochs and 27 steps are done" in done.stdout
    assert {path: path.read_bytes() for path in (run / ".hydra").iterdir()} == before
    (entry,) = yaml.safe_load((run / "resumes.yaml").read_text())
    assert entry["overrides"] == ["callbacks.checkpoint.every_minutes=5", "test=false"]
    assert (entry["epoch"], entry["step"], entry["checkpoint"]) == (1, 27, "checkpoints/last.ckpt")
    assert (run / "train.log").read_text().count("loader") == 2

    unbroken, _ = train("unbroken", *LENET, *FULL, "run_dir=unbroken", "test=false")
    assert unbroken.returncode == 0, unbroken.stderr
    expected = metrics_rows(run.parent / "unbroken")
    assert metrics_rows(run) == expected
    assert tensorboard_events(run) == tensorboard_events(run.parent / "unbroken")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["epochs"] == 3
    assert metrics["train/loss"] == pytest.approx(float(expected[-1]["train/loss_epoch"]))


def test_a_finished_run_trains_longer_or_says_so(train, whole):
    run = whole(*LENET)
    done, _ = train("", f"resume={run}")
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"error: resume={run.name}: this run has trained 3 epochs, and trainer.max_epochs=3; to "
    )
    assert (run / "metrics.json").exists()


def test_averaged_weights_are_what_everything_uses(train, whole):
    """The figures after training, of a loaded run, and of a test in a fresh trainer agree; raw weights have others."""
    words = (*LENET, "ema=0.99", "loader.workers=2", "trainer.accumulate_grad_batches=2")
    run = whole(*words)
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
    saved = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    raw = {name.removeprefix("net."): value for name, value in saved["raw_state_dict"].items()}
    net.load_state_dict(raw)
    assert abs(loss() - metrics["test/loss"]) > 1e-3
    assert metrics["val/acc1"] == saved["cnnzoo"]["metrics"]["val/acc1"]


def run_dir(tmp_path, *words, **values):
    """A directory with what Hydra writes."""
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/overrides.yaml").write_text("".join(f"- {word}\n" for word in words) or "[]")
    (tmp_path / ".hydra/config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(values)))
    return tmp_path


def test_a_run_goes_on_with_its_own_settings(tmp_path):
    run = run_dir(
        tmp_path, model={"name": "a"}, optimizer={"lr": 0.5, "old": 1}, trainer={"max_epochs": 3}, run_dir="x"
    )
    now = {"model": {"name": "a"}, "optimizer": {"lr": 0.1}, "trainer": {"max_epochs": 3}, "run_dir": "y", "new": 0}
    before = OmegaConf.create(now)
    after = OmegaConf.create({**now, "trainer": {"max_epochs": 9}})
    cfg = merge_run_config(run, before, after, ["trainer.max_epochs=9"])
    assert (cfg.optimizer.lr, cfg.optimizer.old, cfg.trainer.max_epochs) == (0.5, 1, 9)
    assert (cfg.run_dir, cfg.resume) == (str(run), ["trainer.max_epochs=9"])
    other = OmegaConf.create({**now, "model": {"name": "b"}})
    with pytest.raises(UserError, match=r"^model\.name=b: the run in .* has a, and goes on with the same network"):
        merge_run_config(run, before, other, ["model.name=b"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resume=nowhere"], r"resume=nowhere: there is no such directory"),
        (["resume=."], r"resume=\. holds no run: it lacks \.hydra/overrides\.yaml"),
        (["resume=auto"], r"resume=auto needs run_dir=DIR"),
        (["resume=stopped", "run_dir=other"], r"resume=stopped: .*leave run_dir out"),
        (["resume=stopped", "seed=3"], r"seed=3: the run in stopped has 0, and goes on with the same"),
        (["resume=stopped", "model=vgg"], r"model\.family=vgg: the run in stopped has lenet"),
        (
            ["resume=stopped", "data.batch_size=32", "trainer.max_epochs=9"],
            r"data\.batch_size=32: 32 images per step .* type data\.batch_size=64",
        ),
        (["resume=stopped", "trainer.max_epoch=3"], r"unknown key 'trainer\.max_epoch'"),
        (["run_dir=stopped", "model=lenet"], r"run_dir=stopped already holds a .*"),
    ],
)
def test_what_cannot_go_on_is_one_line(train, stopped, words, said):
    _, run = stopped
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != "train.log"}
    done, _ = train("stopped", *words)
    assert done.returncode == 1
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != "train.log"} == before
    assert re.match(rf"error: {said}[^\n]*\n$", done.stderr), done.stderr
