"""One process at a time trains in a run directory."""

import os
import signal
import subprocess
import sys

import pytest

from cnnzoo.cli.run_dir import lock_run_dir
from cnnzoo.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from cnnzoo.cli.run_dir import lock_run_dir
with lock_run_dir(Path(sys.argv[1]), is_resumed=False):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process, which holds the lock of `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def test_lock_of_another_process_raises(holder, tmp_path):
    expected = pytest.raises(UserError, match="another process trains there; choose another run_dir")
    with expected, lock_run_dir(tmp_path, is_resumed=False):
        pass
    assert (tmp_path / ".lock").exists()  # it is the other process's


def test_lock_of_a_killed_process_is_free(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with lock_run_dir(tmp_path, is_resumed=True):
        assert (tmp_path / ".lock").exists()
    assert not any(tmp_path.iterdir())


def test_lock_after_a_run_that_began_since_the_check_raises(tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="already holds a finished run"), lock_run_dir(tmp_path, is_resumed=False):
        pass
    assert not (tmp_path / ".lock").exists()
    with lock_run_dir(tmp_path, is_resumed=True):
        pass
