"""A network that is added as CONTRIBUTING.md says works everywhere, and passes the tests of all networks."""

import shutil
import subprocess
import sys

import pytest

from tests.helpers import ROOT
from tests.helpers.docs import CONTRIBUTING, named_files, read_commands

SHORT = ("trainer=cpu", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "run_dir=run")


@pytest.fixture
def checkout(tmp_path):
    """A copy of the checkout with the files of the page, and their one line in a file that was there."""
    directory = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "runs", "site", "*.egg-info", "benchmarks", "docs")
    shutil.copytree(ROOT, directory, ignore=ignored)
    for name, text in named_files(CONTRIBUTING).items():
        assert not (directory / name).exists()
        (directory / name).write_text(text)
    package = directory / "cnnzoo/models/__init__.py"
    package.write_text(package.read_text().replace("    nin,\n", "    nin,\n    plainnet,\n"))
    return directory


def test_page_adds_two_files():
    assert set(named_files(CONTRIBUTING)) == {"cnnzoo/models/plainnet.py", "conf/model/plainnet.yaml"}


@pytest.mark.long
def test_network_of_the_page_is_in_the_zoo(checkout):
    commands = [command for command in read_commands([CONTRIBUTING]) if "plainnet" in command.text]
    describe, train, tests = (list(command.words) for command in commands)
    assert (describe[1], train[1], tests[0]) == ("describe.py", "train.py", "pytest")

    def run(*arguments):
        return subprocess.run([sys.executable, *arguments], cwd=checkout, capture_output=True, text=True, timeout=600)

    described = run(*describe[1:])
    assert "5,466" in described.stdout, described.stderr
    trained = run(*train[1:], *SHORT)
    assert trained.returncode == 0, trained.stderr
    misspelt = run("train.py", "model=plainet")
    assert "did you mean plainnet" in misspelt.stderr
    tested = run("-m", *tests, "-n", "0", "-p", "no:cacheprovider")
    assert tested.returncode == 0, tested.stdout
    assert " passed" in tested.stdout
