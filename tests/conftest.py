"""What several test files use: the job run as a person runs it, and in this process."""

import os
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
import torch
from PIL import Image

import train
from cnnzoo import cli
from tests.helpers import ROOT

MOST = 4
"""Processes that share the tests."""


def pytest_xdist_auto_num_workers(config):
    """One a core; none where tests are named, which a second process would only start later."""
    named = any("::" in word or word.endswith(".py") for word in config.invocation_params.args)
    return 0 if named else min(os.cpu_count() or 1, MOST)


def pytest_configure(config):
    """One thread in each of several processes: a team that waits for a core spins."""
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def shell():
    """`shell("model=lenet", ...)`: `python train.py` with these words, in a process of its own."""

    def run(*words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *words],
            cwd=cwd or ROOT,
            env={**os.environ, "COLUMNS": "120", **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture
def job(tmp_path):
    """`job("model=lenet", ...)`: the same in this process, in `tmp_path/run`; gives what `main` returns."""

    def run(*words: str) -> float | None:
        run_dir = tmp_path / "run"
        argv = [
            *words,
            f"run_dir={run_dir}",
            "trainer=cpu",
            "trainer.enable_progress_bar=false",
            "callbacks.progress=null",
        ]
        prepared, _ = cli.prepare(argv, config="train", help_text=train.__doc__)
        with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
            cfg = hydra.compose("train", overrides=prepared)
        (run_dir / ".hydra").mkdir(parents=True)
        (run_dir / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in words) or "[]")
        return train.main(cfg)

    return run


@pytest.fixture
def flowers(tmp_path):
    """A flat folder of two classes that are easy to tell apart, 40 PNG files each; its name is awkward."""
    root = tmp_path / "my flowers, (red=1) é"
    for name, color in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (root / name).mkdir(parents=True)
        for n in range(40):
            Image.new("RGB", (20, 24), tuple(c + n % 20 for c in color)).save(root / name / f"{n}.png")
    return root
