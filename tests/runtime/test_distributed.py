"""Ranks: which one a process is, their run directory, and what ends them. Whole runs are in training/test_ddp.py."""

import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import hydra
import pytest
import torch
from lightning_fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

from cnnzoo import cli
from cnnzoo.errors import UserError
from cnnzoo.runtime import distributed
from tests.helpers import ROOT

VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "TORCHELASTIC_RUN_ID",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NTASKS",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "SLURM_JOB_NAME",
    distributed.RUN_DIR_VARIABLE,
)
SLURM = {"SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "77"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "3", "LOCAL_RANK": "1"}
RUN_DIR = "runs/digits/lenet5/2026-01-01_00-00-00"


@pytest.fixture
def clean_env(monkeypatch):
    """Monkeypatch, in an environment without any launcher's variables."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def set_env(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def fake_trainer(processes):
    """A trainer whose launcher has started these processes."""
    return SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(procs=processes)))


@pytest.mark.parametrize("name", distributed.RANK_VARIABLES)
def test_rank_variable_that_is_no_number_is_reported(clean_env, name):
    set_env(clean_env, {**TORCHRUN, name: "abc"})
    with pytest.raises(UserError, match=f"^{name}=abc: expected a number, .*unset {name}$"):
        distributed.check_rank_variables()
    assert name not in os.environ
    distributed.check_rank_variables()


def test_lightning_observer_is_detached():
    with subprocess.Popen(["sleep", "60"]) as process:
        trainer = fake_trainer([process])
        observer = _ChildProcessObserver(os.getpid(), trainer.strategy.launcher.procs, sleep_period=1)
        observer.start()
        child_ranks = distributed._ChildRanks(trainer)
        child_ranks.detach_lightning_observer()
        child_ranks.detach_lightning_observer()
        assert child_ranks.processes() == [process]
        observer.join(timeout=20)
        assert not observer.is_alive()  # it ends when it has no processes to observe
        assert process.poll() is None
        child_ranks.kill()
        assert process.wait() == -signal.SIGKILL


def test_child_rank_stopped_by_signal_is_no_error(monkeypatch, caplog):
    exits = []
    monkeypatch.setattr(distributed.os, "_exit", exits.append)
    process = SimpleNamespace(pid=7, poll=lambda: 128 + signal.SIGTERM, kill=lambda: None)
    child_ranks = distributed._ChildRanks(fake_trainer([process]))
    finished = threading.Event()
    threading.Timer(2 * distributed.POLL_SECONDS, finished.set).start()  # this rank stops as well
    child_ranks.watch(finished)
    assert (exits, caplog.text) == ([], "")


@pytest.mark.parametrize(
    ("variables", "global_rank", "local_rank"),
    [
        pytest.param({}, 0, 0, id="no launcher"),
        pytest.param({"LOCAL_RANK": "0", "NODE_RANK": "0", "WORLD_SIZE": "2"}, 0, 0, id="lightning, first rank"),
        pytest.param({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, 1, 1, id="lightning"),
        pytest.param({"NODE_RANK": "1"}, 1, 0, id="second machine, before Lightning sets LOCAL_RANK"),
        pytest.param({"NODE_RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, 5, 1, id="second machine"),
        pytest.param(TORCHRUN, 3, 1, id="torchrun"),
        pytest.param({**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0"}, 0, 0, id="torchrun, first rank"),
        pytest.param({**TORCHRUN, "RANK": "8", "LOCAL_RANK": "0"}, 8, 0, id="torchrun, first rank of a machine"),
        pytest.param(SLURM, 5, 1, id="slurm"),
        pytest.param({**SLURM, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, 0, 0, id="slurm, first rank"),
        pytest.param({**SLURM, **TORCHRUN, "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, 3, 1, id="torchrun by srun"),
        pytest.param({**SLURM, "SLURM_JOB_NAME": "bash", "SLURM_PROCID": "1"}, 0, 0, id="slurm, interactive shell"),
        pytest.param(
            {**SLURM, "SLURM_JOB_NAME": "interactive", "SLURM_PROCID": "0", "LOCAL_RANK": "1"},
            1,
            1,
            id="lightning in a slurm shell",
        ),
        pytest.param({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "LOCAL_RANK": "1"}, 1, 1, id="slurm, one task"),
    ],
)
def test_rank_of_each_launcher(clean_env, variables, global_rank, local_rank):
    set_env(clean_env, variables)
    assert (distributed.global_rank(), distributed.local_rank()) == (global_rank, local_rank)
    assert distributed.is_rank_zero() == (global_rank == 0)


def test_ranks_are_known_without_torch():
    command = "import sys, cnnzoo.runtime.console as c; c.global_rank(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT).returncode == 0


def test_run_dir_without_launcher_is_unchanged(clean_env):
    assert distributed.broadcast_run_dir("runs/here", explicit=False) == "runs/here"


def test_run_dir_of_slurm_is_named_after_the_job(clean_env):
    set_env(clean_env, SLURM)
    assert distributed.broadcast_run_dir(RUN_DIR, explicit=False) == "runs/digits/lenet5/slurm_77"
    assert distributed.broadcast_run_dir("mine", explicit=True) == "mine"
    clean_env.setenv("SLURM_STEP_ID", "2")
    assert distributed.broadcast_run_dir(RUN_DIR, explicit=False) == "runs/digits/lenet5/slurm_77_2"
    argv, _ = cli.prepare(["model=lenet"], job="train", help_text="")
    assert argv[1:] == [
        "hydra.run.dir='runs/digits/lenet5/slurm_77_2'",
        "hydra.output_subdir=null",
        "hydra/job_logging=rank",
    ]
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        hydra.compose("train", overrides=argv)
    with pytest.raises(UserError, match="run it without torchrun or srun"):
        cli.prepare(["-m", "seed=1,2"], job="train", help_text="")


def test_run_dir_of_lightning_rank_is_that_of_rank_0(clean_env):
    clean_env.setenv("LOCAL_RANK", "1")
    clean_env.setenv(distributed.RUN_DIR_VARIABLE, '/runs/"it\'s" $x')
    argv = ["model=lenet", 'hydra.run.dir="/runs/"it\'s" $x"', "hydra.job.name=train_ddp_process_1"]
    argv, _ = cli.prepare(distributed.strip_lightning_overrides(argv), job="train", help_text="")
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        cfg = hydra.compose("train", overrides=argv, return_hydra_config=True)
    assert cfg.hydra.run.dir == '/runs/"it\'s" $x'
    assert cfg.hydra.output_subdir is None


def test_run_dir_on_second_machine_must_be_explicit(clean_env):
    clean_env.setenv("NODE_RANK", "1")
    with pytest.raises(UserError, match=r"^NODE_RANK=1: .* type run_dir="):
        distributed.broadcast_run_dir("runs/here", explicit=False)
    assert distributed.broadcast_run_dir("runs/here", explicit=True) == "runs/here"


@pytest.mark.parametrize(
    ("several", "values"),
    [
        (False, {"devices": 1}),
        (False, {"devices": "1"}),
        (False, {"devices": "auto", "accelerator": "cpu"}),
        (False, {"devices": [3]}),
        (False, {"devices": "3,"}),
        (True, {"devices": 2}),
        (True, {"devices": "2"}),
        (True, {"devices": [0, 3]}),
        (True, {"devices": "0,3"}),
        (True, {"devices": 1, "num_nodes": 2}),
    ],
)
def test_has_several_ranks(several, values):
    cfg = SimpleNamespace(**{"num_nodes": 1, "accelerator": "auto", **values})
    assert distributed.has_several_ranks(cfg) == several


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (torch.distributed.DistBackendError("NCCL communicator was aborted"), True),
        (RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:4242"), True),
        (RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1800000ms"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (UserError("Connection closed by peer"), False),
    ],
)
def test_is_connection_lost(error, lost):
    assert distributed.is_connection_lost(error) == lost


def test_check_trainer_mismatch_raises(clean_env):
    cpu = torch.device("cpu")
    strategy = SimpleNamespace(root_device=cpu, _layer_sync=None)
    trainer = SimpleNamespace(world_size=1, num_nodes=1, num_devices=1, strategy=strategy)
    distributed.check_trainer(trainer)
    clean_env.setenv("TORCHELASTIC_RUN_ID", "none")
    clean_env.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match=r"torchrun started 4 processes, but the trainer has 1 .* type trainer=ddp"):
        distributed.check_trainer(trainer)
    clean_env.delenv("TORCHELASTIC_RUN_ID")
    for name, value in SLURM.items():
        clean_env.setenv(name, value)
    with pytest.raises(UserError, match=r"srun started \d+ processes, but the trainer has 1 .* type trainer=ddp"):
        distributed.check_trainer(trainer)
    clean_env.setenv("SLURM_JOB_NAME", "bash")
    distributed.check_trainer(trainer)
    clean_env.setenv("TORCHELASTIC_RUN_ID", "none")
    trainer.world_size, strategy._layer_sync = 4, object()
    with pytest.raises(UserError, match=r"trainer.sync_batchnorm=true: torch synchronizes batch norm only on GPUs"):
        distributed.check_trainer(trainer)
    strategy.root_device = torch.device("cuda")
    distributed.check_trainer(trainer)
