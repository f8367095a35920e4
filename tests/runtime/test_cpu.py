"""The CPU cores that this process may use, and its share of them."""

import os

import pytest

from cnnzoo.runtime import cpu
from cnnzoo.runtime.cpu import cores_per_rank, usable_cores

VARIABLES = ("LOCAL_WORLD_SIZE", "SLURM_STEP_TASKS_PER_NODE", "SLURM_CPUS_PER_TASK")


def test_usable_cores_follows_cpu_affinity():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system does not bind processes to cores")
    affinity = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(affinity)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, affinity)


@pytest.mark.parametrize(
    ("quota", "expected"), [("400000 100000", 4), ("350000 100000", 4), ("50000 100000", 1), ("max 100000", 64)]
)
def test_usable_cores_follows_limit_of_container(monkeypatch, tmp_path, quota, expected):
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(cpu, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert usable_cores() == expected


@pytest.mark.parametrize(
    ("cores", "local_ranks", "variables", "expected"),
    [
        (64, None, {}, 64),
        (64, 8, {}, 8),
        (4, 8, {}, 1),
        (64, 1, {"LOCAL_WORLD_SIZE": "8"}, 64),  # the trainer knows better
        (64, None, {"LOCAL_WORLD_SIZE": "8"}, 8),
        (64, None, {"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, 16),
        (64, 4, {"SLURM_STEP_TASKS_PER_NODE": "4"}, 16),  # the number of cores per task is not known
        (64, 4, {"SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_CPUS_PER_TASK": "16"}, 16),  # tasks not bound to cores
        (16, 4, {"SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_CPUS_PER_TASK": "16"}, 16),  # tasks bound to cores
        (1, 4, {"SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_CPUS_PER_TASK": "16"}, 1),
        (64, 8, {"SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_CPUS_PER_TASK": "64"}, 8),  # one torchrun per machine
        (64, 4, {"SLURM_CPUS_PER_TASK": "8"}, 16),  # in a batch script, which is not a task of srun
        (64, None, {"LOCAL_WORLD_SIZE": "no number"}, 64),
    ],
)
def test_cores_per_rank_divides_by_local_ranks(monkeypatch, cores, local_ranks, variables, expected):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cpu, "usable_cores", lambda: cores)
    assert cores_per_rank(local_ranks) == expected
