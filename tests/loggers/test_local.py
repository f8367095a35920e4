"""The loggers of a run directory: what is in the files at which time."""

import csv

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from cnnzoo.loggers.local import ResumableCSVLogger, ResumableTensorBoardLogger


def csv_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_row_is_in_the_file_at_once(tmp_path):
    logger = ResumableCSVLogger(str(tmp_path))
    for step in range(3):
        logger.log_metrics({"lr": step / 2, "epoch": 0}, step=step)
        assert [row["lr"] for row in csv_rows(logger.path)] == ["0.0", "0.5", "1.0"][: step + 1]
    logger.finalize("success")
    logger.log_metrics({"lr": 2.0, "epoch": 1}, step=3)
    assert csv_rows(logger.path)[-1] == {"epoch": "1", "lr": "2.0", "step": "3"}


def test_csv_new_column_keeps_the_earlier_rows(tmp_path):
    logger = ResumableCSVLogger(str(tmp_path))
    logger.log_metrics({"a": 1.0}, step=0)
    logger.log_metrics({"b": 2.0}, step=1)
    logger.log_metrics({"a": 3.0}, step=2)
    assert csv_rows(logger.path) == [
        {"a": "1.0", "b": "", "step": "0"},
        {"a": "", "b": "2.0", "step": "1"},
        {"a": "3.0", "b": "", "step": "2"},
    ]
    assert logger.rows == 3


def test_csv_resume_drops_later_rows(tmp_path):
    first = ResumableCSVLogger(str(tmp_path))
    for step in range(3):
        first.log_metrics({"a": step}, step=step)
    second = ResumableCSVLogger(str(tmp_path))
    second.resume_at(2)
    second.log_metrics({"a": 9.0}, step=2)
    assert [row["a"] for row in csv_rows(second.path)] == ["0.0", "1.0", "9.0"]


def read_events(directory):
    """(step, values by tag) of each record with scalars."""
    (path,) = directory.glob("events.out.tfevents.*")
    records = [event for event in EventFileLoader(str(path)).Load() if event.summary.value]
    return [(event.step, {value.tag: value.tensor.float_val[0] for value in event.summary.value}) for event in records]


def test_tensorboard_step_is_one_record(tmp_path):
    logger = ResumableTensorBoardLogger(str(tmp_path), name=None, version="", default_hp_metric=False)
    logger.log_metrics({"lr": 0.5, "train/loss": 2.0}, step=9)
    logger.log_metrics({"val/acc1": 0.25}, step=19)
    logger.save()
    assert read_events(tmp_path) == [(9, {"lr": 0.5, "train/loss": 2.0}), (19, {"val/acc1": 0.25})]


def test_tensorboard_flushes_at_intervals(tmp_path, monkeypatch):
    clock = iter([100.0, 101.0, 102.0])
    monkeypatch.setattr("cnnzoo.loggers.local.time.monotonic", lambda: next(clock))
    logger = ResumableTensorBoardLogger(str(tmp_path), name=None, version="", default_hp_metric=False)
    flushes = []
    monkeypatch.setattr(logger.experiment, "flush", lambda: flushes.append(step))
    for step in range(3):
        logger.log_metrics({"lr": 0.5}, step=step)
    assert flushes == [0, 2]
