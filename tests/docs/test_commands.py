"""Every command of README.md, docs/ and the help texts composes its configuration, and those that can run do.

See `tests.helpers.docs` for the markers of what needs a GPU or the network.
"""

import re
import subprocess
import sys
from importlib import import_module

import pytest

from cnnzoo import cli
from cnnzoo.cli import sweep
from cnnzoo.errors import UserError
from tests.helpers import ROOT
from tests.helpers.compose import composed_once
from tests.helpers.doc_places import RUN_OVERRIDES, create_files, create_unread_run, enter_places
from tests.helpers.docs import CONTRIBUTING, PAGES, PROGRAMS, read_commands

COMMANDS = [command for command in read_commands(PAGES) if command.job is not None]
_EXTRAS = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
EXTRAS = set(re.findall(r"^(\w+) = \[", _EXTRAS, re.MULTILINE))
SHORT = ("seconds=0.05", "rounds=1", "trainer=cpu")
SMALL = ("data.image_size=32", "data.batch_size=2")
SMALL_NETWORK = ("model.name=resnet20",)
LIMITS = {
    "train": ("trainer.max_epochs=1", *(f"trainer.limit_{stage}_batches=2" for stage in ("train", "val", "test"))),
    "resume": ("trainer.max_epochs=2", "trainer.limit_train_batches=2"),
    "benchmark": (*SHORT, "finalists=1", "loader.workers=0", "images=16", "data.batch_size=8"),
    "job=hardware": (*SHORT, "models=[resnet20]", *SMALL),
    "job=graph": (*SHORT, "variants=[eager,exported]", *SMALL, *SMALL_NETWORK),
    "job=train": (*SHORT, "loader.workers=0", *SMALL),
    "job=inference": (*SHORT, "batch_sizes=[1]", "compile=false", SMALL[0], *SMALL_NETWORK),
    "compressed": ("epochs=1",),
}
"""What makes a command short: of a job, of a format of the job export, or of a job of the benchmark."""


def shorten(command):
    """The arguments of a command, with those that make it short instead of its own for the same keys."""
    kinds = {name: name for name in LIMITS if name.startswith("job=")} | {"format=compressed": "compressed"}
    kind = next((kind for argument, kind in kinds.items() if argument in command.arguments), command.job)
    kind = "resume" if "resume=runs" in command.text else kind
    limits = list(LIMITS.get(kind, ()))
    if kind == "train":
        limits += ["data.batch_size=8", *(["callbacks=minimal"] if "callbacks" not in command.text else [])]
        limits += SMALL_NETWORK if "model=resnet" in command.arguments else []
    keys = {limit.partition("=")[0] for limit in limits}
    return [*(word for word in command.arguments if word.partition("=")[0] not in keys), *limits]


@pytest.fixture(scope="module", autouse=True)
def compose_once():
    with composed_once():
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The home directory in which the commands are typed."""
    directory = tmp_path_factory.mktemp("home")
    create_files(directory)
    return directory


@pytest.fixture(scope="module")
def unread_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    create_unread_run(run)
    return run


@pytest.fixture
def compose(home, unread_run, tmp_path, monkeypatch):
    """`compose(command)` composes the configuration of the command and checks it, as its job does before it starts."""

    def compose_command(command):
        enter_places(home, unread_run, tmp_path / "cwd", command.text)
        monkeypatch.chdir(tmp_path / "cwd")
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("CNNZOO_COMMAND", "python {job}.py")
        monkeypatch.setattr(sys, "argv", [f"{command.job}.py", *command.arguments])
        monkeypatch.setattr(cli.hydra, "main", lambda **_: lambda task: lambda: None)  # would run the task
        import_module(f"cnnzoo.jobs.{command.job}").run()

    return compose_command


@pytest.fixture(scope="module")
def run(fork, tmp_path_factory):
    """A finished run."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    done = fork(*RUN_OVERRIDES, f"run_dir={directory}")
    assert done.returncode == 0, done.stderr
    return directory


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command_of_job_composes(command, compose, capsys):
    try:
        compose(command)
    except SystemExit:
        output = "".join(capsys.readouterr())
        assert "--help" in command.arguments or re.search(r"error: sweep=\w+ needs .* type pip install", output), output


@pytest.mark.long
@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.needs], ids=str)
def test_shortened_command_runs(command, fork, home, run, tmp_path):
    if program := re.search(r"sweep=(\w+)", command.text):
        try:
            sweep.check_plugins(program[1], (cli.CONF / f"sweep/{program[1]}.yaml").read_text())
        except UserError as error:
            pytest.skip(str(error))
    enter_places(home, run, tmp_path / "cwd", command.text)
    if " | " in command.text:
        script = command.text.replace("python ", f"{sys.executable} {ROOT}/")
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path / "cwd", capture_output=True, text=True, timeout=300)
    else:
        done = fork(*shorten(command), job=command.job, cwd=tmp_path / "cwd", HOME=str(home))
    assert done.returncode == 0, done.stdout + done.stderr


def test_other_commands_name_what_exists():
    for command in (command for command in read_commands([*PAGES, CONTRIBUTING]) if command.job is None):
        program, *arguments = command.words
        assert program in (*PROGRAMS, "."), f"{command.place}: unknown program {program}; add it to PROGRAMS"
        extras = re.findall(r"(?:\.|cnnzoo)\[([\w,]+)\]", command.text)
        assert {name for names in extras for name in names.split(",")} <= EXTRAS, f"{command.place}: {command}"
        if program == "pytest" and "-m" in arguments:
            assert arguments[arguments.index("-m") + 1] in ("zoo", "long"), f"{command.place}: {command}"


def test_installation_lists_every_extra():
    text = (ROOT / "docs/install.md").read_text()
    assert {extra for extra in EXTRAS if f"\n| `{extra}` |" not in text} == set()
