"""The choices of `logger=`; Weights & Biases and MLflow against a fake module, or the package if it is installed."""

import csv
import sys
from types import ModuleType, SimpleNamespace

import hydra
import pytest

from cnnzoo import cli
from cnnzoo.errors import UserError
from cnnzoo.loggers import remote

OVERRIDES = ("model=lenet", "trainer.max_epochs=2", "trainer.limit_train_batches=3", "callbacks=minimal")
METRICS = {"train/loss", "train/acc1", "train/loss_epoch", "val/loss", "val/acc1", "val/acc5", "test/acc1", "lr"}


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
def test_logger_choices_all_include_csv(choice, loggers):
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        assert set(hydra.compose("train", overrides=[f"logger={choice}"]).logger) == loggers


@pytest.mark.parametrize(("name", "title"), [("wandb", "Weights & Biases"), ("mlflow", "MLflow")])
def test_missing_package_is_one_line_with_the_command(monkeypatch, job, name, title):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError) as error:
        job("model=lenet", f"logger={name}")
    assert str(error.value) == f'logger={name}: {title} is not installed; type pip install "cnnzoo[{name}]"'


class FakeRun:
    """A fake of W&B's run."""

    def __init__(self, package, **settings):
        self.package, self.settings, self.id, self.name = package, settings, "abc", "a run"
        self.config, self.log_calls, self.num_finished = {}, [], 0

    def log(self, values):
        self.log_calls.append(values)

    def define_metric(self, *_, **__):
        pass


@pytest.fixture
def fake_wandb(monkeypatch):
    """A module `wandb` with the functions that Lightning's logger calls; `.runs` are the runs it created."""
    package = ModuleType("wandb")
    package.runs, package.run, package.key = [], None, "a key"

    def init(**settings):
        run = FakeRun(package, **settings)
        run.config = type("Config", (dict,), {"update": lambda self, new, **_: dict.update(self, new)})()
        package.runs.append(run)
        package.run = run
        return run

    def finish():
        package.run.num_finished += 1
        package.run = None

    class UsageError(Exception):
        pass

    def api():
        if package.key is None:
            raise UsageError("No API key configured")
        return SimpleNamespace(api_key=package.key)

    package.init, package.finish, package.Api = init, finish, api
    package.errors = SimpleNamespace(UsageError=UsageError)
    modules = {"wandb.sdk": {}, "wandb.sdk.lib": {"RunDisabled": type(None)}, "wandb.wandb_run": {"Run": FakeRun}}
    for name, contents in modules.items():
        module = ModuleType(name)
        module.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.setattr("pytorch_lightning.loggers.wandb._WANDB_AVAILABLE", True)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return package


def test_wandb_gets_hyperparameters_and_metrics(fake_wandb, job, tmp_path):
    job(*OVERRIDES, "logger=wandb", "optimizer.lr=0.03")
    (run,) = fake_wandb.runs
    assert run.settings["dir"] == str(tmp_path / "run")
    assert (run.settings["project"], run.settings["name"]) == ("cnnzoo", "digits/lenet5")
    assert "anonymous" not in run.settings
    assert (run.config["optimizer.lr"], run.config["model"], run.config["seed"]) == (0.03, "lenet5", 0)
    assert set().union(*run.log_calls) >= METRICS
    assert run.num_finished == 1
    table = list(csv.DictReader((tmp_path / "run/metrics.csv").open()))
    accuracies = [values["val/acc1"] for values in run.log_calls if "val/acc1" in values]
    assert [float(row["val/acc1"]) for row in table if row["val/acc1"]] == pytest.approx(accuracies)


def test_wandb_run_of_an_earlier_job_is_finished(fake_wandb, tmp_path):
    earlier = fake_wandb.init()
    remote.wandb_logger(str(tmp_path), project="p")
    assert earlier.num_finished == 1


def test_wandb_without_login_names_the_command(fake_wandb, tmp_path, monkeypatch):
    fake_wandb.key = None
    message = r"logger=wandb: there is no W&B login on this machine; type 'wandb login', or put WANDB_MODE=offline"
    with pytest.raises(UserError, match=message):
        remote.wandb_logger(str(tmp_path), project="p")
    monkeypatch.setenv("WANDB_MODE", "offline")
    remote.wandb_logger(str(tmp_path), project="p")


def test_wandb_package_offline(shell, tmp_path):
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    process = shell(*OVERRIDES, "logger=wandb", "trainer=cpu", f"run_dir={run}", WANDB_MODE="offline")
    assert process.returncode == 0, process.stderr
    assert "WARNING" not in process.stdout + process.stderr
    assert "\x1b" not in process.stdout + process.stderr
    (log,) = run.glob("wandb/offline-run-*/*.wandb")
    assert all(name.encode() in log.read_bytes() for name in (*METRICS, "optimizer.weight_decay"))


def test_mlflow_package(shell, tmp_path, monkeypatch):
    client = pytest.importorskip("mlflow").MlflowClient
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = tmp_path / "run"
    process = shell(*OVERRIDES, "logger=mlflow", "trainer=cpu", f"run_dir={run}")
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    store = client(f"sqlite:///{run / 'mlflow.db'}")
    (mlflow_run,) = store.search_runs([store.get_experiment_by_name("cnnzoo").experiment_id])
    assert mlflow_run.data.params["optimizer.lr"] == "0.1"
    assert set(mlflow_run.data.metrics) >= METRICS
    assert mlflow_run.info.run_name == "digits/lenet5"
    assert [point.step for point in store.get_metric_history(mlflow_run.info.run_id, "val/acc1")] == [2, 5]


@pytest.mark.parametrize(
    ("variable", "expected"), [(None, "sqlite:///{}/run/mlflow.db"), ("http://box:5000", "http://box:5000")]
)
def test_mlflow_tracking_uri(monkeypatch, tmp_path, variable, expected):
    arguments = {}
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    monkeypatch.setattr(remote, "MLFlowLogger", lambda **options: arguments.update(options))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if variable:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    remote.mlflow_logger(str(tmp_path / "run"), experiment_name="e")
    assert arguments["tracking_uri"] == expected.format(tmp_path)
    assert arguments["experiment_name"] == "e"
