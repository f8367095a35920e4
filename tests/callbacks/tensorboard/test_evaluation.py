"""Tests of `Evaluation`: confusion matrix, class accuracies and mistakes, against counts by hand."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from cnnzoo.callbacks import Evaluation
from cnnzoo.callbacks.tensorboard.evaluation import MAX_MATRIX_CLASSES, MAX_TABLE_ROWS, Predictions
from cnnzoo.errors import UserError
from tests.helpers.ranks import run_ranks


class PixelsAsLogits(pl.LightningModule):
    """A model whose logits are the pixels of the image."""

    def validation_step(self, batch, batch_idx):
        return batch[0].flatten(1)

    def test_step(self, batch, batch_idx):
        return batch[0].flatten(1)

    def training_step(self, batch, batch_idx):
        return self.weight.sum()

    def configure_optimizers(self):
        self.weight = torch.nn.Parameter(torch.zeros(1))
        return torch.optim.SGD([self.weight], 0.1)


class FakeData(pl.LightningDataModule):
    """Images of 1 x 1 x C pixels that are 0, except 9 times `confidence` at the class to predict."""

    resolved_mean, resolved_std = (0.0,), (1.0,)

    def __init__(self, labels, predicted, confidence, classes):
        super().__init__()
        self.labels, self.classes = torch.tensor(labels), tuple(classes)
        self.num_classes = len(classes)
        self.images = torch.zeros(len(labels), 1, 1, self.num_classes)
        self.images[range(len(labels)), 0, 0, predicted] = 9 * torch.tensor(confidence)

    def _make_loader(self):
        return torch.utils.data.DataLoader(list(zip(self.images, self.labels, strict=True)), batch_size=4)

    train_dataloader = val_dataloader = test_dataloader = _make_loader


LABELS = [0, 0, 0, 1, 1, 2, 2, 2, 2, 2]
PREDICTED = [0, 0, 1, 1, 1, 0, 2, 2, 0, 1]
CONFIDENCE = [1.0, 1.0, 0.5, 1.0, 1.0, 0.9, 1.0, 1.0, 0.4, 0.6]
COUNTS = [[2, 1, 0], [0, 2, 0], [2, 1, 2]]


def evaluate(tmp_path, data, epochs=2, **options):
    """Train for some epochs, test, and return the events."""
    logger = TensorBoardLogger(str(tmp_path), name=None, version="")
    trainer = pl.Trainer(
        logger=logger,
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[Evaluation(directory=str(tmp_path), **options)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = PixelsAsLogits()
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    sizes = {"scalars": 0, "images": 0, "tensors": 0}
    return EventAccumulator(str(tmp_path), size_guidance=sizes).Reload()


def last_text(events, tag):
    """The latest text under a tag."""
    return events.Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val[0].decode()


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory):
    """(directory, events) of a run on three classes."""
    directory = tmp_path_factory.mktemp("three_classes")
    data = FakeData(LABELS, PREDICTED, CONFIDENCE, ["cat", "dog", "a|b"])
    return directory, evaluate(directory, data, mistakes=4, max_time_fraction=1.0)


def test_evaluation_confusion_tensor_matches_hand_count(three_classes):
    _, events = three_classes
    for tag, steps in (("val/confusion", [2, 5]), ("test/confusion", [6])):
        tensors = events.Tensors(tag)
        assert [event.step for event in tensors] == steps
        for event in tensors:
            assert make_ndarray(event.tensor_proto).tolist() == COUNTS


def test_evaluation_csv_has_every_pair_that_occurs(three_classes):
    directory, _ = three_classes
    for stage, step in (("val", 5), ("test", 6)):
        rows = list(csv.reader((directory / f"confusion_{stage}.csv").open()))
        assert rows[0] == ["step", "true", "predicted", "images"]
        assert rows[1:] == [
            [str(step), *row]
            for row in (
                ["cat", "cat", "2"],
                ["dog", "dog", "2"],
                ["a|b", "cat", "2"],
                ["a|b", "a|b", "2"],
                ["cat", "dog", "1"],
                ["a|b", "dog", "1"],
            )
        ]


def test_evaluation_few_classes_have_accuracy_curves(three_classes):
    _, events = three_classes
    curves = [tag for tag in events.Tags()["scalars"] if "_class/" in tag]
    assert curves == ["val_class/cat", "val_class/dog", "val_class/a|b"]
    for tag, accuracy in zip(curves, (2 / 3, 1.0, 2 / 5), strict=True):
        assert [(event.step, event.value) for event in events.Scalars(tag)] == [
            (step, pytest.approx(accuracy)) for step in (2, 5)
        ]


def test_evaluation_mistakes_are_sorted_by_confidence(three_classes):
    _, events = three_classes
    for stage in ("val", "test"):
        rows = last_text(events, f"{stage}/mistakes").splitlines()[4:]
        probabilities = [f"{np.exp(9 * c) / (np.exp(9 * c) + 2):.0%}" for c in (0.9, 0.6, 0.5, 0.4)]
        pairs = [("a\\|b", "cat"), ("a\\|b", "dog"), ("cat", "dog"), ("a\\|b", "cat")]
        assert rows == [
            f"| {n} | {true} | {predicted} | {probability} |"
            for n, ((true, predicted), probability) in enumerate(zip(pairs, probabilities, strict=True), 1)
        ]


def test_evaluation_table_has_precision_recall_and_f1(three_classes):
    _, events = three_classes
    for stage in ("val", "test"):
        assert last_text(events, f"{stage}/classes").splitlines()[2:] == [
            "| cat | 0.500 | 0.667 | 0.571 | 3 |",
            "| dog | 0.500 | 1.000 | 0.667 | 2 |",
            "| a\\|b | 1.000 | 0.400 | 0.571 | 5 |",
        ]


def test_evaluation_pictures_once_per_epoch_with_fixed_size(three_classes):
    _, events = three_classes
    names = ("confusion_matrix", "mistakes")
    assert events.Tags()["images"] == [f"{stage}/{name}" for stage in ("val", "test") for name in names]
    for stage, steps in (("val", [2, 5]), ("test", [6])):
        pictures = events.Images(f"{stage}/mistakes")
        assert [picture.step for picture in pictures] == steps
        image_height = round(116 / 3)  # the images have 1 x 3 pixels
        assert {(picture.width, picture.height) for picture in pictures} == {(350, 2 * (image_height + 40))}
        assert {picture.width for picture in events.Images(f"{stage}/confusion_matrix")} == {350}


def test_evaluation_without_mistakes_writes_no_picture(tmp_path):
    events = evaluate(tmp_path, FakeData([0, 1], [0, 1], [1.0, 1.0], ["a", "b"]))
    assert last_text(events, "val/mistakes") == "none"
    assert "val/mistakes" not in events.Tags()["images"]


def test_evaluation_many_classes_show_confused_and_worst(tmp_path, monkeypatch):
    charts = {}

    def draw_bars(rows, title, *, color):
        charts.setdefault(title, list(rows))
        return np.zeros((9, 350, 3), np.uint8)

    monkeypatch.setattr("cnnzoo.callbacks.tensorboard.evaluation.draw_bars", draw_bars)
    labels = [n % 1000 for n in range(3000)]
    predicted = [7 if label in (3, 4) else label for label in labels]
    predicted[8] = 9
    names = [f"class {n}" for n in range(1000)]
    events = evaluate(tmp_path, FakeData(labels, predicted, [1.0] * 3000, names), epochs=1)
    pairs, worst, best = charts.values()
    assert pairs == [
        ("class 3 \u2192 class 7", 1.0, "3 of 3"),
        ("class 4 \u2192 class 7", 1.0, "3 of 3"),
        ("class 8 \u2192 class 9", 1 / 3, "1 of 3"),
    ]
    assert len(worst) == len(best) == MAX_TABLE_ROWS
    assert worst[:4] == [
        ("class 3", 0.0, "0.0% of 3"),
        ("class 4", 0.0, "0.0% of 3"),
        ("class 8", 2 / 3, "66.7% of 3"),
        ("class 0", 1.0, "100.0% of 3"),
    ]
    assert {accuracy for _, accuracy, _ in best} == {1.0}
    tags = events.Tags()
    assert not [tag for tag in tags["scalars"] if "_class/" in tag]
    assert "val/confusion" not in tags["tensors"]
    for name in ("most_confused", "worst_classes", "best_classes", "mistakes"):
        assert {f"val/{name}", f"test/{name}"} <= set(tags["images"])
    assert len(list(csv.reader((tmp_path / "confusion_val.csv").open()))) == 1 + 998 + 3


def test_evaluation_matrix_up_to_max_matrix_classes(tmp_path):
    for num_classes, tag in (
        (MAX_MATRIX_CLASSES, "val/confusion_matrix"),
        (MAX_MATRIX_CLASSES + 1, "val/most_confused"),
    ):
        data = FakeData([0, 1], [1, 1], [1.0, 1.0], [str(n) for n in range(num_classes)])
        assert tag in evaluate(tmp_path / str(num_classes), data, epochs=1).Tags()["images"]


@pytest.mark.parametrize(
    ("max_time_fraction", "matrix_steps", "picture_steps"),
    [
        (0.35, [2, 5, 11, 17], [2, 17]),
        (0.4, [2, 5, 8, 11, 14, 17], [2, 17]),
        (0.45, [2, 5, 8, 11, 14, 17], [2, 5, 8, 11, 14, 17]),
    ],
)
def test_evaluation_over_time_budget_skips_middle_epochs(
    tmp_path, monkeypatch, max_time_fraction, matrix_steps, picture_steps
):
    clock = SimpleNamespace(now=0.0)

    def perf_counter():
        clock.now += 1.0
        return clock.now

    for module in ("time_budget", "evaluation"):
        monkeypatch.setattr(f"cnnzoo.callbacks.tensorboard.{module}.time", SimpleNamespace(perf_counter=perf_counter))
    data = FakeData(LABELS, PREDICTED, CONFIDENCE, ["a", "b", "c"])
    events = evaluate(tmp_path, data, epochs=6, max_time_fraction=max_time_fraction)
    # Each reading of the clock takes 1 s. An epoch reads it once to ask the budget, eight times for the matrix (4 s of
    # that are spent), and twice for the pictures (1 s is spent).
    # 0.35: 4 <= 0.35 * 12 in the second epoch, 8 > 0.35 * 22 in the third, 8 <= 0.35 * 23 in the fourth.
    # 0.4: 9 > 0.4 * 21 when the second pictures are due. 0.45: 9 <= 0.45 * 21.
    assert [event.step for event in events.Tensors("val/confusion")] == matrix_steps
    assert [event.step for event in events.Images("val/confusion_matrix")] == picture_steps


def test_predictions_keep_most_confident_mistakes():
    predictions = Predictions.empty(2)
    for logit in (0.5, 2.0, 1.0, 3.0):
        logits = torch.tensor([[logit, 0.0], [0.0, 9.0]])
        predictions.add(logits, torch.full((2, 1, 1, 1), logit), torch.tensor([1, 1]))
    confidence, labels, predicted, images = predictions.mistakes
    assert images.flatten().tolist() == [3.0, 2.0]
    assert confidence.tolist() == pytest.approx([torch.tensor(x).sigmoid().item() for x in (3.0, 2.0)])
    assert (labels.tolist(), predicted.tolist()) == ([1, 1], [0, 0])
    assert predictions.count_pairs(2).tolist() == [[1, 0, 4], [1, 1, 4]]


@pytest.mark.parametrize("option", [{"mistakes": 0}, {"max_time_fraction": 0.0}, {"max_time_fraction": 1.5}])
def test_evaluation_bad_option_raises(option):
    ((name, value),) = option.items()
    with pytest.raises(UserError, match=rf"callbacks\.evaluation\.{name}={value}: "):
        Evaluation(**option)


def test_evaluation_directory_is_created_before_training(tmp_path):
    trainer = SimpleNamespace(is_global_zero=True)
    Evaluation(directory=str(tmp_path / "new")).setup(trainer, None, "fit")
    assert (tmp_path / "new").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"^callbacks\.evaluation\.directory=.*/file/x: the directory cannot be created"
    ):
        Evaluation(directory=str(tmp_path / "file/x")).setup(trainer, None, "fit")


def gather_predictions(rank):
    """Gather three mini-batches of rank 0, and one of rank 1."""
    predictions = Predictions.empty(3)
    for logit in [1.0, 4.0, 2.0] if rank == 0 else [3.0]:
        logits, images = torch.tensor([[logit, 0.0], [0.0, 1.0]]), torch.full((2, 1, 1, 1), logit)
        predictions.add(logits, images, torch.tensor([1, rank]))
    gathered = predictions.gather()
    return gathered.count_pairs(2).tolist(), gathered.mistakes.images.flatten().tolist()


def test_predictions_gather_merges_unequal_ranks(tmp_path):
    outputs = run_ranks(gather_predictions, tmp_path)
    # Rank 0: three of class 1 predicted as 0, three of class 0 predicted as 1. Rank 1: one of the former, one correct.
    assert outputs[0] == outputs[1] == ([[1, 0, 4], [0, 1, 3], [1, 1, 1]], [4.0, 3.0, 2.0])
