"""Training on several processes, the ranks: which rank this process is, the run directory that all ranks share, and
how all of them end when one does.

Ranks are started by one of three launchers: Lightning, which runs the command of the first rank again for each other
rank of the machine; torchrun; and SLURM's srun. Environment variables of the launcher say which rank a process is, so
nothing here imports torch before it is needed.
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
from cnnzoo.runtime.signals import signal_pending

RUN_DIR_VARIABLE = "CNNZOO_RUN_DIR"
"""Environment variable through which the first rank passes its run directory to the ranks that Lightning starts."""
RANK_VARIABLES = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"),
)
"""Environment variables of launchers that are numbers."""
RUN_DIR_TIMEOUT = timedelta(minutes=5)
POLL_SECONDS = 0.25
"""Seconds between two checks whether the other processes are alive."""
LOST_RANK_WAIT_SECONDS = 10.0
"""Seconds that a rank waits after it lost its connection. Meanwhile the process that knows the reason reports it."""

log = logging.getLogger(__name__)


def check_rank_variables() -> None:
    """Raise UserError if one of `RANK_VARIABLES` is not a number; it is unset, so that this process is the only one."""
    for name in RANK_VARIABLES:
        if not os.environ.get(name, "0").isdecimal():
            value = os.environ.pop(name)
            raise UserError(f"{name}={value}: expected a number, as torchrun and srun set it; type: unset {name}")


def launched_by_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launched_by_slurm() -> bool:
    """Whether SLURM's srun started this process as one of several ranks.

    As in Lightning, torchrun goes first where srun starts one torchrun per machine, and the processes of an interactive
    job are not ranks: there SLURM's variables belong to the shell.
    """
    if launched_by_torchrun() or os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return False
    return int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ


def launched_by_lightning() -> bool:
    """Whether Lightning started this process; it does not start the first rank of a machine."""
    return not launched_by_torchrun() and not launched_by_slurm() and os.environ.get("LOCAL_RANK", "0") != "0"


def is_distributed() -> bool:
    """Whether this process was started as one of several ranks."""
    return launched_by_torchrun() or launched_by_slurm() or launched_by_lightning() or "NODE_RANK" in os.environ


def global_rank() -> int:
    """The rank of this process among those of all machines; 0 for the first one and for a process without a launcher.

    torchrun and SLURM set it. Lightning's launcher sets only the number of the machine and the rank on that machine:
    without LOCAL_WORLD_SIZE the result is exact on the first machine, and on the others positive but perhaps too small.
    """
    if launched_by_slurm():
        return int(os.environ["SLURM_PROCID"])
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    ranks_per_node = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return int(os.environ.get("NODE_RANK", "0")) * ranks_per_node + int(os.environ.get("LOCAL_RANK", "0"))


def local_rank() -> int:
    """The rank of this process among those of its machine."""
    return int(os.environ.get("SLURM_LOCALID" if launched_by_slurm() else "LOCAL_RANK", "0"))


def is_rank_zero() -> bool:
    """Whether this process is the first rank, or the only one."""
    return global_rank() == 0


def strip_lightning_overrides(argv: list[str]) -> list[str]:
    """The command line without the overrides that Lightning appends for the ranks it starts.

    They set the run directory in quotes that not every path survives; `broadcast_run_dir` sets it instead.
    """
    if not launched_by_lightning():
        return argv
    return [argument for argument in argv if not re.match(r"hydra\.(run\.dir|job\.name|output_subdir)=", argument)]


def broadcast_run_dir(run_dir: str, *, explicit: bool) -> str:
    """The run directory that all ranks use.

    run_dir: the directory of this rank's own configuration. It usually contains a time, which differs between ranks.
    explicit: whether the command line sets `run_dir=`, which is then the same on all ranks.

    Ranks that Lightning started read the directory from `RUN_DIR_VARIABLE`. Ranks of torchrun read it from torchrun's
    store, which reaches every machine and needs no shared file. Ranks of SLURM name it after the job's number, which
    a requeued job keeps. Raises UserError where the ranks cannot agree.
    """
    if launched_by_lightning() and RUN_DIR_VARIABLE in os.environ:
        return os.environ[RUN_DIR_VARIABLE]
    if explicit:
        return run_dir
    if launched_by_slurm():
        step = os.environ.get("SLURM_STEP_ID", "0")
        job = os.environ["SLURM_JOB_ID"] + (f"_{step}" if step != "0" else "")
        return str(Path(run_dir).parent / f"slurm_{job}")
    if launched_by_torchrun():
        return _exchange_through_store(run_dir)
    node_rank = os.environ.get("NODE_RANK", "0")
    if node_rank != "0":
        raise UserError(
            f"NODE_RANK={node_rank}: machines agree on a run directory only with torchrun or srun; type run_dir=DIR"
        )
    return run_dir


def abort_run_dir() -> None:
    """Tell the ranks that wait for the run directory of rank 0 that rank 0 has failed."""
    if launched_by_torchrun() and is_rank_zero():
        with suppress(UserError):
            _exchange_through_store("")


def _exchange_through_store(run_dir: str) -> str:
    """Write `run_dir` to torchrun's store on rank 0, read it on the others; an empty one means that rank 0 failed."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise UserError("torchrun: this rendezvous has no store to agree on a run directory; type run_dir=DIR")
    from torch.distributed import DistError, TCPStore  # imported here: it takes seconds

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    key = f"cnnzoo/run_dir/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    try:
        store = TCPStore(host, port, is_master=False, timeout=RUN_DIR_TIMEOUT, wait_for_workers=False)
        if is_rank_zero():
            store.set(key, run_dir)
            return run_dir
        received = store.get(key).decode()
    except DistError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"rank 0 at {host}:{port} did not send its run directory: {reason}") from error
    if not received:
        raise UserError("rank 0 did not start; its own error says why")
    return received


def exit_with_parent() -> threading.Event:
    """Start a thread that ends this process when its parent is gone; set the returned event to stop the thread.

    Lightning's first rank and torchrun's agent end the ranks that they started, except when they are killed.
    """
    finished = threading.Event()
    parent = os.getppid()

    def watch() -> None:
        while not finished.wait(POLL_SECONDS):
            if os.getppid() == parent:
                continue
            if local_rank() == (1 if launched_by_lightning() else 0):  # one rank prints the message for all
                name = "rank 0" if launched_by_lightning() else "torchrun"
                print(f"error: {name} (process {parent}) was killed: the other ranks end", file=sys.stderr, flush=True)
            os._exit(1)

    if launched_by_lightning() or launched_by_torchrun():
        threading.Thread(target=watch, name="watch-parent", daemon=True).start()
    return finished


@contextmanager
def supervise_ranks(trainer: Any) -> Iterator[None]:
    """End all ranks when one of them ends early; put it around everything that the ranks do together.

    With Lightning's launcher, the first rank of a machine watches the ranks that it started and logs which of them was
    killed. A rank that failed has printed its own error. torchrun watches its ranks itself. Raises UserError on a rank
    that loses its connection to another one.

    trainer: Lightning's Trainer.
    """
    if trainer.world_size == 1:
        yield
        return
    finished = threading.Event()
    child_ranks = _ChildRanks(trainer)
    threading.Thread(target=child_ranks.watch, args=(finished,), name="watch-ranks", daemon=True).start()
    try:
        yield
        trainer.strategy.barrier()  # a rank that is still writing must not look lost
    except BaseException as error:
        if is_connection_lost(error):
            if launched_by_torchrun() and signal_pending():
                sys.exit(1)  # torchrun ends this rank and reports the one that is lost
            time.sleep(LOST_RANK_WAIT_SECONDS)  # the process that knows more reports it and ends this rank meanwhile
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"rank {trainer.global_rank} lost its connection to another rank: {reason}") from error
        if isinstance(error, Exception) and not isinstance(error, UserError) and trainer.global_rank:
            log.error("%s: %s", type(error).__name__, error)
        child_ranks.kill()
        raise
    finally:
        finished.set()


class _ChildRanks:
    """The ranks that Lightning started from this process; empty except on the first rank of a machine."""

    def __init__(self, trainer: Any) -> None:
        self.launcher = trainer.strategy.launcher
        self._processes: list[Any] = []  # the launcher's new list, once the observer is detached

    def processes(self) -> list[Any]:
        """The processes so far; Lightning starts them when fitting begins."""
        return list(getattr(self.launcher, "procs", ()))

    def detach_lightning_observer(self) -> None:
        """Give the launcher a new list of its processes, and empty the list that Lightning's observer thread reads.

        The observer looks every five seconds and, when a rank has failed, kills this process without an error message.
        """
        processes = getattr(self.launcher, "procs", self._processes)
        is_observed = any(thread.name == "child-process-observer" for thread in threading.enumerate())
        if processes is not self._processes and is_observed:
            self.launcher.procs = self._processes = list(processes)
            processes.clear()

    def watch(self, finished: threading.Event) -> None:
        """Until `finished` is set, wait for a process that ends with an error; then end the others and this process."""
        while not finished.wait(POLL_SECONDS):
            self.detach_lightning_observer()
            for rank, process in enumerate(self.processes(), start=1):
                code = process.poll()
                if not code:
                    continue
                if code > 128 and finished.wait(LOST_RANK_WAIT_SECONDS):
                    continue  # a signal stopped that rank, and this one as well
                if code != 1:  # a rank that exits with 1 has printed its own error
                    outcome = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
                    log.error("error: rank %d (process %d) %s: the other ranks end", rank, process.pid, outcome)
                self.kill()
                logging.shutdown()
                sys.stdout.flush()
                os._exit(1)  # the main thread may be waiting for the lost rank in a collective

    def kill(self) -> None:
        for process in self.processes():
            process.kill()  # SIGKILL, because a process in a collective does not react to SIGTERM


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def is_connection_lost(error: BaseException) -> bool:
    """Whether `error` is one that torch raises when another rank is gone."""
    type_names = {base.__name__ for base in type(error).__mro__}  # names, because torch may not be imported
    if "DistError" in type_names:
        return True
    pattern = (
        r"(Connection (closed|reset|refused)|Broken pipe|Socket).*|gloo.*(Timed out|timeout)|NCCL.*(error|timeout)"
    )
    return "RuntimeError" in type_names and re.search(pattern, str(error), re.IGNORECASE | re.DOTALL) is not None


def has_several_ranks(trainer: Any) -> bool:
    """Whether the configuration group `trainer` asks for more than one device or machine."""
    devices = trainer.devices
    if isinstance(devices, str) and re.fullmatch(r"-?\d+", devices):
        devices = int(devices)
    if trainer.num_nodes != 1 or (isinstance(devices, int) and devices > 1):
        return True
    if devices not in ("auto", -1):
        indices = devices.strip(",").split(",") if isinstance(devices, str) else devices
        return not isinstance(indices, int) and len(indices) > 1
    from torch import cuda  # imported here: it takes seconds

    return trainer.accelerator != "cpu" and cuda.device_count() > 1


def check_trainer(trainer: Any) -> None:
    """Raise UserError if Lightning's `trainer` does not match the launcher's ranks, or asks for what they cannot do."""
    num_started = int(os.environ.get("WORLD_SIZE", "1")) if launched_by_torchrun() else 0
    if launched_by_slurm():
        num_started = int(os.environ["SLURM_NTASKS"])
    if num_started and num_started != trainer.world_size:
        launcher = "torchrun" if launched_by_torchrun() else "srun"
        advice = "trainer=ddp" if launched_by_torchrun() else "trainer=ddp trainer.num_nodes=N trainer.devices=N"
        raise UserError(
            f"{launcher} started {num_started} processes, but the trainer has {trainer.world_size} "
            f"(trainer.devices={trainer.num_devices} trainer.num_nodes={trainer.num_nodes}); type {advice}"
        )
    if trainer.num_nodes > 1 and not num_started and not launched_by_slurm() and "NODE_RANK" not in os.environ:
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes}: start it on every machine with torchrun or srun, or leave it out"
        )
    sync_batchnorm = getattr(trainer.strategy, "_layer_sync", None) is not None  # only strategies with ranks have it
    if sync_batchnorm and trainer.strategy.root_device.type == "cpu":
        raise UserError("trainer.sync_batchnorm=true: torch synchronizes batch norm only on GPUs; leave it out")
