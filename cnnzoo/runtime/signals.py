"""What ends a run before its time: Ctrl-C, SIGTERM and SIGUSR1; what is said of it, and SLURM's starting it again."""

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
from typing import Any

from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning import Trainer

from cnnzoo.runtime.files import display_path

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Upon these a run that trains is saved and stops; the second one stops it at once."""

log = logging.getLogger(__name__)


class TrainingStopped(Exception):  # noqa: N818 - nothing went wrong
    """Training was saved and stopped, as a signal asked for."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class InterruptHandler:
    """What a signal does while nothing trains: an exception, with which bars and files are closed."""

    number: int | None = None
    """The signal that was heard."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt; the second time that one ends a process comes without."""
        self.number = number
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt


def signal_pending() -> bool:
    """Whether a signal came ahead of training whose exception got lost, as in a destructor or in one of an import's."""
    handler = signal.getsignal(signal.SIGINT)
    return isinstance(handler, InterruptHandler) and handler.number is not None


@contextmanager
def handle_signals(trainer: Trainer, run_dir: Path) -> Iterator[None]:
    """Around training and testing: a signal that comes while nothing trains ends the run at once, with a line.

    The exit code is the shell's, 128 plus the signal's number. Lightning's own handlers are left out: they end with
    exit code 0 what was not done, talk to the other ranks from within the handler, and make each step of several ranks
    wait for the device to ask whether a signal came.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    at_once, before = InterruptHandler(), dict[int, Any]()
    if threading.current_thread() is threading.main_thread():  # where Python takes handlers
        before = {number: signal.signal(number, at_once) for number in SIGNALS}
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as end:
        interrupt = end.__context__ if isinstance(end, SystemExit) else end  # Lightning exits after one
        if not isinstance(interrupt, KeyboardInterrupt):
            raise
        number = at_once.number or signal.SIGINT
        kept = any((run_dir / "checkpoints").glob("*.ckpt"))
        way = f"python train.py resume={shlex.quote(display_path(run_dir))} goes on from the last checkpoint"
        log.info("stopped at once by %s; %s", signal.Signals(number).name, way if kept else "nothing was saved yet")
        exit_for_signal(number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_for_signal(number: int) -> None:
    """Exit as a signal asked for; SLURM, which sends SIGUSR1 when a job's time is nearly over, starts it again."""
    if number == getattr(signal, "SIGUSR1", None):
        _requeue()
    sys.exit(128 + number)


def _requeue() -> None:
    environment = SLURMEnvironment.detect() and SLURMEnvironment(requeue_signal=signal.SIGUSR1)
    if not environment or not environment.auto_requeue or environment.global_rank():
        return
    array, job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_JOB_ID", "")
    name = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else job
    done = subprocess.run(["scontrol", "requeue", name], capture_output=True, text=True)
    outcome = "requeued" if done.returncode == 0 else f"not requeued: {done.stderr.strip()}"
    log.info("job %s %s", name, outcome)
