"""`trainer=profile`: the time of a training step, by operator."""

import logging
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.profilers import PyTorchProfiler
from torch.autograd import DeviceType
from torch.profiler import profile, schedule

from cnnzoo.checks import check_int
from cnnzoo.runtime.distributed import is_rank_zero
from cnnzoo.runtime.files import display_path

log = logging.getLogger(__name__)

TRACE_NAME = "profile.pt.trace.json.gz"
"""File name of the trace. TensorBoard's profile plugin looks for names of this form."""


def create_profiler(dirpath: str, *, warmup: int = 5, steps: int = 5, rows: int = 10) -> "StepProfiler":
    """The profiler of `trainer=profile`. Raises UserError unless each number is an integer >= 1."""
    for name, value in (("warmup", warmup), ("steps", steps), ("rows", rows)):
        check_int(f"trainer.profiler.{name}", value, minimum=1)
    return StepProfiler(dirpath, warmup=warmup, steps=steps, rows=rows)


class StepProfiler(PyTorchProfiler):
    """Records `steps` training steps once, after `warmup` steps, on rank 0.

    Writes the trace to `dirpath`. The `rows` operators that take the longest become a table in the log, and a text in
    TensorBoard.
    """

    def __init__(self, dirpath: str, *, warmup: int, steps: int, rows: int) -> None:
        super().__init__(
            dirpath=dirpath,
            record_module_names=False,  # it needs hooks, which a compiled network does not support
            schedule=schedule(wait=warmup - 1, warmup=1, active=steps, repeat=1),
            on_trace_ready=self._save,
        )
        self.warmup, self.steps, self.rows = warmup, steps, rows
        self._summary: list[str] = []  # empty until the trace is written
        self._described = False

    def start(self, action_name: str) -> None:
        """Start to record an action, unless the trace is already written."""
        if is_rank_zero() and not self._summary:
            super().start(action_name)

    def describe(self) -> None:
        """Log the table and the path of the trace, once."""
        self._delete_profilers()
        if not self._described and is_rank_zero():
            self._described = True
            if not self._summary:
                log.warning(
                    "profile: the epoch ended before step %d: nothing was recorded; use more data, or reduce "
                    "trainer.profiler.warmup or trainer.profiler.steps",
                    self.warmup + self.steps,
                )
            for line in self._summary:
                log.info("%s", line)
        self.teardown(stage=self._stage)

    def _cache_functions_events(self) -> None:
        """Do nothing: `_save` makes the table, and Lightning's method fails if there is no trace."""

    def _save(self, recorded: profile) -> None:
        assert self.dirpath is not None
        path = Path(self.dirpath) / TRACE_NAME
        recorded.export_chrome_trace(str(path))
        table = operator_table(recorded, self.steps, self.rows)
        assert self._lightning_module is not None
        for logger in self._lightning_module.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):  # four spaces: verbatim in Markdown
                logger.experiment.add_text("profile", "\n".join(f"    {line}" for line in table))
        self._summary = [
            *table,
            f"trace  {display_path(path)}: open it at https://ui.perfetto.dev (nothing is sent) or chrome://tracing;",
            "       TensorBoard shows it after pip install torch-tb-profiler",
        ]


def operator_table(recorded: profile, steps: int, rows: int) -> list[str]:
    """The `rows` operators that take the longest, as lines of text; an operator's time excludes those it calls.

    Times are of the GPU if any operator ran on one, else of the CPU.
    """
    operators: list[Any] = [
        event
        for event in recorded.key_averages()
        if event.device_type == DeviceType.CPU and not event.is_user_annotation
    ]
    on_gpu = any(event.self_device_time_total for event in operators)
    times = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count)
        for event in operators
        if not event.key.startswith(("[pl]", "ProfilerStep"))
    }
    total = max(sum(time for time, _ in times.values()), 1e-9)
    longest = sorted(times.items(), key=lambda item: -item[1][0])[:rows]
    lines = [
        f"{'operator, on the GPU' if on_gpu else 'operator, on the CPU':44}  {'ms/step':>9}  {'share':>6}  calls/step"
    ]
    for key, (time, count) in longest:
        key = key.removeprefix("autograd::engine::evaluate_function: ")
        lines.append(f"{key[:44]:44}  {time / 1000 / steps:9.3f}  {time / total:6.1%}  {count / steps:10,.1f}")
    return lines
