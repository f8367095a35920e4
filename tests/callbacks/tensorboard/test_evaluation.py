"""Where a network is wrong: what a run shows of it, against counts by hand."""

import csv
import json
import subprocess
import sys
import textwrap
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
from tests.helpers import ROOT


class Said(pl.LightningModule):
    """Says what it is told to: an image's pixels are its logits."""

    def validation_step(self, batch, batch_idx):
        return batch[0].flatten(1)

    def test_step(self, batch, batch_idx):
        return batch[0].flatten(1)

    def training_step(self, batch, batch_idx):
        return self.weight.sum()

    def configure_optimizers(self):
        self.weight = torch.nn.Parameter(torch.zeros(1))
        return torch.optim.SGD([self.weight], 0.1)


class Told(pl.LightningDataModule):
    """Images of 1 x 1 x C pixels, with a 1, or less where it is not so sure, at the class that is to be said."""

    resolved_mean, resolved_std = (0.0,), (1.0,)

    def __init__(self, labels, said, sure, classes):
        super().__init__()
        self.labels, self.classes = torch.tensor(labels), tuple(classes)
        self.num_classes = len(classes)
        self.images = torch.zeros(len(labels), 1, 1, self.num_classes)
        self.images[range(len(labels)), 0, 0, said] = 9 * torch.tensor(sure)

    def _batches(self):
        return torch.utils.data.DataLoader(list(zip(self.images, self.labels, strict=True)), batch_size=4)

    train_dataloader = val_dataloader = test_dataloader = _batches


LABELS = [0, 0, 0, 1, 1, 2, 2, 2, 2, 2]
SAID = [0, 0, 1, 1, 1, 0, 2, 2, 0, 1]
SURE = [1.0, 1.0, 0.5, 1.0, 1.0, 0.9, 1.0, 1.0, 0.4, 0.6]
COUNTS = [[2, 1, 0], [0, 2, 0], [2, 1, 2]]


def shown(tmp_path, data, epochs=2, **options):
    """Train for some epochs and test, then the events."""
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
    module = Said()
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    sizes = {"scalars": 0, "images": 0, "tensors": 0}
    return EventAccumulator(str(tmp_path), size_guidance=sizes).Reload()


def text(events, tag):
    """The last of the texts."""
    return events.Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val[0].decode()


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    place = tmp_path_factory.mktemp("few")
    return place, shown(place, Told(LABELS, SAID, SURE, ["cat", "dog", "a|b"]), mistakes=4, max_time_fraction=1.0)


def test_the_confusion_matrix_is_that_counted_by_hand(few):
    _, events = few
    for tag, steps in (("val/confusion", [2, 5]), ("test/confusion", [6])):
        found = events.Tensors(tag)
        assert [event.step for event in found] == steps
        for event in found:
            assert make_ndarray(event.tensor_proto).tolist() == COUNTS


def test_the_csv_has_every_pair_that_occurs(few):
    place, _ = few
    for stage, step in (("val", 5), ("test", 6)):
        rows = list(csv.reader((place / f"confusion_{stage}.csv").open()))
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


def test_each_of_few_classes_has_a_curve(few):
    _, events = few
    curves = [tag for tag in events.Tags()["scalars"] if "_class/" in tag]
    assert curves == ["val_class/cat", "val_class/dog", "val_class/a|b"]
    for tag, accuracy in zip(curves, (2 / 3, 1.0, 2 / 5), strict=True):
        assert [(event.step, event.value) for event in events.Scalars(tag)] == [
            (step, pytest.approx(accuracy)) for step in (2, 5)
        ]


def test_the_surest_mistakes_come_first(few):
    _, events = few
    for stage in ("val", "test"):
        rows = text(events, f"{stage}/mistakes").splitlines()[4:]
        probabilities = [f"{np.exp(9 * s) / (np.exp(9 * s) + 2):.0%}" for s in (0.9, 0.6, 0.5, 0.4)]
        said = [("a\\|b", "cat"), ("a\\|b", "dog"), ("cat", "dog"), ("a\\|b", "cat")]
        assert rows == [
            f"| {n} | {true} | {other} | {share} |"
            for n, ((true, other), share) in enumerate(zip(said, probabilities, strict=True), 1)
        ]


def test_pictures_come_once_an_epoch_and_have_their_size(few):
    _, events = few
    names = ("confusion_matrix", "mistakes")
    assert events.Tags()["images"] == [f"{stage}/{name}" for stage in ("val", "test") for name in names]
    for stage, steps in (("val", [2, 5]), ("test", [6])):
        pictures = events.Images(f"{stage}/mistakes")
        assert [picture.step for picture in pictures] == steps
        assert {(picture.width, picture.height) for picture in pictures} == {(350, 2 * (116 + 40))}
        assert {picture.width for picture in events.Images(f"{stage}/confusion_matrix")} == {350}


def test_without_mistakes_there_is_no_picture_of_them(tmp_path):
    events = shown(tmp_path, Told([0, 1], [0, 1], [1.0, 1.0], ["a", "b"]))
    assert text(events, "val/mistakes") == "none"
    assert "val/mistakes" not in events.Tags()["images"]


def test_a_thousand_classes_show_the_most_confused_and_the_worst(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "cnnzoo.callbacks.tensorboard.evaluation.draw_bars",
        lambda rows, title, *, wrong: drawn.setdefault(title, list(rows)) and np.zeros((9, 350, 3), np.uint8),
    )
    labels = [n % 1000 for n in range(3000)]
    said = [7 if label in (3, 4) else label for label in labels]
    said[8] = 9
    names = [f"class {n}" for n in range(1000)]
    events = shown(tmp_path, Told(labels, said, [1.0] * 3000, names), epochs=1)
    pairs, worst, best = drawn.values()
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
    assert {share for _, share, _ in best} == {1.0}
    tags = events.Tags()
    assert not [tag for tag in tags["scalars"] if "_class/" in tag]
    assert "val/confusion" not in tags["tensors"]
    for name in ("most_confused", "worst_classes", "best_classes", "mistakes"):
        assert {f"val/{name}", f"test/{name}"} <= set(tags["images"])
    assert len(list(csv.reader((tmp_path / "confusion_val.csv").open()))) == 1 + 998 + 3


def test_few_and_many_meet_at_a_number(tmp_path):
    for number, tag in ((MAX_MATRIX_CLASSES, "val/confusion_matrix"), (MAX_MATRIX_CLASSES + 1, "val/most_confused")):
        data = Told([0, 1], [1, 1], [1.0, 1.0], [str(n) for n in range(number)])
        assert tag in shown(tmp_path / str(number), data, epochs=1).Tags()["images"]


@pytest.mark.parametrize(
    ("share", "numbers", "pictures"),
    [
        (0.35, [2, 5, 11, 17], [2, 17]),
        (0.4, [2, 5, 8, 11, 14, 17], [2, 17]),
        (0.45, [2, 5, 8, 11, 14, 17], [2, 5, 8, 11, 14, 17]),
    ],
)
def test_what_time_does_not_allow_is_left_out_but_in_the_first_and_the_last_epoch(
    tmp_path, monkeypatch, share, numbers, pictures
):
    clock = SimpleNamespace(now=0.0)

    def perf_counter():
        clock.now += 1.0
        return clock.now

    for module in ("time_budget", "evaluation"):
        monkeypatch.setattr(f"cnnzoo.callbacks.tensorboard.{module}.time", SimpleNamespace(perf_counter=perf_counter))
    events = shown(tmp_path, Told(LABELS, SAID, SURE, ["a", "b", "c"]), epochs=6, max_time_fraction=share)
    # to read the clock takes 1 s: the question one, the numbers eight, of which they spend 4, the pictures 1 of 2.
    # 0.35: 4 <= 0.35 * 12 in the second epoch, but 8 > 0.35 * 22 in the third, 8 <= 0.35 * 23 in the fourth.
    # 0.4: 9 > 0.4 * 21 when the second could be drawn; 0.45: 9 <= 0.45 * 21.
    assert [event.step for event in events.Tensors("val/confusion")] == numbers
    assert [event.step for event in events.Images("val/confusion_matrix")] == pictures


def test_answers_keep_the_surest_of_all_batches():
    answers = Predictions.none(2)
    for sure in (0.5, 2.0, 1.0, 3.0):
        logits = torch.tensor([[sure, 0.0], [0.0, 9.0]])
        answers.add(logits, torch.full((2, 1, 1, 1), sure), torch.tensor([1, 1]))
    probabilities, labels, said, images = answers.mistakes
    assert images.flatten().tolist() == [3.0, 2.0]
    assert probabilities.tolist() == pytest.approx([torch.tensor(x).sigmoid().item() for x in (3.0, 2.0)])
    assert (labels.tolist(), said.tolist()) == ([1, 1], [0, 0])
    assert answers.counts(2).tolist() == [[1, 0, 4], [1, 1, 4]]


@pytest.mark.parametrize("option", [{"mistakes": 0}, {"max_time_fraction": 0.0}, {"max_time_fraction": 1.5}])
def test_options_that_cannot_be(option):
    ((name, value),) = option.items()
    with pytest.raises(UserError, match=rf"callbacks\.evaluation\.{name}={value}: "):
        Evaluation(**option)


def test_two_ranks_of_unequal_length_are_merged(tmp_path):
    """With gloo, in processes of their own: 3 batches here, 1 there."""
    code = textwrap.dedent(
        """
        import json, sys
        import torch
        from torch import distributed
        from cnnzoo.callbacks.tensorboard.evaluation import Predictions
        rank, place = int(sys.argv[1]), sys.argv[2]
        distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
        answers = Predictions.none(3)
        for sure in ([1.0, 4.0, 2.0] if rank == 0 else [3.0]):
            logits, images = torch.tensor([[sure, 0.0], [0.0, 1.0]]), torch.full((2, 1, 1, 1), sure)
            answers.add(logits, images, torch.tensor([1, rank]))
        whole = answers.gathered()
        print(json.dumps([whole.counts(2).tolist(), whole.mistakes[3].flatten().tolist()]))
        distributed.destroy_process_group()
        """
    )
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(tmp_path / "meet")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in (0, 1)
    ]
    said = [json.loads(rank.communicate(timeout=120)[0]) for rank in ranks]
    # rank 0: three of class 1 said to be 0, three of class 0 said to be 1; rank 1: one of the former, one right
    assert said[0] == said[1] == [[[1, 0, 4], [0, 1, 3], [1, 1, 1]], [4.0, 3.0, 2.0]]
