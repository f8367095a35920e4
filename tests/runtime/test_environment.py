"""`environment.json`: the state of the checkout, the versions, and what a resumed run adds."""

import json
import os
import socket
import subprocess

import pytest
import torch

import cnnzoo
from cnnzoo.cli.run_dir import remove_unused_run_dir
from cnnzoo.runtime import environment
from cnnzoo.runtime.environment import describe_environment, read_environment, write_environment

GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit, in the place of cnnzoo's."""
    directory = tmp_path / "checkout"
    (directory / "cnnzoo").mkdir(parents=True)
    (directory / "conf").mkdir()
    (directory / "cnnzoo/a.py").write_text("a = 1\n")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*GIT, *arguments], cwd=directory, check=True)
    monkeypatch.setattr(environment, "CHECKOUT", directory)
    return directory


def state(values):
    return values["commit"], values["changed"]


def test_commit_and_changes_are_those_of_the_checkout(checkout):
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True).stdout.strip()
    assert state(describe_environment()) == (head, False)
    (checkout / "runs").mkdir()
    (checkout / "runs/notes.txt").write_text("not code")
    assert state(describe_environment()) == (head, False)
    (checkout / "conf/new.yaml").write_text("a: 1\n")
    assert state(describe_environment()) == (head, True)
    (checkout / "conf/new.yaml").unlink()
    (checkout / "cnnzoo/a.py").write_text("a = 2\n")
    assert state(describe_environment()) == (head, True)


def test_installed_package_has_no_commit(checkout, monkeypatch):
    site_packages = checkout / ".venv/site-packages"
    site_packages.mkdir(parents=True)
    monkeypatch.setattr(environment, "CHECKOUT", site_packages)
    assert state(describe_environment()) == (None, None)


@pytest.mark.parametrize("problem", ["missing", "fails", "hangs"])
def test_failing_git_gives_none(problem, checkout, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    if problem != "missing":
        git = tmp_path / "bin/git"
        git.write_text("#!/bin/sh\nexit 1\n" if problem == "fails" else "#!/bin/sh\nexec /bin/sleep 60\n")
        git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(environment, "GIT_TIMEOUT_SECONDS", 0.2)
    assert state(describe_environment()) == (None, None)


def test_versions_and_machine():
    values = describe_environment()
    assert values["packages"]["torch"] == torch.__version__
    assert values["packages"]["cnnzoo"] == cnnzoo.__version__
    assert values["packages"]["pytorch-lightning"][0] == "2"
    assert values["cores"] >= 1
    assert len(values["gpus"]) == torch.cuda.device_count()
    words = {str(value) for value in (*values.values(), *values["packages"].values())}
    assert json.loads(json.dumps(values)) == values
    assert socket.gethostname() not in words
    assert not any(word.startswith(("/", "~")) for word in words)


def test_resumed_run_keeps_the_first_environment(tmp_path, monkeypatch):
    for n in range(3):
        monkeypatch.setattr(environment, "describe_environment", lambda n=n: {"commit": str(n)})
        write_environment(tmp_path, is_resumed=n > 0)
    assert read_environment(tmp_path) == {"commit": "0", "resumed": [{"commit": "1"}, {"commit": "2"}]}
    (tmp_path / "environment.json").unlink()  # as of a run of an earlier version
    write_environment(tmp_path, is_resumed=True)
    assert read_environment(tmp_path) == {"resumed": [{"commit": "2"}]}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_directory_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    tmp_path.chmod(0o500)
    write_environment(tmp_path, is_resumed=False)
    tmp_path.chmod(0o700)
    assert "environment.json: cannot be written: Permission denied" in caplog.text


def test_missing_directory_is_a_warning(tmp_path, caplog):
    write_environment(tmp_path / "gone", is_resumed=False)
    assert "environment.json: cannot be written: No such file or directory" in caplog.text


def test_run_dir_with_only_the_environment_is_removed(tmp_path):
    (tmp_path / "run/.hydra").mkdir(parents=True)
    write_environment(tmp_path / "run", is_resumed=False)
    remove_unused_run_dir(tmp_path / "run")
    assert not (tmp_path / "run").exists()
