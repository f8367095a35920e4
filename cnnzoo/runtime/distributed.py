"""Several processes that train one network, its ranks: which this one is, their one run directory, and their one end.

Three things start ranks: Lightning, which runs the first one's command again for the others of its machine; torchrun;
and SLURM's srun. They say in the environment which rank a process is, so that this is known before torch is loaded.
"""

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from cnnzoo.errors import UserError

RUN_DIR_VARIABLE = "CNNZOO_RUN_DIR"
"""Environment variable with which the first rank tells those that Lightning starts where the run goes."""
POLL_SECONDS = 0.25
"""Seconds between two looks at whether the others are alive."""
LOST_RANK_WAIT_SECONDS = 10.0
"""Seconds that a rank whose connection broke waits for the one that knows why to say so, and to end it."""
RUN_DIR_TIMEOUT = timedelta(minutes=5)

log = logging.getLogger(__name__)


def launched_by_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launched_by_slurm() -> bool:
    """Whether SLURM's srun started this process, as one of several."""
    several = int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ
    return several and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")  # as Lightning tells


def launched_by_lightning() -> bool:
    """Whether Lightning started this process for the first rank of its machine."""
    return not launched_by_torchrun() and not launched_by_slurm() and os.environ.get("LOCAL_RANK", "0") != "0"


def is_distributed() -> bool:
    """Whether something started this process as one rank among several."""
    return launched_by_torchrun() or launched_by_slurm() or launched_by_lightning() or "NODE_RANK" in os.environ


def strip_lightning_overrides(argv: list[str]) -> list[str]:
    """The command line without the words that Lightning adds for the ranks it starts.

    They say where the run goes in a way that does not take every path; the environment says so, too (`agree`).
    """
    if not launched_by_lightning():
        return argv
    return [word for word in argv if not re.match(r"hydra\.(run\.dir|job\.name|output_subdir)=", word)]


def global_rank() -> int:
    """Which rank this is, 0 for the first and for a process by itself."""
    if launched_by_slurm():
        return int(os.environ["SLURM_PROCID"])
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    machine = int(os.environ.get("NODE_RANK", "0"))
    here = int(os.environ.get("LOCAL_RANK", "0"))
    return here + machine * max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def local_rank() -> int:
    """Which rank this is among those of its machine."""
    return int(os.environ.get("SLURM_LOCALID" if launched_by_slurm() else "LOCAL_RANK", "0"))


def broadcast_run_dir(run_dir: str, *, typed: bool) -> str:
    """The run directory of all ranks; `run_dir` is what this one's command comes to, with its own clock.

    One that was `typed` is the same everywhere. Otherwise those that Lightning started are told by the first in their
    environment, those of torchrun through its store, which reaches every machine and needs no file; those of SLURM
    name it after the job, whose number a requeued one keeps. Raises UserError where there is no way to agree.
    """
    if launched_by_lightning() and RUN_DIR_VARIABLE in os.environ:
        return os.environ[RUN_DIR_VARIABLE]
    if typed:
        return run_dir
    if launched_by_slurm():
        step = os.environ.get("SLURM_STEP_ID", "0")
        job = os.environ["SLURM_JOB_ID"] + (f"_{step}" if step != "0" else "")
        return str(Path(run_dir).parent / f"slurm_{job}")
    if launched_by_torchrun():
        return _exchange_through_store(run_dir)
    if os.environ.get("NODE_RANK", "0") != "0":
        raise UserError("several machines without torchrun or srun cannot agree on a run directory: type run_dir=...")
    return run_dir


def abort_run_dir() -> None:
    """Tell the ranks that may wait for the first one's run directory that there will be none."""
    if launched_by_torchrun() and global_rank() == 0:
        with suppress(UserError):
            _exchange_through_store("")


def _exchange_through_store(run_dir: str) -> str:
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise UserError("this rendezvous of torchrun's has no store to agree on a run directory: type run_dir=...")
    from torch.distributed import DistError, TCPStore  # here: it takes seconds

    first, place = global_rank() == 0, (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    key = f"cnnzoo/run_dir/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    try:
        store = TCPStore(*place, is_master=False, timeout=RUN_DIR_TIMEOUT, wait_for_workers=False)
        if first:
            store.set(key, run_dir)
            return run_dir
        said = store.get(key).decode()
    except DistError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"rank 0 at {place[0]}:{place[1]} names no run directory: {reason}") from error
    if not said:
        raise UserError("rank 0 does not start: its own error says why")
    return said


def exit_with_parent() -> threading.Event:
    """End this process when the one that started it is gone; set what this returns when the work is done.

    Lightning's first rank and torchrun's agent end those that they started, unless they are killed themselves.
    """
    done = threading.Event()
    parent = os.getppid()

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            if os.getppid() == parent:
                continue
            if local_rank() == (1 if launched_by_lightning() else 0):  # one of them says so
                who = "rank 0" if launched_by_lightning() else "torchrun"
                print(f"error: {who} (process {parent}) was killed: the other ranks end", file=sys.stderr, flush=True)
            os._exit(1)

    if launched_by_lightning() or launched_by_torchrun():
        threading.Thread(target=watch, name="follow-parent", daemon=True).start()
    return done


@contextmanager
def supervise_ranks(trainer: Any) -> Iterator[None]:
    """Around all that ranks do together: when one of them ends before its time, so do the others.

    With Lightning's launcher the first rank looks after those that it started: one that was killed is named, one that
    ended by itself has named itself. torchrun looks after its own. `trainer` is Lightning's.
    """
    if trainer.world_size == 1:
        yield
        return
    done = threading.Event()
    processes = _LocalRanks(trainer)
    threading.Thread(target=processes.watch, args=(done,), name="watch-ranks", daemon=True).start()
    try:
        yield
        trainer.strategy.barrier()  # none is missed while it still writes
    except BaseException as error:
        if is_connection_lost(error):
            if launched_by_torchrun() and any(getattr(each, "asked", None) for each in trainer.callbacks):
                sys.exit(1)  # torchrun ends this one, and says which it has lost
            time.sleep(LOST_RANK_WAIT_SECONDS)  # who knows more ends this process meanwhile
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"rank {trainer.global_rank} has lost another rank: {reason}") from error
        if isinstance(error, Exception) and not isinstance(error, UserError) and trainer.global_rank:
            log.error("%s: %s", type(error).__name__, error)
        processes.end()
        raise
    finally:
        done.set()


class _LocalRanks:
    """The ranks of this machine that Lightning started from this process; none anywhere but in its first rank."""

    def __init__(self, trainer: Any) -> None:
        self.launcher = trainer.strategy.launcher
        self.own: list[Any] = []

    def processes(self) -> list[Any]:
        return list(getattr(self.launcher, "procs", ()))  # it starts them when it fits, not before

    def take_over(self) -> None:
        """Let Lightning's own watch see no process: every five seconds it looks, and would kill this one unexplained.

        It holds the launcher's list, which is emptied; the launcher goes on with another.
        """
        theirs = getattr(self.launcher, "procs", self.own)
        if theirs is not self.own and any(thread.name == "child-process-observer" for thread in threading.enumerate()):
            self.launcher.procs = self.own = list(theirs)
            theirs.clear()

    def watch(self, done: threading.Event) -> None:
        while not done.wait(POLL_SECONDS):
            self.take_over()
            for number, process in enumerate(self.processes(), start=1):
                code = process.poll()
                if not code or (
                    code > 128 and done.wait(LOST_RANK_WAIT_SECONDS)
                ):  # a signal asked it to end, and this one, too
                    continue
                if code != 1:  # with 1 it has said itself what went wrong
                    how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
                    log.error("error: rank %d (process %d) %s: the other ranks end", number, process.pid, how)
                self.end()
                logging.shutdown()
                sys.stdout.flush()
                os._exit(1)  # the main thread may wait for the lost rank, and cannot be woken

    def end(self) -> None:
        for process in self.processes():
            process.kill()  # one that waits in a collective does not hear anything less


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def is_connection_lost(error: BaseException) -> bool:
    """Whether `error` is how torch tells that another rank is gone."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "DistError" in kinds:
        return True
    lost = r"(Connection (closed|reset|refused)|Broken pipe|Socket).*|gloo.*(Timed out|timeout)|NCCL.*(error|timeout)"
    return "RuntimeError" in kinds and re.search(lost, str(error), re.IGNORECASE | re.DOTALL) is not None


def has_several_ranks(trainer: Any) -> bool:
    """Whether the configuration `cfg.trainer` comes to more than one rank on this machine, or to several machines."""
    devices = trainer.devices
    if isinstance(devices, str) and re.fullmatch(r"-?\d+", devices):
        devices = int(devices)
    if trainer.num_nodes != 1 or (isinstance(devices, int) and devices > 1):
        return True
    if devices not in ("auto", -1):
        parts = devices.strip(",").split(",") if isinstance(devices, str) else devices
        return not isinstance(parts, int) and len(parts) > 1
    from torch import cuda  # here: it takes seconds

    return trainer.accelerator != "cpu" and cuda.device_count() > 1


def check_trainer(trainer: Any) -> None:
    """Raise UserError for a trainer that does not fit the ranks that were started, or what they cannot do."""
    started = int(os.environ.get("WORLD_SIZE", "1")) if launched_by_torchrun() else 0
    if started and started != trainer.world_size:
        raise UserError(
            f"torchrun started {started} processes, and the trainer has {trainer.world_size} "
            f"(trainer.devices={trainer.num_devices} trainer.num_nodes={trainer.num_nodes}): type trainer=ddp"
        )
    synchronized = getattr(trainer.strategy, "_layer_sync", None) is not None  # where there are several ranks
    if synchronized and trainer.strategy.root_device.type == "cpu":
        raise UserError("trainer.sync_batchnorm=true: torch synchronizes batch norm on GPUs alone; leave it out")
