"""`task=multilabel` from the training to predictions: metrics, thresholds, evaluate and predict."""

import csv
import json
import re

import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score

import cnnzoo
from cnnzoo import cli
from cnnzoo.data import Digits, DigitsMultilabel
from cnnzoo.data.datamodule import DataModule
from cnnzoo.errors import UserError
from cnnzoo.evaluate.evaluation import Ensemble, evaluate
from cnnzoo.evaluate.files import write_evaluation
from cnnzoo.export.card import load_code
from cnnzoo.inference.weights_file import save_safetensors
from cnnzoo.jobs import train
from cnnzoo.predict.output import JsonLines, MultilabelCsv, MultilabelTable
from cnnzoo.training.multilabel_classifier import MultilabelClassifier
from tests.helpers.run_files import metrics_rows, tensorboard_events

TASK = ("data=digits_multilabel", "task=multilabel", "model=lenet", "trainer=cpu", "callbacks.progress=null")
CLASSES = ("even", "prime", "greater_than_4")


def train_run(run_dir, *overrides):
    """Run `train.py` in this process; returns what `main` returns."""
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        cfg = hydra.compose("train", overrides=[*TASK, *overrides, f"run_dir={run_dir}"])
    (run_dir / ".hydra").mkdir(parents=True)
    OmegaConf.save(cfg, run_dir / ".hydra/config.yaml")
    OmegaConf.save([*TASK, *overrides], run_dir / ".hydra/overrides.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "was_typed", lambda key: True)
        return train.main(cfg)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three epochs of LeNet-5 on the digits: (what `main` returns, the run directory)."""
    run_dir = tmp_path_factory.mktemp("multilabel") / "run"
    settings = ("trainer.max_epochs=3", "mixup=0.2", "ema=0.9", "class_weights=balanced", "label_smoothing=0.1")
    return train_run(run_dir, *settings), run_dir


@pytest.fixture(scope="module")
def net(run):
    return cnnzoo.load_run(run[1])


@pytest.fixture(scope="module")
def results(net):
    """The evaluation of the run's network on the test split and on the val split."""
    data = DataModule(DigitsMultilabel)
    return {split: evaluate(net, data, split=split) for split in ("test", "val")}


def test_metrics_have_map_and_f1(run):
    value, run_dir = run
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert {name for name in metrics if name.startswith("test/")} == {
        "test/loss",
        "test/map",
        "test/f1",
        "test/per_class",
    }
    assert value == metrics["val/map"]
    assert not any("acc" in name for name in metrics)
    rows = metrics["val/per_class"]
    assert tuple(rows) == CLASSES
    assert np.mean([row["ap"] for row in rows.values()]) == pytest.approx(metrics["val/map"], abs=1e-6)
    assert np.mean([row["f1"] for row in rows.values()]) == pytest.approx(metrics["val/f1"], abs=1e-6)
    columns = set(metrics_rows(run_dir)[0])
    assert {"val/map", "val/f1", "test/map", "train/loss", "train/loss_epoch"} <= columns
    assert not any("acc" in name for name in columns)


def test_tensorboard_has_the_classes(run):
    events = tensorboard_events(run[1])
    assert all(f"val_class/{name}" in events for name in CLASSES)
    assert {"val/map", "val/f1", "image train/first_batch", "tensor val/classes/text_summary"} <= events.keys()
    assert not any("confusion" in tag or "mistakes" in tag for tag in events)


def test_best_checkpoint_keeps_its_thresholds(run, net):
    saved = torch.load(run[1] / "checkpoints/best.ckpt", weights_only=True)["cnnzoo"]
    assert net.thresholds == tuple(saved["thresholds"]) == tuple(saved["val_scores"]["thresholds"])
    assert net.classes == CLASSES
    report = json.loads((run[1] / "metrics.json").read_text())
    for stage in ("val", "test"):
        assert [row["threshold"] for row in report[f"{stage}/per_class"].values()] == list(net.thresholds)


@pytest.mark.parametrize("split", ["test", "val"])
def test_evaluate_equals_the_training_and_scikit_learn(run, net, results, split):
    metrics = json.loads((run[1] / "metrics.json").read_text())
    result = results[split]
    assert result.metrics == {name: metrics[f"{split}/{name}"] for name in ("loss", "map", "f1")}
    assert result.images == len(DigitsMultilabel().split(split))
    predictions = result.predictions
    probabilities = predictions.logits.sigmoid()
    assert result.metrics["map"] == pytest.approx(average_precision_score(predictions.labels, probabilities), abs=1e-6)
    predicted = probabilities >= torch.tensor(net.thresholds)
    assert torch.equal(predictions.predicted, predicted)
    assert result.metrics["f1"] == pytest.approx(f1_score(predictions.labels, predicted, average="macro"))


def test_evaluation_files_have_every_image_and_class(results, tmp_path):
    write_evaluation(tmp_path, results["test"], "lenet5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["per_class.csv", "predictions.csv"]
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    labels = DigitsMultilabel().split("test").labels
    assert [row["labels"] for row in rows] == [
        ";".join(name for name, value in zip(CLASSES, row, strict=True) if value) for row in labels.tolist()
    ]
    per_class = list(csv.DictReader((tmp_path / "per_class.csv").open()))
    assert [row["class"] for row in per_class] == list(CLASSES)
    assert [int(row["images"]) for row in per_class] == labels.sum(axis=0).tolist()


def test_ensemble_averages_probabilities_and_thresholds(results):
    ensemble = Ensemble()
    for _ in range(2):
        ensemble.add(results["test"])
    result = ensemble.evaluation()
    assert result.metrics["map"] == pytest.approx(results["test"].metrics["map"], abs=1e-5)
    assert result.metrics["f1"] == pytest.approx(results["test"].metrics["f1"], abs=1e-2)
    assert result.scores.thresholds == pytest.approx(results["test"].scores.thresholds)


def test_evaluate_other_kind_of_labels_is_an_error(net):
    data = DataModule(Digits)
    data.classes = CLASSES
    with pytest.raises(
        UserError, match="data=digits: one label for each image, but the network is for task=multilabel"
    ):
        evaluate(net, data)
    single = cnnzoo.create_model("lenet5", num_classes=3)
    with pytest.raises(UserError, match="data=digits_multilabel: any number of labels for each image, but the network"):
        evaluate(single, DataModule(DigitsMultilabel))


def test_predict_gives_the_classes_above_their_thresholds(net, tmp_path):
    digits, paths = Digits().split("test"), []
    for number in range(5):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(digits.pixels[number, ..., 0]).save(paths[-1])
    (tmp_path / "bad.png").write_text("no image")
    predictions = list(cnnzoo.predict_images(net, [*paths, str(tmp_path / "bad.png")]))
    for path, prediction in zip(paths, predictions, strict=False):
        with torch.no_grad():
            probabilities = net(net.preprocess(path)[None])[0].sigmoid()
        expected = {
            name
            for name, value, threshold in zip(CLASSES, probabilities.tolist(), net.thresholds, strict=True)
            if value >= threshold
        }
        assert set(prediction.classes) == expected
        assert list(prediction.probabilities) == sorted(prediction.probabilities, reverse=True)
    rows = list(csv.DictReader((MultilabelCsv().header + MultilabelCsv().rows(predictions)).splitlines()))
    assert [row["classes"] for row in rows] == [";".join(prediction.classes) for prediction in predictions]
    assert rows[-1]["error"]
    lines = MultilabelTable(paths).rows(predictions).splitlines()
    shown = ", ".join(predictions[0].classes) or "none"
    assert re.sub(r" \d+\.\d%", "", lines[0]) == f"{paths[0]}  {shown}"
    assert "cannot be read" in lines[-1]
    names = [entry["class"] for entry in json.loads(JsonLines().rows(predictions[:1]))["predictions"]]
    assert names == list(predictions[0].classes)


def test_safetensors_file_keeps_the_thresholds(net, tmp_path, capsys):
    save_safetensors(net, tmp_path / "net.safetensors")
    assert cnnzoo.load_run(tmp_path / "net.safetensors").thresholds == net.thresholds
    again = cnnzoo.create_model("lenet5", weights=tmp_path / "net.safetensors")
    assert again.thresholds == net.thresholds
    again.reset_classifier(5)
    assert not hasattr(again, "thresholds")
    image = tmp_path / "image.png"
    Image.fromarray(Digits().split("test").pixels[0, ..., 0]).save(image)
    code = load_code("user/repo", is_multilabel=True).replace("hf://user/repo", str(tmp_path / "net.safetensors"))
    exec(code.replace("image.jpg", str(image)))
    (prediction,) = cnnzoo.predict_images(net, [image])
    assert set(prediction.classes) == set(eval(capsys.readouterr().out))


def test_multilabel_classifier_keeps_thresholds_outside_of_a_training(net):
    trainer_free = MultilabelClassifier(net, num_classes=3, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1))
    assert trainer_free.thresholds == [0.5, 0.5, 0.5]
    trainer_free.restore_validation({"thresholds": [0.1, 0.2, 0.3], "val_scores": None})
    assert trainer_free.thresholds == [0.1, 0.2, 0.3]
    assert trainer_free.class_reports(CLASSES) == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data=digits",), "task=multilabel: data=digits has one label for each image"),
        (("task=multiclass",), "task=multiclass: data=digits_multilabel has any number of labels for each image"),
        (
            ("optimized_metric=val/acc1",),
            "optimized_metric=val/acc1: expected val/map, val/f1 or val/loss .val/acc1 is of",
        ),
        (("data.balance=true",), "data.balance=true: an image of a multi-label set may belong to several classes"),
        (("class_weights=[1,2]",), "class_weights=.1.0, 2.0.: 2 numbers, but the data has 3 classes"),
    ],
)
def test_settings_that_do_not_fit_are_errors(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        train_run(tmp_path / "run", "trainer.max_epochs=1", *overrides)


@pytest.mark.long
def test_digits_reach_a_mean_average_precision_of_97_percent(tmp_path):
    train_run(tmp_path / "run", "trainer.max_epochs=12", "callbacks=minimal", "logger=none")
    assert json.loads((tmp_path / "run/metrics.json").read_text())["test/map"] >= 0.97
