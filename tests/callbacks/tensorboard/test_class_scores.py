"""The classes of a multi-label set in TensorBoard."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from torch.utils.tensorboard import SummaryWriter

from cnnzoo.callbacks.tensorboard.class_scores import MAX_CURVES, write_class_scores


def written(directory, stage, report):
    """The events after `write_class_scores` at step 3."""
    with SummaryWriter(directory) as writer:
        write_class_scores(writer, stage, 3, report)
    return EventAccumulator(str(directory)).Reload()


def row(ap):
    return {"ap": ap, "precision": 0.25, "recall": 0.5, "f1": 1 / 3, "images": 7, "threshold": 0.125}


def test_class_scores_of_few_classes_are_curves_and_a_table(tmp_path):
    events = written(tmp_path, "val", {"sky": row(0.75), "a|b": row(None)})
    assert events.Tags()["scalars"] == ["val_class/sky"]
    assert [(event.step, event.value) for event in events.Scalars("val_class/sky")] == [(3, 0.75)]
    text = make_ndarray(events.Tensors("val/classes/text_summary")[0].tensor_proto).item().decode()
    assert text.splitlines()[0] == "| class | average precision | precision | recall | F1 | threshold | images |"
    assert text.splitlines()[2:] == [
        "| sky | 0.750 | 0.250 | 0.500 | 0.333 | 0.125 | 7 |",
        r"| a\|b | - | 0.250 | 0.500 | 0.333 | 0.125 | 7 |",
    ]


def test_class_scores_of_the_test_have_no_curves(tmp_path):
    events = written(tmp_path, "test", {"sky": row(0.75)})
    assert events.Tags()["scalars"] == []
    assert events.Tags()["tensors"] == ["test/classes/text_summary"]


def test_class_scores_of_many_classes_are_pictures(tmp_path):
    events = written(tmp_path, "val", {f"class{n}": row(n / 100) for n in range(MAX_CURVES + 1)})
    assert events.Tags()["scalars"] == []
    assert events.Tags()["images"] == ["val/worst_classes", "val/best_classes"]
