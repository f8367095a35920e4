"""The CSV and TensorBoard loggers of a run directory. After a resume no row is missing and none is there twice."""

import csv
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary

from cnnzoo.checks import create_directory
from cnnzoo.runtime.files import atomic_write

FLUSH_SECONDS = 2.0
"""TensorBoard sees new values after at most this time; each flush waits for the writer's thread."""


class ResumableTensorBoardLogger(TensorBoardLogger):
    """Lightning's logger, which can hide the events that a resumed run will write again.

    The scalars of a step are one record of the events file. It is flushed every `FLUSH_SECONDS`, and by `save`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._last_flush = 0.0

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = [Summary.Value(tag=name, simple_value=float(value)) for name, value in metrics.items()]
        writer = self.experiment
        writer._get_file_writer().add_summary(Summary(value=values), step)
        if (now := time.monotonic()) - self._last_flush >= FLUSH_SECONDS:
            self._last_flush = now
            writer.flush()

    def resume_at(self, step: int) -> None:
        """Make TensorBoard drop the earlier events of `step` and later. Call it before the first event is written."""
        self._kwargs["purge_step"] = step


class ResumableCSVLogger(Logger):
    """Writes `metrics.csv` and `hparams.yaml` to `save_dir`.

    Each call of `log_metrics` appends a row and flushes it to the operating system, so a killed process loses none. A
    new column rewrites the file. `rows` is the number of rows.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self._directory = Path(save_dir)
        self.path = self._directory / "metrics.csv"
        self.rows = 0
        self._columns: list[str] = []
        self._started = False  # whether this process has written to the file
        self._file: IO[str] | None = None  # open for appending

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._directory)

    @property
    def log_dir(self) -> str:
        return str(self._directory)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        values = vars(params) if isinstance(params, Namespace) else dict(params)
        create_directory("logger.csv.save_dir", self._directory)
        (self._directory / "hparams.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(values)), encoding="utf-8")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {**{name: float(value) for name, value in metrics.items()}, "step": self.rows if step is None else step}
        if "epoch" in row:
            row["epoch"] = int(row["epoch"])
        if not self._started:
            self.resume_at(0)
        if new_columns := row.keys() - set(self._columns):
            self._columns = sorted([*self._columns, *new_columns])
            self._write(self._read())
        if self._file is None:
            self._file = self.path.open("a", newline="", encoding="utf-8")
        csv.DictWriter(self._file, self._columns).writerow(row)
        self._file.flush()
        self.rows += 1

    def finalize(self, status: str) -> None:
        self._close()

    @rank_zero_only
    def resume_at(self, rows: int) -> None:
        """Keep the first `rows` rows of an earlier process, drop the others, and append after them."""
        self._started = True
        kept_rows = self._read()[:rows]
        self._columns = sorted({name for row in kept_rows for name, value in row.items() if value != ""})
        self.rows = len(kept_rows)
        create_directory("logger.csv.save_dir", self._directory)
        self._write(kept_rows)

    def _read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, rows: list[dict[str, str]]) -> None:
        self._close()  # the file is replaced
        with atomic_write(self.path, newline="") as file:
            writer = csv.DictWriter(file, self._columns, extrasaction="ignore")
            if self._columns:
                writer.writeheader()
            writer.writerows(rows)
