"""How many CPU cores this process may use."""

import os
import re
from contextlib import suppress
from pathlib import Path

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # in a container: microseconds of CPU time in each period, and the period


def usable_cores() -> int:
    """The number of CPU cores that this process may use.

    These are the cores of its affinity mask, where the system has one, and at most a container's limit of CPU time.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no such file, or "max", which means no limit
        quota, period = map(int, CPU_QUOTA.read_text().split())
        cores = min(cores, -(-quota // period))
    return cores


def cores_per_rank(local_ranks: int | None = None) -> int:
    """The number of CPU cores for each of the ranks on this machine, at least 1.

    local_ranks: how many ranks share the machine. None takes the number from the environment variables of torchrun or
        srun; without these it is 1.

    With `srun --cpus-per-task`, the cores of this process are already its share, and are divided only among the ranks
    that were started within the task.
    """
    cores, tasks = usable_cores(), _env_int("SLURM_STEP_TASKS_PER_NODE")
    ranks = local_ranks or _env_int("LOCAL_WORLD_SIZE") or tasks or 1
    cores_per_task = _env_int("SLURM_CPUS_PER_TASK")
    if tasks and cores_per_task:
        # srun sets both. The affinity mask is the task's only if SLURM binds tasks to cores.
        cores, ranks = min(cores, cores_per_task), max(1, ranks // tasks)
    return max(1, cores // ranks)


def _env_int(name: str) -> int | None:
    """The number that an environment variable starts with, such as 4 for "4(x2)"; None if there is none."""
    match = re.match(r"\d+", os.environ.get(name, ""))
    return None if match is None else int(match.group())
