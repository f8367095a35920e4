"""Fixtures of several test files: `train.py` in a subprocess, a fork and this process, and a folder of images."""

import os
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
import torch
from PIL import Image

from cnnzoo import cli
from cnnzoo.jobs import train
from tests.helpers import ROOT
from tests.helpers.fork_server import ForkServer

MAX_TEST_PROCESSES = 4


def pytest_xdist_auto_num_workers(config):
    """One process per core; none if test files are named, because a few tests end before more processes start."""
    arguments = config.invocation_params.args
    names_tests = any("::" in argument or argument.endswith(".py") for argument in arguments)
    return 0 if names_tests else min(os.cpu_count() or 1, MAX_TEST_PROCESSES)


def pytest_configure(config):
    """Use one thread in each of several test processes, because threads that wait for a core spin."""
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def shell():
    """`shell("model=lenet", ...)` runs `python train.py` with these overrides in a subprocess."""

    def run(*overrides: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *overrides],
            cwd=cwd or ROOT,
            env={**os.environ, "COLUMNS": "120", **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(scope="session")
def fork(tmp_path_factory):
    """`fork("model=lenet", ...)` does as `shell`, in a fork of a process that has imported torch: 5 s less CPU time.

    It has one thread. `job` names another script, and `statements` is Python that runs instead of it.
    """
    server, outputs = ForkServer(ROOT), tmp_path_factory.mktemp("outputs")

    def run(
        *overrides: str, job: str = "train", statements: str | None = None, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        options = {"out": outputs / "out", "err": outputs / "err", "statements": statements, "timeout": 300}
        environment = {**os.environ, "COLUMNS": "120", **environment}
        argv = [str(ROOT / f"{job}.py"), *overrides]
        code, _ = server.run(argv, cwd=cwd or ROOT, environment=environment, **options)
        texts = (options[name].read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess(argv, code, *texts)

    yield run
    server.close()


@pytest.fixture
def job(tmp_path, monkeypatch):
    """`job("model=lenet", ...)` runs `train.py` in this process, in `tmp_path/run`; returns what `main` returns."""

    def run(*overrides: str) -> float | None:
        run_dir = tmp_path / "run"
        argv = [
            *overrides,
            f"run_dir={run_dir}",
            "trainer=cpu",
            "trainer.enable_progress_bar=false",
            "callbacks.progress=null",
        ]
        argv, _ = cli.prepare(argv, job="train", help_text=train.__doc__)
        with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
            cfg = hydra.compose("train", overrides=argv)
        monkeypatch.setattr(cli, "was_typed", lambda key: any(o.startswith(f"{key}=") for o in overrides))
        (run_dir / ".hydra").mkdir(parents=True)
        recorded = "".join(f"- {override}\n" for override in overrides) or "[]"
        (run_dir / ".hydra" / "overrides.yaml").write_text(recorded)
        return train.main(cfg)

    return run


@pytest.fixture
def flowers(tmp_path):
    """A folder with two classes of 40 PNG files, which are easy to tell apart. Its name has special characters."""
    root = tmp_path / "my flowers, (red=1) é"
    for name, color in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (root / name).mkdir(parents=True)
        for n in range(40):
            Image.new("RGB", (20, 24), tuple(c + n % 20 for c in color)).save(root / name / f"{n}.png")
    return root
