"""What a run logs to, able to go on where a resumed run goes on: no row is repeated, none is missing."""

import csv
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only


class ResumableTensorBoardLogger(TensorBoardLogger):
    """Lightning's logger, told where a resumed run goes on."""

    def resume_at(self, step: int) -> None:
        """Have readers drop what an earlier process wrote for this step and later ones; call it before any writing."""
        self._kwargs["purge_step"] = step


class ResumableCSVLogger(Logger):
    """`metrics.csv` and `hparams.yaml` in `save_dir`: a row for each time that figures are logged, at once on the disk.

    A column that is new rewrites the file. `rows` is how many there are.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self._directory = Path(save_dir)
        self.path = self._directory / "metrics.csv"
        self.rows = 0
        self._columns: list[str] = []
        self._begun = False

    @property
    def name(self) -> str:
        """None has a name."""
        return ""

    @property
    def version(self) -> str:
        """There is one."""
        return ""

    @property
    def save_dir(self) -> str:
        """The directory."""
        return str(self._directory)

    @property
    def log_dir(self) -> str:
        """The directory."""
        return str(self._directory)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Write them to `hparams.yaml`."""
        values = vars(params) if isinstance(params, Namespace) else dict(params)
        self._directory.mkdir(parents=True, exist_ok=True)
        (self._directory / "hparams.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(values)), encoding="utf-8")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row."""
        row = {**{name: float(value) for name, value in metrics.items()}, "step": self.rows if step is None else step}
        if "epoch" in row:
            row["epoch"] = int(row["epoch"])
        if not self._begun:
            self.resume_at(0)
        if new := row.keys() - set(self._columns):
            self._columns = sorted([*self._columns, *new])
            self._write(self._read())
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(row)
        self.rows += 1

    @rank_zero_only
    def resume_at(self, rows: int) -> None:
        """Keep the first `rows` rows of what an earlier process wrote, and go on after them."""
        self._begun = True
        kept = self._read()[:rows]
        self._columns = sorted({name for row in kept for name, value in row.items() if value != ""})
        self.rows = len(kept)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._write(kept)

    def _read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, str]]) -> None:
        """Put the file in the place of the one there is, whole or not at all."""
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, extrasaction="ignore")
            if self._columns:
                writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, self.path)
