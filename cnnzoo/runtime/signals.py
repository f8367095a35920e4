"""Signals that end a run: SIGINT (Ctrl-C), SIGTERM and SIGUSR1.

A run that is training saves a checkpoint first. SLURM sends SIGUSR1 shortly before a job's time limit; such a job is
requeued.
"""

import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from cnnzoo.runtime.command import job_command
from cnnzoo.runtime.files import display_path
from cnnzoo.runtime.interrupts import is_interrupt

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""The signals that end a run; Windows has no SIGUSR1."""

log = logging.getLogger(__name__)


class TrainingStopped(Exception):  # noqa: N818 - not an error
    """Raised between two training steps when a signal asked to stop and the checkpoint is written."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class InterruptHandler:
    """The handler of `SIGNALS` during a run.

    The first signal raises KeyboardInterrupt, so that progress bars and files are closed. While `deferred` is set,
    which is so during training, the signal is only recorded in `received`: the checkpoint callback then saves and
    raises `TrainingStopped`. The same signal a second time acts at once: SIGINT raises KeyboardInterrupt, the others
    kill the process.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.deferred = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if not self.deferred:
            raise KeyboardInterrupt
        log.info("%s: saving after this step or validation, then stopping", signal.Signals(number).name)


_current: InterruptHandler | None = None


def current_handler() -> InterruptHandler | None:
    """The handler that `handle_signals` installed; None outside of it and outside the main thread."""
    return _current


def signal_pending() -> bool:
    """Whether this run received a signal, even if the exception that it raised was lost (in a destructor, say)."""
    return _current is not None and _current.received is not None


@contextmanager
def handle_signals(trainer: "Trainer", run_dir: Path) -> Iterator[None]:
    """Handle `SIGNALS` while a run is prepared, trains and is tested.

    A signal that arrives while nothing trains ends the process with exit code 128 plus the signal's number, and a line
    that says how to resume. Lightning's own handlers are disabled for three reasons: after a SIGTERM during the test
    they exit with code 0, they communicate with other ranks inside the handler, and with several ranks they make every
    step wait for the device to find out whether a signal arrived.
    """
    global _current
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    handler, previous = InterruptHandler(), dict[int, Any]()
    if threading.current_thread() is threading.main_thread():  # Python allows signal handlers only there
        previous = {number: signal.signal(number, handler) for number in SIGNALS}
        _current = handler
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        if not is_interrupt(error):
            raise
        number = handler.received or signal.SIGINT
        saved = any((run_dir / "checkpoints").glob("*.ckpt"))
        resume = (
            f"{job_command('train')} resume={shlex.quote(display_path(run_dir))} continues from the last checkpoint"
        )
        name = signal.Signals(number).name
        log.info("stopped immediately by %s; %s", name, resume if saved else "no checkpoint was saved yet")
        exit_for_signal(number)
    finally:
        for number, old_handler in previous.items():
            signal.signal(number, old_handler)
        _current = None


def exit_for_signal(number: int) -> NoReturn:
    """Exit with 128 plus the signal's number; for SIGUSR1 in a SLURM job, requeue the job first."""
    if number == getattr(signal, "SIGUSR1", None):
        _requeue_slurm_job()
    sys.exit(128 + number)


def _requeue_slurm_job() -> None:
    from lightning_fabric.plugins.environments import SLURMEnvironment  # imported late: this module is used without it

    environment = SLURMEnvironment.detect() and SLURMEnvironment(requeue_signal=signal.SIGUSR1)
    if not environment or not environment.auto_requeue or environment.global_rank():
        return
    array_job, job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_JOB_ID", "")
    name = f"{array_job}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array_job else job
    process = subprocess.run(["scontrol", "requeue", name], capture_output=True, text=True)
    outcome = "requeued" if process.returncode == 0 else f"not requeued: {process.stderr.strip()}"
    log.info("job %s %s", name, outcome)
