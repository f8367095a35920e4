"""Which rank a process is, where it runs, who looks after the others; whole runs of several are in test_scale.py."""

import os
import signal
import subprocess
import threading
from types import SimpleNamespace

import hydra
import pytest
import torch
from lightning_fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

from cnnzoo import cli
from cnnzoo.errors import UserError
from cnnzoo.runtime import distributed


def test_lightnings_own_watch_which_would_kill_without_a_word_sees_no_process():
    with subprocess.Popen(["sleep", "60"]) as process:
        launcher = SimpleNamespace(procs=[process])
        observer = _ChildProcessObserver(os.getpid(), launcher.procs, sleep_period=1)
        observer.start()
        others = distributed._LocalRanks(SimpleNamespace(strategy=SimpleNamespace(launcher=launcher)))
        others.take_over()
        others.take_over()
        assert others.processes() == [process]
        observer.join(timeout=20)
        assert not observer.is_alive()  # of none to look after
        assert process.poll() is None
        others.end()
        assert process.wait() == -signal.SIGKILL


def test_a_rank_that_a_signal_ended_is_no_error_where_this_one_ends_as_well(monkeypatch, caplog):
    ended = []
    monkeypatch.setattr(distributed.os, "_exit", ended.append)
    ranks_of = SimpleNamespace(procs=[SimpleNamespace(pid=7, poll=lambda: 128 + signal.SIGTERM, kill=lambda: None)])
    others = distributed._LocalRanks(SimpleNamespace(strategy=SimpleNamespace(launcher=ranks_of)))
    done = threading.Event()
    threading.Timer(2 * distributed.POLL_SECONDS, done.set).start()
    others.watch(done)
    assert (ended, caplog.text) == ([], "")


@pytest.fixture
def alone(monkeypatch):
    """An environment without ranks, to which a test adds."""
    for name in (
        *(
            "RANK",
            "LOCAL_RANK",
            "NODE_RANK",
            "WORLD_SIZE",
            "LOCAL_WORLD_SIZE",
            "TORCHELASTIC_RUN_ID",
            distributed.RUN_DIR_VARIABLE,
        ),
        *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_JOB_NAME"),
    ):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_process_by_itself_is_rank_0_and_goes_where_it_likes(alone):
    assert (
        distributed.global_rank(),
        distributed.local_rank(),
        distributed.broadcast_run_dir("runs/here", typed=False),
    ) == (0, 0, "runs/here")


def test_jobs_of_slurm_go_where_their_number_says(alone):
    values = {"SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "77"}
    for name, value in values.items():
        alone.setenv(name, value)
    assert (distributed.global_rank(), distributed.local_rank()) == (5, 1)
    assert (
        distributed.broadcast_run_dir("runs/digits/lenet5/2026-01-01_00-00-00", typed=False)
        == "runs/digits/lenet5/slurm_77"
    )
    assert distributed.broadcast_run_dir("mine", typed=True) == "mine"
    alone.setenv("SLURM_STEP_ID", "2")
    assert (
        distributed.broadcast_run_dir("runs/digits/lenet5/2026-01-01_00-00-00", typed=False)
        == "runs/digits/lenet5/slurm_77_2"
    )
    words, _ = cli.prepare(["model=lenet"], config="train", help_text="")
    assert words[1:] == [
        "hydra.run.dir='runs/digits/lenet5/slurm_77_2'",
        "hydra.output_subdir=null",
        "hydra/job_logging=rank",
    ]
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        hydra.compose("train", overrides=words)
    with pytest.raises(UserError, match="leave torchrun or srun out"):
        cli.prepare(["-m", "seed=1,2"], config="train", help_text="")


def test_a_rank_of_lightnings_goes_where_the_first_one_says(alone):
    alone.setenv("LOCAL_RANK", "1")
    alone.setenv(distributed.RUN_DIR_VARIABLE, '/runs/"it\'s" $x')
    typed = ["model=lenet", 'hydra.run.dir="/runs/"it\'s" $x"', "hydra.job.name=train_ddp_process_1"]
    words, _ = cli.prepare(distributed.strip_lightning_overrides(typed), config="train", help_text="")
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        cfg = hydra.compose("train", overrides=words, return_hydra_config=True)
    assert cfg.hydra.run.dir == '/runs/"it\'s" $x'
    assert cfg.hydra.output_subdir is None


def test_machines_without_a_launcher_need_a_run_directory(alone):
    alone.setenv("NODE_RANK", "1")
    with pytest.raises(UserError, match=r"type run_dir="):
        distributed.broadcast_run_dir("runs/here", typed=False)
    assert distributed.broadcast_run_dir("runs/here", typed=True) == "runs/here"


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
def test_how_many_ranks_a_configuration_has(several, values):
    assert (
        distributed.has_several_ranks(SimpleNamespace(**{"num_nodes": 1, "accelerator": "auto", **values})) == several
    )


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
def test_what_says_that_another_rank_is_gone(error, lost):
    assert distributed.is_connection_lost(error) == lost


def test_a_trainer_that_does_not_fit_its_ranks_is_a_line(alone):
    cpu = torch.device("cpu")
    strategy = SimpleNamespace(root_device=cpu, _layer_sync=None)
    trainer = SimpleNamespace(world_size=1, num_nodes=1, num_devices=1, strategy=strategy)
    distributed.check_trainer(trainer)
    alone.setenv("TORCHELASTIC_RUN_ID", "none")
    alone.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match=r"torchrun started 4 processes, and the trainer has 1 .* type trainer=ddp"):
        distributed.check_trainer(trainer)
    trainer.world_size, strategy._layer_sync = 4, object()
    with pytest.raises(UserError, match=r"trainer.sync_batchnorm=true: torch synchronizes batch norm on GPUs alone"):
        distributed.check_trainer(trainer)
    strategy.root_device = torch.device("cuda")
    distributed.check_trainer(trainer)
