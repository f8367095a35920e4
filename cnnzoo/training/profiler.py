"""`trainer=profile`: where the time of a training step goes, operator by operator."""

import logging
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.profilers import PyTorchProfiler
from torch.autograd import DeviceType
from torch.profiler import profile, schedule

from cnnzoo.errors import UserError
from cnnzoo.runtime.console import is_rank_zero
from cnnzoo.runtime.files import display_path

log = logging.getLogger(__name__)

TRACE_NAME = "profile.pt.trace.json.gz"
"""The trace's name, by which TensorBoard's profile plugin finds it."""


def create_profiler(dirpath: str, *, warmup: int = 5, steps: int = 5, rows: int = 10) -> "StepProfiler":
    """What `trainer=profile` profiles with. Raises UserError for numbers that cannot be."""
    for name, value in (("warmup", warmup), ("steps", steps), ("rows", rows)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"trainer.profiler.{name}={value}: a whole number, at least 1")
    return StepProfiler(dirpath, warmup=warmup, steps=steps, rows=rows)


class StepProfiler(PyTorchProfiler):
    """Records `steps` training steps after `warmup` others, once, on the first process.

    Leaves the trace in `dirpath`, and a table of the `rows` operators that take the longest in the log and as text in
    TensorBoard.
    """

    def __init__(self, dirpath: str, *, warmup: int, steps: int, rows: int) -> None:
        super().__init__(
            dirpath=dirpath,
            record_module_names=False,  # by hooks, which a compiled network does not take
            schedule=schedule(wait=warmup - 1, warmup=1, active=steps, repeat=1),
            on_trace_ready=self._save,
        )
        self.warmup, self.steps, self.rows = warmup, steps, rows
        self.lines: list[str] = []
        self._described = False

    def start(self, action_name: str) -> None:
        """Begin to record an action, unless what was wanted has been recorded."""
        if is_rank_zero() and not self.lines:
            super().start(action_name)

    def describe(self) -> None:
        """Log the table and where the trace is, once."""
        self._delete_profilers()
        if not self._described and is_rank_zero():
            self._described = True
            if not self.lines:
                need = self.warmup + self.steps
                log.warning("profile: the epoch ended before step %d: nothing was recorded; more data has it", need)
            for line in self.lines:
                log.info("%s", line)
        self.teardown(stage=self._stage)

    def _cache_functions_events(self) -> None:
        """Keep nothing: the table is made when the trace is, and without a trace there are no events to ask for."""

    def _save(self, recorded: profile) -> None:
        """Write the trace, and make the table."""
        assert self.dirpath is not None
        path = Path(self.dirpath) / TRACE_NAME
        recorded.export_chrome_trace(str(path))
        self.lines = operator_table(recorded, self.steps, self.rows)
        assert self._lightning_module is not None
        for logger in self._lightning_module.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):  # four spaces: verbatim in Markdown
                logger.experiment.add_text("profile", "\n".join(f"    {line}" for line in self.lines))
        self.lines += [
            f"trace  {display_path(path)}: open it at https://ui.perfetto.dev (nothing is sent) or chrome://tracing;",
            "       TensorBoard shows it after pip install torch-tb-profiler",
        ]


def operator_table(recorded: profile, steps: int, rows: int) -> list[str]:
    """The operators that take the longest, without what they call: on the GPU where there is one, else on the CPU."""
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
    whole = max(sum(time for time, _ in times.values()), 1e-9)
    longest = sorted(times.items(), key=lambda item: -item[1][0])[:rows]
    lines = [
        f"{'operator, on the GPU' if on_gpu else 'operator, on the CPU':44}  {'ms/step':>9}  {'share':>6}  calls/step"
    ]
    for key, (time, count) in longest:
        key = key.removeprefix("autograd::engine::evaluate_function: ")
        lines.append(f"{key[:44]:44}  {time / 1000 / steps:9.3f}  {time / whole:6.1%}  {count / steps:10,.1f}")
    return lines
