"""Sweeps: the jobs of a multirun, which ones still have to run when a sweep is resumed, and the table of their results.

A job's directory, `<number>_<network>`, holds everything known about it, so jobs may run in any process and machine.
"""

import csv
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

import cnnzoo
from cnnzoo.errors import UserError
from cnnzoo.runtime.command import job_command
from cnnzoo.runtime.files import atomic_write

if TYPE_CHECKING:
    from rich.table import Table

CONFIG_DIR = ".hydra"
PENDING_CONFIG_DIR = ".hydra.new"
"""Where Hydra writes the configuration of a job. `run_job` renames it once it knows that the job has to run."""
ERROR_FILE = "error.txt"
SUMMARY_FILE = "summary.csv"
PLUGINS = {"optuna": "hydra_optuna_sweeper", "submitit": "hydra_submitit_launcher"}
"""The sweepers and launchers of `conf/sweep/` that Hydra does not include, each with its package."""


class SweepError(UserError):
    """An error that ends the whole sweep, not only one of its jobs."""


@dataclass(frozen=True)
class Job:
    """One job of a sweep, as its directory describes it.

    overrides: the overrides that the job was started with.
    metric: the name of the metric that ranks the jobs.
    results: the content of `metrics.json`, empty unless the job has finished.
    error: the error message of a failed job, else empty.
    """

    directory: Path
    overrides: tuple[str, ...]
    metric: str
    results: Mapping[str, Any]
    error: str

    @property
    def number(self) -> int:
        """Its number in the sweep, from 0."""
        return int(self.directory.name.split("_")[0])

    @property
    def state(self) -> str:
        """`finished`, `failed`, or `unfinished`, which is a job that is running or was killed."""
        return "finished" if self.results else "failed" if self.error else "unfinished"


def check_plugins(sweep: str, text: str) -> None:
    """Raise UserError if the Hydra plugin that a sweep uses is not installed; `text` is `conf/sweep/<sweep>.yaml`."""
    for plugin, package in PLUGINS.items():
        if re.search(rf"override /hydra/\w+: {plugin}", text) and not _is_installed(f"hydra_plugins.{package}"):
            extra = "optuna" if plugin == "optuna" else "slurm"
            raise UserError(f'sweep={sweep} needs Hydra\'s {plugin} plugin; type pip install "cnnzoo[{extra}]"')


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


def list_jobs(sweep_dir: Path) -> list[Job]:
    """The jobs of a sweep that have been started, in the order of their numbers."""
    jobs = [_read_job(path.parent.parent) for path in sweep_dir.glob(f"*_*/{CONFIG_DIR}/overrides.yaml")]
    return sorted(jobs, key=lambda job: job.number)


def run_job(run: Callable[[bool], float | None], run_dir: Path) -> float | None:
    """Run one job of a sweep in `run_dir`, or return the metric of a job that has finished there.

    Hydra has written the job's configuration to `PENDING_CONFIG_DIR`. An unfinished or failed job with a checkpoint is
    resumed: `run` is called with True. Without a checkpoint its files are removed, and `run` is called with False.
    `summary.csv` is rewritten after each job, whatever its outcome. Raises SweepError if the sweep's directory holds
    another job with the same number.
    """
    overrides, resume = _read_overrides(run_dir / PENDING_CONFIG_DIR), False
    number = run_dir.name.split("_")[0]
    for path in run_dir.parent.glob(f"{number}_*/{CONFIG_DIR}"):
        earlier = _read_job(path.parent)
        if path.parent != run_dir or sorted(earlier.overrides) != sorted(overrides):
            shutil.rmtree(run_dir / PENDING_CONFIG_DIR)
            raise SweepError(
                f"run_dir={run_dir.parent}: job {number} there is '{' '.join(earlier.overrides)}', in this sweep it is "
                f"'{' '.join(overrides)}'; type the command of that sweep, or choose another run_dir"
            )
        if earlier.results:
            shutil.rmtree(run_dir / PENDING_CONFIG_DIR)
            value = earlier.results.get(earlier.metric)
            print(f"job {number} has finished already: {earlier.metric} {value}", flush=True)  # not into its train.log
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
        write_summary(run_dir.parent)


def run_in_subprocess(module: str, arguments: Sequence[str], cfg: DictConfig) -> float:
    """Run a job of several ranks as `python -m module` with these arguments: a process can form only one process group.

    Returns the job's metric. Raises UserError if the job fails; the subprocess has printed the reason.
    """
    paths = [str(Path(cnnzoo.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}  # a checkout may not be installed
    code = subprocess.run([sys.executable, "-m", module, *arguments], env=environment).returncode
    if code:
        raise UserError(f"the job ended with exit code {code}; its own error is above")
    return float(json.loads((Path(cfg.run_dir) / "metrics.json").read_text(encoding="utf-8"))[cfg.optimized_metric])


def _clear_run_dir(run_dir: Path) -> None:
    """Remove the files of a job that is started again, except its configuration and `train.log`."""
    for path in run_dir.iterdir():
        if path.name in (CONFIG_DIR, PENDING_CONFIG_DIR) or path.suffix == ".log":
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def write_summary(sweep_dir: Path) -> list[dict[str, Any]]:
    """Write `summary.csv` and return its rows, one per started job: best first, jobs without the metric last.

    The columns are the job's number, each override that differs between jobs, the metrics, the state, the run
    directory and the error.
    """
    jobs = list_jobs(sweep_dir)
    if not jobs:
        return []
    metric = jobs[0].metric
    values = {job.number: dict(_split_override(override) for override in job.overrides) for job in jobs}
    keys = dict.fromkeys(key for job_values in values.values() for key in job_values)
    varied = [key for key in keys if len({job_values.get(key) for job_values in values.values()}) > 1]
    is_multilabel = any("val/map" in job.results for job in jobs)
    names = ("val/map", "test/map") if is_multilabel else ("val/acc1", "test/acc1")
    metrics = dict.fromkeys([metric, *names, "seconds"])
    rows = [
        {
            "job": job.number,
            **{key: values[job.number].get(key, "") for key in varied},
            **{name: _metric_value(job, name) for name in metrics},
            "state": job.state,
            "run": str(job.directory),
            "error": job.error,
        }
        for job in jobs
    ]
    sign = 1 if metric.endswith("loss") else -1

    def sort_key(row: dict[str, Any]) -> tuple[float, int]:
        value = row[metric]
        return (sign * value if isinstance(value, float) and not math.isnan(value) else math.inf), row["job"]

    rows.sort(key=sort_key)
    with atomic_write(sweep_dir / SUMMARY_FILE, newline="") as file:  # jobs on a cluster may write at the same time
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return rows


def print_summary(sweep_dir: Path, command: Sequence[str], complete: bool) -> list[str]:
    """Print the results of a sweep, and if jobs are left, the command that resumes it. Returns the errors of the jobs.

    command: the command line with which the sweep was started, `sys.argv`.
    complete: whether every job has been started.
    """
    rows = write_summary(sweep_dir)
    if rows:
        from cnnzoo.describe.tables import make_console  # imported here: a misspelt key is reported without it

        make_console().print("", summary_table(rows), "", sep="\n")
        print(f"summary  {sweep_dir / SUMMARY_FILE}")
    if not complete or any(row["state"] != "finished" for row in rows):
        arguments = [argument for argument in command if not argument.startswith("run_dir=")]
        print(f"resume   {job_command('train')} {shlex.join([*arguments[1:], f'run_dir={sweep_dir}'])}", flush=True)
    return [f"{Path(row['run']).name}: {row['error']}" for row in rows if row["error"]]


def summary_table(rows: Sequence[Mapping[str, Any]]) -> "Table":
    """The rows of `write_summary` as a table for the terminal, with the names of run directories and the errors."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for key in rows[0]:
        if key not in ("run", "error", "state"):
            is_number = key == "job" or any(isinstance(row[key], int | float) for row in rows)
            table.add_column(key, justify="right" if is_number else "left", overflow="fold")
    table.add_column("run", overflow="fold")
    for row in rows:
        values = [_format_value(key, value) for key, value in row.items() if key not in ("run", "error", "state")]
        note = {"finished": "", "failed": f": {row['error']}", "unfinished": ": unfinished"}[row["state"]]
        table.add_row(*values, Path(row["run"]).name + note)
    return table


def _format_value(key: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if key == "seconds" or abs(value) >= 10 else f"{value:.4f}"
    is_long_number = re.fullmatch(r"-?[\d.]{7,}(e-?\d+)?", str(value))  # sampled by Optuna
    return f"{float(value):.4g}" if is_long_number else str(value)


def _metric_value(job: Job, name: str) -> float | str:
    return float(job.results[name]) if name in job.results else ""


def _split_override(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+"), value


def _read_overrides(config_dir: Path) -> tuple[str, ...]:
    overrides = OmegaConf.to_container(OmegaConf.load(config_dir / "overrides.yaml"))
    assert isinstance(overrides, list)
    return tuple(map(str, overrides))


def _read_job(directory: Path) -> Job:
    results, error = directory / "metrics.json", directory / ERROR_FILE
    return Job(
        directory,
        _read_overrides(directory / CONFIG_DIR),
        OmegaConf.load(directory / CONFIG_DIR / "config.yaml").optimized_metric,
        json.loads(results.read_text(encoding="utf-8")) if results.exists() else {},
        error.read_text(encoding="utf-8").strip() if error.exists() else "",
    )
