"""A sweep: jobs in directories side by side, of which the finished ones are not done again, and what they came to."""

import csv
import json
import math
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from cnnzoo.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

CONFIG_DIR = ".hydra"
PENDING_CONFIG_DIR = ".hydra.new"
"""Where Hydra writes a job's configuration, before it is known whether the directory holds that job already."""
ERROR_FILE = "error.txt"
SUMMARY_FILE = "summary.csv"
PLUGINS = {"optuna": "hydra_optuna_sweeper", "submitit": "hydra_submitit_launcher"}
"""Of the sweepers and launchers in `conf/sweep/`, those that do not come with Hydra, with their package."""


@dataclass(frozen=True)
class Job:
    """One job of a sweep, as its directory, `<number>_<network>`, tells.

    `words` are what was typed for it, `metric` is what it is judged by, `figures` its `metrics.json` (empty unless it
    is finished), `error` the line that it ended with.
    """

    directory: Path
    words: tuple[str, ...]
    metric: str
    figures: Mapping[str, Any]
    error: str

    @property
    def number(self) -> int:
        """Its place in the sweep, from 0."""
        return int(self.directory.name.split("_")[0])

    @property
    def state(self) -> str:
        """finished, failed, or unfinished: running, or killed."""
        return "finished" if self.figures else "failed" if self.error else "unfinished"


def check_plugins(sweep: str, text: str) -> None:
    """Raise UserError if `conf/sweep/<sweep>.yaml`, whose `text` this is, names a plugin that is not installed."""
    for plugin, package in PLUGINS.items():
        if re.search(rf"override /hydra/\w+: {plugin}", text) and not _is_installed(f"hydra_plugins.{package}"):
            name = package.replace("_", "-")
            raise UserError(f"sweep={sweep} needs Hydra's {plugin} plugin: type pip install {name}")


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def list_jobs(sweep_dir: Path) -> list[Job]:
    """The jobs of a sweep that were begun, by their number."""
    found = [_read_job(path.parent.parent) for path in sweep_dir.glob(f"*_*/{CONFIG_DIR}/overrides.yaml")]
    return sorted(found, key=lambda job: job.number)


def run_job(run: Callable[[bool], float | None], run_dir: Path) -> float | None:
    """`run(resume)`, one job of a sweep whose directory is `run_dir`; or the value that it had, if it is finished.

    Hydra has just written its configuration to `ARRIVING`. `resume` says that the job was killed, or failed, and has
    left a checkpoint to go on from; what it left otherwise is removed first. `summary.csv` is written anew after each
    job, however that ended. Raises SweepError where another job lies in this one's place.
    """
    words, resume = _read_overrides(run_dir / PENDING_CONFIG_DIR), False
    number = run_dir.name.split("_")[0]
    for path in run_dir.parent.glob(f"{number}_*/{CONFIG_DIR}"):
        earlier = _read_job(path.parent)
        if path.parent != run_dir or sorted(earlier.words) != sorted(words):
            shutil.rmtree(run_dir / PENDING_CONFIG_DIR)
            raise SweepError(
                f"run_dir={run_dir.parent}: job {number} there is '{' '.join(earlier.words)}', in this sweep it is "
                f"'{' '.join(words)}': type the command of that sweep, or another run_dir"
            )
        if earlier.figures:
            shutil.rmtree(run_dir / PENDING_CONFIG_DIR)
            value = earlier.figures.get(earlier.metric)
            print(f"job {number} is finished already: {earlier.metric} {value}", flush=True)  # its log stays as it is
            return value
        (run_dir / ERROR_FILE).unlink(missing_ok=True)
        resume = (run_dir / "checkpoints" / "last.ckpt").is_file()
        if not resume:
            _clear_run_dir(run_dir)
    if (run_dir / CONFIG_DIR).exists():
        shutil.rmtree(run_dir / PENDING_CONFIG_DIR)
    else:
        (run_dir / PENDING_CONFIG_DIR).rename(run_dir / CONFIG_DIR)
    try:
        return run(resume)
    except Exception as error:
        (run_dir / ERROR_FILE).write_text(" ".join(f"{error or type(error).__name__}".split()) + "\n", encoding="utf-8")
        raise
    finally:
        summarize(run_dir.parent)


class SweepError(UserError):
    """What ends a whole sweep, not one of its jobs."""


def run_in_subprocess(script: Path, words: Sequence[str], cfg: DictConfig) -> float:
    """A job of several ranks, whose process group a process can form but once: `script` with these words.

    Returns its metric. Raises UserError where it fails, after it has said why.
    """
    code = subprocess.run([sys.executable, str(script), *words]).returncode
    if code:
        raise UserError(f"it ended with exit code {code}: its own error is above")
    return float(json.loads((Path(cfg.run_dir) / "metrics.json").read_text(encoding="utf-8"))[cfg.optimized_metric])


def _clear_run_dir(run_dir: Path) -> None:
    """Remove what a run left that was killed or failed, but for its configuration and `train.log`."""
    for path in run_dir.iterdir():
        if path.name in (CONFIG_DIR, PENDING_CONFIG_DIR) or path.suffix == ".log":
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def summarize(sweep_dir: Path) -> list[dict[str, Any]]:
    """Write `summary.csv`, and give its rows: the jobs begun so far, the best first, failed ones last."""
    begun = list_jobs(sweep_dir)
    if not begun:
        return []
    metric = begun[0].metric
    typed = {job.number: dict(_split_override(word) for word in job.words) for job in begun}
    keys = dict.fromkeys(key for words in typed.values() for key in words)
    differ = [key for key in keys if len({words.get(key) for words in typed.values()}) > 1]
    names = dict.fromkeys([metric, "val/acc1", "test/acc1", "seconds"])
    rows = [
        {
            "job": job.number,
            **{key: typed[job.number].get(key, "") for key in differ},
            **{name: _metric_value(job, name) for name in names},
            "state": job.state,
            "run": str(job.directory),
            "error": job.error,
        }
        for job in begun
    ]
    sign = 1 if metric.endswith("loss") else -1

    def place(row: dict[str, Any]) -> tuple[float, int]:
        value = row[metric]
        return (sign * value if isinstance(value, float) and not math.isnan(value) else math.inf), row["job"]

    rows.sort(key=place)
    written = sweep_dir / f".{SUMMARY_FILE}.{socket.gethostname()}.{os.getpid()}"  # jobs of a cluster write at any time
    with written.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(written, sweep_dir / SUMMARY_FILE)
    return rows


def print_summary(sweep_dir: Path, command: Sequence[str], done: bool) -> list[str]:
    """Print what the jobs came to, and where it is not all of them how to go on; returns what went wrong.

    `command` is the script and what was typed after it; `done` says that no job is left to begin.
    """
    rows = summarize(sweep_dir)
    if rows:
        from cnnzoo.describe.tables import console  # here: a misspelt key is answered without it

        console().print("", summary_table(rows), "", sep="\n")
        print(f"summary  {sweep_dir / SUMMARY_FILE}")
    if not done or any(row["state"] != "finished" for row in rows):
        words = [word for word in command if not word.startswith("run_dir=")]
        print(f"go on    {shlex.join(['python', *words, f'run_dir={sweep_dir}'])}", flush=True)
    return [f"{Path(row['run']).name}: {row['error']}" for row in rows if row["error"]]


def summary_table(rows: Sequence[Mapping[str, Any]]) -> "Table":
    """The rows of `summarize` for the terminal, a run by its name alone, failed jobs with what went wrong."""
    from rich.table import Table

    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for key in rows[0]:
        if key not in ("run", "error", "state"):
            figure = key == "job" or any(isinstance(row[key], int | float) for row in rows)
            result.add_column(key, justify="right" if figure else "left", overflow="fold")
    result.add_column("run", overflow="fold")
    for row in rows:
        values = [_format_value(key, value) for key, value in row.items() if key not in ("run", "error", "state")]
        note = {"finished": "", "failed": f": {row['error']}", "unfinished": ": unfinished"}[row["state"]]
        result.add_row(*values, Path(row["run"]).name + note)
    return result


def _format_value(key: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if key == "seconds" or abs(value) >= 10 else f"{value:.4f}"
    long_number = re.fullmatch(r"-?[\d.]{7,}(e-?\d+)?", str(value))  # as samplers draw them
    return f"{float(value):.4g}" if long_number else str(value)


def _metric_value(job: Job, name: str) -> float | str:
    return float(job.figures[name]) if name in job.figures else ""


def _split_override(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key.lstrip("+"), value


def _read_overrides(configured: Path) -> tuple[str, ...]:
    words = OmegaConf.to_container(OmegaConf.load(configured / "overrides.yaml"))
    assert isinstance(words, list)
    return tuple(map(str, words))


def _read_job(directory: Path) -> Job:
    figures, error = directory / "metrics.json", directory / ERROR_FILE
    return Job(
        directory,
        _read_overrides(directory / CONFIG_DIR),
        OmegaConf.load(directory / CONFIG_DIR / "config.yaml").optimized_metric,
        json.loads(figures.read_text(encoding="utf-8")) if figures.exists() else {},
        error.read_text(encoding="utf-8").strip() if error.exists() else "",
    )
