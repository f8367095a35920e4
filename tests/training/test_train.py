"""`train.py` from start to end: the run directory, the output, and the errors."""

import csv
import json
import math
import re

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_ndarray

import cnnzoo
from cnnzoo.data import Digits
from cnnzoo.errors import UserError


@pytest.fixture(scope="module")
def lenet_run(shell, tmp_path_factory):
    """Two epochs of LeNet-5 on the digits, in a process of its own: (process, run directory)."""
    directory = tmp_path_factory.mktemp("lenet")
    process = shell("model=lenet", "trainer.max_epochs=2", "run_dir=a run", cwd=directory, OMP_NUM_THREADS="1")
    assert process.returncode == 0, process.stderr
    return process, directory / "a run"


def test_output_has_the_settings_and_the_results(lenet_run):
    process, _ = lenet_run
    assert re.search(r"^model +lenet5 .*61,706 parameters", process.stdout, re.MULTILINE)
    assert re.search(r"^data +digits: 10 classes, 1,293 train, 144 val, 360 test images", process.stdout, re.MULTILINE)
    assert re.search(r"^input +32 x 32 pixels, 1 channel", process.stdout, re.MULTILINE)
    assert "image size 16 -> 32: lenet5 takes exactly 32 pixels" in process.stdout
    assert re.search(r"^epoch +loss .*val loss .*images/s", process.stdout, re.MULTILINE)
    assert re.search(r"^ +2/2 +\d\.\d{4} .*\ds", process.stdout, re.MULTILINE)
    assert re.search(r"^test +acc1 0\.\d{4}", process.stdout, re.MULTILINE)
    assert "model.weights=a run/checkpoints/best.ckpt" in process.stdout
    assert "Warning" not in process.stdout + process.stderr


def test_run_directory_has_all_files(lenet_run):
    _, run = lenet_run
    for name in (
        "metrics.json",
        "metrics.csv",
        "environment.json",
        "train.log",
        ".hydra/config.yaml",
        ".hydra/overrides.yaml",
    ):
        assert (run / name).is_file(), name
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert list(run.glob("events.out.tfevents.*"))
    assert yaml.safe_load((run / ".hydra/overrides.yaml").read_text())[:2] == ["model=lenet", "trainer.max_epochs=2"]


def test_metrics_json_has_the_final_metrics(lenet_run):
    _, run = lenet_run
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["parameters"] == 61706
    assert metrics["epochs"] == 2
    assert metrics["best_epoch"] in (1, 2)
    for stage in ("train", "val", "test"):
        assert 0 <= metrics[f"{stage}/acc1"] <= 1
        assert metrics[f"{stage}/loss"] > 0
    assert metrics["test/acc1"] <= metrics["test/acc5"] <= 1
    assert metrics["perf/images_per_second"] > 0
    assert 0 <= metrics["perf/data_wait"] <= 1


def test_metrics_csv_has_every_epoch(lenet_run):
    _, run = lenet_run
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    validated = [row for row in rows if row["val/acc1"]]
    assert [int(row["epoch"]) for row in validated] == [0, 1]
    parameters = yaml.safe_load((run / "hparams.yaml").read_text())
    assert (parameters["optimizer.lr"], parameters["loader"]) == (0.1, "torch")


def test_short_training_logs_its_last_step(job, tmp_path):
    job("model=lenet", "data.batch_size=300", "trainer.max_epochs=1")  # four steps
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").open()))
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [3]


def test_seed_determines_the_metrics(lenet_run, fork, tmp_path):
    def final_metrics(run):
        metrics = json.loads((run / "metrics.json").read_text())
        return {name: value for name, value in metrics.items() if not name.startswith(("seconds", "perf/"))}

    overrides = ("model=lenet", "trainer.max_epochs=2")
    for name, seed in (("again", "seed=0"), ("other", "seed=1")):
        assert fork(*overrides, seed, f"run_dir={tmp_path / name}").returncode == 0
    assert final_metrics(tmp_path / "again") == final_metrics(lenet_run[1])
    assert final_metrics(tmp_path / "other") != final_metrics(lenet_run[1])


def test_tensorboard_has_scalars_images_graph_and_text(lenet_run):
    _, run = lenet_run
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()
    tags = events.Tags()
    scalars = {"train/loss", "train/acc1", "val/loss", "val/acc1", "val/acc5", "test/loss", "test/acc1", "test/acc5"}
    assert scalars | {"lr", "perf/images_per_second", "perf/data_wait"} <= set(tags["scalars"])
    for name in ("train/loss", "norm/gradient", "norm/weight"):
        assert [event.step for event in events.Scalars(name)] == [9, 19, 29, 39]
    for name in ("val/acc1", "val_class/7"):
        assert [event.step for event in events.Scalars(name)] == [19, 39]
    (image,) = events.Images("train/first_batch")
    assert (image.width, image.height) == (5 * 70, 5 * (70 + 14))
    image_steps = {"val/confusion_matrix": [19, 39], "val/mistakes": [19, 39], "test/confusion_matrix": [40]}
    for name, steps in {**image_steps, "test/mistakes": [40], "net/filters": [0, 39]}.items():
        assert [event.step for event in events.Images(name)][-2:] == steps, name
    assert tags["graph"]
    for name, content in (("config", b"max_epochs: 2"), ("layers", b"61,706 parameters")):
        (text,) = events.Tensors(f"{name}/text_summary")
        assert content in text.tensor_proto.string_val[0]
    assert "custom_scalars__config__" in tags["tensors"]


def test_tensorboard_confusion_matrix_is_of_best_checkpoint(lenet_run):
    _, run = lenet_run
    net = cnnzoo.load_run(run)
    test = Digits(split_seed=0).split("test")
    with torch.no_grad():
        predictions = net(torch.stack([net.preprocess(image) for image in test.pixels])).argmax(1)
    counts = torch.zeros(10, 10, dtype=torch.int64)
    for true, predicted in zip(test.labels.tolist(), predictions.tolist(), strict=True):
        counts[true, predicted] += 1
    (confusion,) = EventAccumulator(str(run), size_guidance={"tensors": 0}).Reload().Tensors("test/confusion")
    assert make_ndarray(confusion.tensor_proto).tolist() == counts.tolist()
    with (run / "confusion_test.csv").open() as file:
        rows = {(row["true"], row["predicted"]): int(row["images"]) for row in csv.DictReader(file)}
    assert rows == {(str(t), str(p)): n for t, row in enumerate(counts.tolist()) for p, n in enumerate(row) if n}


def test_tensorboard_hparams_have_overrides_and_results(lenet_run):
    _, run = lenet_run
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    content = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    infos = HParamsPluginData.FromString(content).experiment.hparam_infos
    assert {info.name for info in infos if info.differs} == {"model", "epochs"}
    start = HParamsPluginData.FromString(events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
    assert start.session_start_info.hparams["epochs"].number_value == 2
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("test/acc1", "val/acc1", "train/loss", "perf/images_per_second"):
        assert [event.value for event in events.Scalars(f"result/{name}")] == [pytest.approx(metrics[name])]


def test_hparams_yaml_has_the_overrides(job, tmp_path):
    job("model=lenet", "augment=none", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "augment.mean=[0.5]")
    parameters = yaml.safe_load((tmp_path / "run/hparams.yaml").read_text())
    assert (parameters["trainer.limit_train_batches"], parameters["augment.mean"]) == (2, "[0.5]")
    assert (parameters["model"], parameters["augment"], parameters["epochs"]) == ("lenet5", "center", 1)
    assert "run_dir" not in parameters


def test_load_run_gives_the_tested_network(lenet_run):
    _, run = lenet_run
    metadata = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["cnnzoo"]
    assert metadata["model"] == {"name": "lenet5", "num_classes": 10, "in_channels": 1}
    assert metadata["classes"] == [str(digit) for digit in range(10)]
    assert metadata["preprocess"]["image_size"] == 32

    net = cnnzoo.load_run(run)
    assert not net.training
    assert net.classes == tuple(metadata["classes"])
    test = Digits(split_seed=0).split("test")
    with torch.no_grad():
        logits = net(torch.stack([net.preprocess(image) for image in test.pixels]))
    accuracy = (logits.argmax(1) == torch.from_numpy(test.labels)).float().mean().item()
    assert accuracy == pytest.approx(json.loads((run / "metrics.json").read_text())["test/acc1"], abs=1e-6)


def test_load_run_without_a_usable_checkpoint_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"has no checkpoints/best.ckpt"):
        cnnzoo.load_run(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best.ckpt").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"best.ckpt is damaged .*: take last.ckpt"):
        cnnzoo.load_run(tmp_path)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "checkpoints/best.ckpt")
    with pytest.raises(UserError, match=r"best.ckpt is not a checkpoint of cnnzoo"):
        cnnzoo.load_run(tmp_path)


def test_model_weights_takes_a_checkpoint(lenet_run, job):
    _, run = lenet_run
    overrides = ("model=lenet", "trainer.max_epochs=1", "optimizer.lr=0", f"model.weights={run}/checkpoints/best.ckpt")
    assert job(*overrides) == pytest.approx(json.loads((run / "metrics.json").read_text())["val/acc1"])


def test_folder_name_with_special_characters_trains(flowers, job):
    accuracy = job("model=lenet", "data=folder", f"data.root={flowers}", "data.batch_size=8", "trainer.max_epochs=4")
    assert accuracy == 1.0


def test_progressive_size_is_logged(job, caplog):
    caplog.set_level("INFO")
    options = ("trainer.max_epochs=2", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1", "test=false")
    job("model=resnet", "model.name=resnet20", "data.start_size=8", *options)
    assert any("16 x 16 pixels (from 8 in the first epochs), 1 channel" in message for message in caplog.messages)
    assert [message for message in caplog.messages if message.startswith("training images")] == [
        "training images: 16 x 16 pixels from epoch 2 on"
    ]


def test_small_folder_lowers_the_batch_size(flowers, job, tmp_path, caplog):
    caplog.set_level("INFO")
    job("model=lenet", "data=folder", f"data.root={flowers}", "trainer.max_epochs=1", "test=true", "trainer.devices=1")
    assert "batch size 64 -> 8: the data has 57 training images" in caplog.messages
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert "val/acc1" in metrics
    assert "test/acc1" in metrics
    assert not [name for name in metrics if "acc5" in name]  # two classes


def test_typed_batch_size_is_not_lowered(flowers, job):
    with pytest.raises(UserError, match=r"data.batch_size=64: more than the 57 training images; type data.batch_size="):
        job("model=lenet", "data=folder", f"data.root={flowers}", "data.batch_size=64")


def test_run_without_validation_tests_the_last_epoch(job, tmp_path, caplog):
    caplog.set_level("INFO")
    overrides = ("trainer.max_epochs=-1", "trainer.max_steps=2", "trainer.limit_val_batches=0")
    assert math.isnan(job("model=lenet", *overrides))
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert "test/acc1" in metrics
    assert not [name for name in metrics if name.startswith("val/")]
    assert "validation     none: there is no best epoch, so the last one counts" in caplog.messages
    assert cnnzoo.load_run(tmp_path / "run", checkpoint="last").classes
    with pytest.raises(UserError, match=r"has no checkpoints/best.ckpt: type checkpoint='last'"):
        cnnzoo.load_run(tmp_path / "run")


@pytest.mark.parametrize("precision", ["64", "bf16-true"])
def test_every_weight_has_the_precision_of_the_run(precision, job, caplog):
    caplog.set_level("INFO")
    limits = [f"trainer.limit_{split}_batches=1" for split in ("train", "val", "test")]
    assert 0 <= job("model=lenet", "trainer.max_epochs=1", f"trainer.precision={precision}", *limits) <= 1
    assert "TensorBoard shows no graph" not in caplog.text


def test_multirun_continues_after_a_failed_job(fork, tmp_path):
    overrides = (
        "-m",
        "model=lenet,nosuch",
        "data.batch_size=64,5000",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=2",
    )
    process = fork(*overrides, f"run_dir={tmp_path}")
    assert process.returncode == 1
    assert "unknown model 'nosuch'" in process.stderr
    assert "data.batch_size=5000: more than the 1293 training images" in process.stdout
    assert "2 jobs of this multirun failed" in process.stderr
    assert "Traceback" not in process.stdout + process.stderr
    assert [path.parent.name for path in tmp_path.glob("*/metrics.json")] == ["0_lenet5"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.name=resnet19"], "unknown model 'resnet19': did you mean resnet1"),
        (["model.name=vgg11"], "model.name=vgg11: type model=vgg model.name=vgg11"),
        (["data=folder"], "data=folder: expected data.root="),
        (["data=folder", "data.root=/no/such/place"], "/no/such/place"),
        (["data.root=/tmp"], "data=digits reads no files"),
        (
            ["model=alexnet", "data.image_size=10"],
            "data.image_size=10: alexnet with the small stem takes 29 or more pixels",
        ),
        (["model=lenet", "data.image_size=64"], "data.image_size=64: lenet5 takes exactly 32 pixels"),
        (["model.num_classes=7"], "model.num_classes=7: data.name=digits has 10 classes"),
        (["data.channels=2"], "data.channels=2"),
        (["data.batch_size=0"], "data.batch_size=0"),
        (["data.batch_size=many"], "data.batch_size=many"),
        (["data.batch_size=5000"], "data.batch_size="),
        (["loader.workers=-1"], "loader.workers=-1"),
        (["optimizer.lr=fast"], "optimizer.lr=fast"),
        (["+optimizer.speed=1"], "optimizer.speed=1: SGD has no such argument; expected lr, "),
        (["+model.args.groth=1"], "groth"),
        (["+data.rot=x"], "data: "),
        (
            ["scheduler.warmup_epochs=99"],
            "scheduler.warmup_epochs=99: expected a number >= 0 and <= 10 (the training has 10 epochs)",
        ),
        (["trainer.limit_train_batches=0.001"], "trainer.limit_train_batches=0.001: less than one of the 20 batches"),
        (["trainer.val_check_interval=21"], "trainer.val_check_interval=21: an epoch has 20 batches"),
        (["trainer.limit_val_batches=0.001"], "trainer: You requested to check 0.001 of the `val_dataloader`"),
        (
            ["data=synthetic", "data.source.classes=5", "optimized_metric=val/acc5"],
            "optimized_metric=val/acc5: synthetic has 5 classes, so the top-5 accuracy is always 1; type optimized_m",
        ),
        (["model.weights=/no/such.ckpt"], "/no/such.ckpt"),
        (["augment.crop=middle"], "augment.crop=middle"),
    ],
)
def test_bad_value_is_one_line(overrides, message, job):
    with pytest.raises(UserError) as error:
        job(*overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_value_in_the_shell_exits_with_1(shell, tmp_path):
    overrides = ("model.name=resnet19", f"run_dir={tmp_path / 'run'}")
    process = shell(*overrides)
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr == "error: unknown model 'resnet19': did you mean resnet18, resnet152, resnet110?\n"
    assert "Traceback" in shell(*overrides, HYDRA_FULL_ERROR="1").stderr


def test_finished_run_is_not_overwritten(lenet_run, fork):
    _, run = lenet_run
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    process = fork("model=lenet", f"run_dir={run}")
    assert process.returncode == 1
    assert "already holds a finished run" in process.stderr
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_debug_fast_writes_metrics(job, tmp_path):
    assert not math.isnan(job("model=lenet", "debug=fast"))
    assert json.loads((tmp_path / "run/metrics.json").read_text())["epochs"] >= 0


@pytest.mark.parametrize("max_epochs", ["null", "3"])
def test_max_steps_ends_the_run(job, tmp_path, max_epochs):
    job(
        *("model=lenet", "trainer.limit_train_batches=2", "trainer.max_steps=4", f"trainer.max_epochs={max_epochs}"),
        *("callbacks=default", "test=false"),
    )
    assert json.loads((tmp_path / "run/metrics.json").read_text())["epochs"] == 2
