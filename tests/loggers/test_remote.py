"""The loggers besides TensorBoard: CSV always, Weights & Biases and MLflow where they are installed."""

import csv
import sys
from types import ModuleType, SimpleNamespace

import hydra
import pytest

from cnnzoo import cli
from cnnzoo.errors import UserError
from cnnzoo.loggers import remote

QUICK = ("model=lenet", "trainer.max_epochs=2", "trainer.limit_train_batches=3", "callbacks=minimal")
NAMES = {"train/loss", "train/acc1", "train/loss_epoch", "val/loss", "val/acc1", "val/acc5", "test/acc1", "lr"}


@pytest.mark.parametrize(
    ("choice", "loggers"),
    [
        ("default", {"csv", "tensorboard"}),
        ("tensorboard", {"csv", "tensorboard"}),
        ("csv", {"csv"}),
        ("wandb", {"csv", "wandb"}),
        ("mlflow", {"csv", "mlflow"}),
        ("[default,wandb,mlflow]", {"csv", "tensorboard", "wandb", "mlflow"}),
    ],
)
def test_csv_is_always_there(choice, loggers):
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        assert set(hydra.compose("train", overrides=[f"logger={choice}"]).logger) == loggers


@pytest.mark.parametrize(("name", "title"), [("wandb", "Weights & Biases"), ("mlflow", "MLflow")])
def test_a_missing_package_is_one_line_with_what_to_type(monkeypatch, job, name, title):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError) as error:
        job("model=lenet", f"logger={name}")
    assert str(error.value) == f"logger={name} needs {title}, which is not installed: type pip install {name}"


class Run:
    """W&B's run, standing in."""

    def __init__(self, package, **settings):
        self.package, self.settings, self.id, self.name = package, settings, "abc", "a run"
        self.config, self.logged, self.ended = {}, [], 0

    def log(self, values):
        self.logged.append(values)

    def define_metric(self, *_, **__):
        pass


@pytest.fixture
def stand_in(monkeypatch):
    """A module `wandb` with what Lightning's logger asks of it; `.runs` are those that were begun."""
    package = ModuleType("wandb")
    package.runs, package.run, package.key = [], None, "a key"

    def init(**settings):
        run = Run(package, **settings)
        run.config = type("Config", (dict,), {"update": lambda self, new, **_: dict.update(self, new)})()
        package.runs.append(run)
        package.run = run
        return run

    def finish():
        package.run.ended += 1
        package.run = None

    class UsageError(Exception):
        pass

    def api():
        if package.key is None:
            raise UsageError("No API key configured")
        return SimpleNamespace(api_key=package.key)

    package.init, package.finish, package.Api = init, finish, api
    package.errors = SimpleNamespace(UsageError=UsageError)
    modules = {"wandb.sdk": {}, "wandb.sdk.lib": {"RunDisabled": type(None)}, "wandb.wandb_run": {"Run": Run}}
    for name, contents in modules.items():
        module = ModuleType(name)
        module.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.setattr("pytorch_lightning.loggers.wandb._WANDB_AVAILABLE", True)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return package


def test_wandb_gets_the_hyperparameters_and_all_metrics(stand_in, job, tmp_path):
    job(*QUICK, "logger=wandb", "optimizer.lr=0.03")
    (run,) = stand_in.runs
    assert run.settings["dir"] == str(tmp_path / "run")
    assert (run.settings["project"], run.settings["name"]) == ("cnnzoo", "digits/lenet5")
    assert "anonymous" not in run.settings
    assert (run.config["optimizer.lr"], run.config["model"], run.config["seed"]) == (0.03, "lenet5", 0)
    assert set().union(*run.logged) >= NAMES
    assert run.ended == 1
    table = list(csv.DictReader((tmp_path / "run/metrics.csv").open()))
    accuracies = [values["val/acc1"] for values in run.logged if "val/acc1" in values]
    assert [float(row["val/acc1"]) for row in table if row["val/acc1"]] == pytest.approx(accuracies)


def test_a_run_that_an_earlier_job_left_open_is_ended(stand_in, tmp_path):
    left = stand_in.init()
    remote.wandb_logger(str(tmp_path), project="p")
    assert left.ended == 1


def test_wandb_without_a_login_says_what_to_type(stand_in, tmp_path, monkeypatch):
    stand_in.key = None
    with pytest.raises(
        UserError, match=r"logger=wandb: nobody is logged in here: type 'wandb login', or put WANDB_MODE"
    ):
        remote.wandb_logger(str(tmp_path), project="p")
    monkeypatch.setenv("WANDB_MODE", "offline")
    remote.wandb_logger(str(tmp_path), project="p")


def test_wandb_for_real_offline(shell, tmp_path):
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    done = shell(*QUICK, "logger=wandb", "trainer=cpu", f"run_dir={run}", WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    (log,) = run.glob("wandb/offline-run-*/*.wandb")
    assert all(name.encode() in log.read_bytes() for name in (*NAMES, "optimizer.weight_decay"))


def test_mlflow_for_real(shell, tmp_path, monkeypatch):
    client = pytest.importorskip("mlflow").MlflowClient
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = tmp_path / "run"
    done = shell(*QUICK, "logger=mlflow", "trainer=cpu", f"run_dir={run}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    store = client(f"sqlite:///{run / 'mlflow.db'}")
    (found,) = store.search_runs([store.get_experiment_by_name("cnnzoo").experiment_id])
    assert found.data.params["optimizer.lr"] == "0.1"
    assert set(found.data.metrics) >= NAMES
    assert found.info.run_name == "digits/lenet5"
    assert [point.step for point in store.get_metric_history(found.info.run_id, "val/acc1")] == [2, 5]


@pytest.mark.parametrize(
    ("typed", "used"), [(None, "sqlite:///{}/run/mlflow.db"), ("http://box:5000", "http://box:5000")]
)
def test_where_mlflow_writes(monkeypatch, tmp_path, typed, used):
    given = {}
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    monkeypatch.setattr(remote, "MLFlowLogger", lambda **options: given.update(options))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if typed:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", typed)
    remote.mlflow_logger(str(tmp_path / "run"), experiment_name="e")
    assert given["tracking_uri"] == used.format(tmp_path)
    assert given["experiment_name"] == "e"
