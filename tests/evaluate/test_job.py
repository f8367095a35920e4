"""`evaluate.py`: a run's figures, several runs with their ensemble, other images, and what it refuses."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser

import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from cnnzoo import cli
from cnnzoo.cli.overrides import quote_path
from cnnzoo.data import Digits
from cnnzoo.errors import UserError
from cnnzoo.evaluate import files
from cnnzoo.jobs import evaluate as evaluate_job
from cnnzoo.jobs import train

SHORT = ("model=lenet", "trainer=cpu", "trainer.max_epochs=2", "trainer.limit_train_batches=4", "callbacks=minimal")


def compose(job, overrides):
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        return hydra.compose(job, overrides=list(overrides))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The current directory, with runs/a and runs/b (LeNet-5 on the digits) and runs/c (on synthetic images)."""
    path = tmp_path_factory.mktemp("evaluate")
    runs = {"a": (), "b": ("seed=1", "test_time_flip=true"), "c": ("data=synthetic", "data.source.images=200")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setattr(cli, "was_typed", lambda key: False)
        for name, overrides in runs.items():
            overrides = (*SHORT, *overrides, f"run_dir=runs/{name}")
            cfg = compose("train", overrides)
            (path / "runs" / name / ".hydra").mkdir(parents=True)
            OmegaConf.save(cfg, path / "runs" / name / ".hydra/config.yaml")
            OmegaConf.save(list(overrides), path / "runs" / name / ".hydra/overrides.yaml")
            train.main(cfg)
        yield path


@pytest.fixture(scope="module")
def evaluate(directory):
    """`evaluate("run=runs/a", ..., out="x")` runs the job, and returns evaluation.json."""

    def run(*overrides, out):
        cfg = compose("evaluate", [quote_path(override) for override in (*overrides, f"out={out}")])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cli, "typed_keys", lambda: [override.partition("=")[0] for override in overrides])
            if "report=true" not in overrides:
                patch.setattr(files, "save_reliability_plot", lambda *arguments: None)  # takes longer than the rest
            evaluate_job.main(cfg)
        return json.loads((directory / out / "evaluation.json").read_text())

    return run


@pytest.fixture(scope="module")
def several(evaluate):
    """All three runs, with a report."""
    return evaluate("run=runs/**", "report=true", out="several")


@pytest.mark.parametrize("split", ["test", "val"])
def test_figures_equal_those_of_the_training_exactly(evaluate, directory, split):
    for run in ("a", "b"):
        summary = evaluate(f"run=runs/{run}", f"split={split}", out=f"{run}_{split}")
        metrics = json.loads((directory / "runs" / run / "metrics.json").read_text())
        expected = {name: metrics[f"{split}/{name}"] for name in ("loss", "acc1", "acc5", "balanced_acc", "f1")}
        (member,) = summary["members"]
        assert {name: member[name] for name in expected} == expected
        assert member["test_time_flip"] == (run == "b")


def test_files_have_every_image_and_class(several, directory):
    folder = directory / "several/1_lenet5"
    predictions, per_class, confusion = (
        list(csv.DictReader((folder / f"{name}.csv").open())) for name in ("predictions", "per_class", "confusion")
    )
    labels = Digits().split("test").labels
    assert [int(row["label"]) for row in predictions] == labels.tolist()
    assert [row["index"] for row in predictions] == [str(n) for n in range(360)]
    assert [int(row["images"]) for row in per_class] == np.bincount(labels).tolist()
    correct = sum(row["label"] == row["predicted"] for row in predictions)
    assert correct == sum(int(row["images"]) for row in confusion if row["true"] == row["predicted"])
    assert correct / 360 == pytest.approx(several["members"][0]["acc1"])
    for name in ("confusion", "reliability"):
        assert Image.open(folder / f"{name}.png").width > 300


def test_ensemble_is_of_the_runs_with_the_same_images(several, directory):
    (ensemble,) = several["ensembles"]
    assert ensemble["members"] == [0, 1]
    accuracies = [several["members"][n]["acc1"] for n in (0, 1)]
    assert ensemble["mean_member"]["acc1"] == pytest.approx(sum(accuracies) / 2)
    assert several["members"][2]["data"] == "synthetic"
    assert (directory / "several/ensemble_of_1_to_2/predictions.csv").is_file()


class Page(HTMLParser):
    """The tags with their attributes, and the text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_report_is_one_file_without_scripts(several, directory):
    html = (directory / "several/report.html").read_text()
    page = Page(html)
    names = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe", "object"} & set(names)
    assert names.count("svg") == 3 + 2 + 4  # curves, accuracy by size, reliability
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == 4
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in html
    assert "$" not in html
    for text in ("3 networks on digits (test split), synthetic (test split)", "61.7k", "ensemble of 1, 2", "runs/b"):
        assert text in page.text


def test_output_has_figures_notes_and_tables(evaluate, capsys, caplog, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    caplog.set_level("INFO")
    evaluate("run=runs/[ac]", out="two")
    assert re.search(r"^lenet5 +runs/a +360( +\d\.\d{4}){6} +[\d,]+ *$", capsys.readouterr().out, re.MULTILINE)
    assert "the same test images: runs/a (digits), runs/c (synthetic)" in caplog.text
    evaluate("run=runs/a", out="one")
    assert re.search(r"^7( +\d\.\d{4}){3} +36 *$", capsys.readouterr().out, re.MULTILINE)
    for text in (
        "lenet5, 61,706 parameters, 417k multiply-accumulates",
        "digits: test split, 360 images of 10 classes",
    ):
        assert text in caplog.text


def test_model_with_weights_and_data_equals_the_run(evaluate, several):
    overrides = ("model=lenet", "model.weights=runs/a/checkpoints/best.ckpt", "data=digits", "trainer=cpu")
    (member,) = evaluate(*overrides, out="weights")["members"]
    assert member["loss"] == several["members"][0]["loss"]
    assert member["label"] == "lenet5 with runs/a/checkpoints/best.ckpt"


def test_folder_without_splits_is_evaluated_completely(evaluate, directory, several):
    pixels, labels = Digits().split("test").pixels, Digits().split("test").labels
    for n in range(60):
        path = directory / f"more/{labels[n]}/{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[n, ..., 0]).save(path)
    (member,) = evaluate("run=runs/a", "data=folder", "data.root=more", out="folder")["members"]
    assert (member["data"], member["split"], member["images"]) == ("folder", "all", 60)
    rows = list(csv.DictReader((directory / "folder/predictions.csv").open()))
    expected = list(csv.DictReader((directory / "several/1_lenet5/predictions.csv").open()))
    assert {row["path"].rpartition("/")[2]: row["predicted"] for row in rows} == {
        f"{n}.png": expected[n]["predicted"] for n in range(60)
    }


def test_typed_settings_replace_those_of_the_run(evaluate):
    summary = evaluate(
        "run=runs/b", "data.batch_size=50", "test_time_flip=false", "trainer.precision=64-true", out="typed"
    )
    (member,) = summary["members"]
    assert (member["batch_size"], member["test_time_flip"], member["precision"]) == (50, False, "64-true")


def test_out_with_files_is_refused(evaluate, directory, several):
    before = sorted((directory / "several").rglob("*"))
    with pytest.raises(UserError, match="out=several: has files already; type a new directory"):
        evaluate("run=runs/a", out="several")
    assert sorted((directory / "several").rglob("*")) == before


def test_mistake_leaves_no_directory(evaluate, directory):
    with pytest.raises(UserError, match=r"class0, class1, class2, \.\.\.\); the network's 10 are 0, 1, 2, \.\.\."):
        evaluate("run=runs/a", "data=synthetic", out="new/deep")
    assert not (directory / "new").exists()


def test_images_of_the_training_need_a_split(evaluate, directory):
    shutil.copytree(directory / "runs/a", directory / "trained")
    config = directory / "trained/.hydra/config.yaml"
    cfg = OmegaConf.load(config)
    cfg.data.root = str(directory / "numbers")
    OmegaConf.save(cfg, config)
    for n in range(10):
        for name in "0123":
            Image.new("L", (8, 8)).save(_created(directory / "numbers" / str(n)) / f"{name}.png")
    with pytest.raises(UserError, match="was trained on these images"):
        evaluate("run=trained", "data=folder", "data.root=numbers", out="trained_on")
    (member,) = evaluate("run=trained", "data=folder", "data.root=numbers", "split=all", out="asked")["members"]
    assert member["images"] == 40


def _created(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_run_that_cannot_be_evaluated_is_left_out(evaluate, caplog):
    summary = evaluate("run=runs/*", "data=digits", out="left_out")
    assert [member["label"] for member in summary["members"]] == ["runs/a", "runs/b"]
    assert "runs/c is left out: data=digits: it has 10 of 10 classes" in caplog.text
    with pytest.raises(UserError, match="data=synthetic: it has 10 of 10 classes"):
        evaluate("run=runs/[ab]", "data=synthetic", out="refused")


def test_foreign_code_in_a_run_is_not_executed(evaluate, directory):
    shutil.copytree(directory / "runs/a", directory / "foreign")
    config = directory / "foreign/.hydra/config.yaml"
    config.write_text(config.read_text().replace("cnnzoo.data.Digits", "os.system"))
    with pytest.raises(UserError, match=r"its data uses os\.system, which is not one of cnnzoo's data sets"):
        evaluate("run=foreign", out="refused")


def test_checkpoint_of_another_version_is_refused(evaluate, directory):
    path = shutil.copytree(directory / "runs/a", directory / "old") / "checkpoints/best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["cnnzoo"]["model"]["unheard_of"] = 1
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match="unheard_of"):
        evaluate("run=old", out="refused")


@pytest.mark.long
def test_ensemble_of_three_runs_beats_its_mean_member(fork, tmp_path):
    for seed in range(3):
        overrides = ("model=lenet", "trainer=cpu", "trainer.max_epochs=6", f"seed={seed}", f"run_dir=runs/{seed}")
        assert fork(*overrides, cwd=tmp_path).returncode == 0
    assert fork("run=runs/**", "out=out", job="evaluate", cwd=tmp_path).returncode == 0
    (ensemble,) = json.loads((tmp_path / "out/evaluation.json").read_text())["ensembles"]
    assert len(ensemble["members"]) == 3
    assert ensemble["acc1"] > ensemble["mean_member"]["acc1"]
    assert ensemble["loss"] < ensemble["mean_member"]["loss"]
