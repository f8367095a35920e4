"""Every command and call that a hurried user types is answered in one helpful line; see `tests.mistakes.run`."""

import sys
from importlib import import_module

import hydra
import pytest
from omegaconf import OmegaConf

from cnnzoo import cli
from tests.helpers import ROOT
from tests.helpers.compose import composed_once
from tests.mistakes.case import SKIPPED
from tests.mistakes.cases import CASES
from tests.mistakes.places import RUNS, SHORT, create_files, create_runs, enter_places
from tests.mistakes.runner import FAULTS, Result, Runner, classify

QUICK = [case for case in CASES if case.in_process]
OTHERS = [case for case in CASES if not case.in_process]


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The places, with runs that have a configuration and empty checkpoints."""
    directory = tmp_path_factory.mktemp("mistakes") / "places"
    create_files(directory)
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        cfg = hydra.compose("train", overrides=list(SHORT))
    for name in RUNS:
        run = directory / name / ("0_lenet5" if name == "sweep" else "")
        for part in (".hydra", "checkpoints"):
            (run / part).mkdir(parents=True)
        (run / ".hydra/overrides.yaml").write_text(OmegaConf.to_yaml(list(SHORT)))
        (run / ".hydra/config.yaml").write_text(OmegaConf.to_yaml(cfg))
        (run / "checkpoints/last.ckpt").touch()
    (directory / "run/metrics.json").write_text("{}")
    return directory


@pytest.fixture(scope="session")
def runner(tmp_path_factory):
    """Runs cases in subprocesses."""
    directory = tmp_path_factory.mktemp("mistakes")
    create_files(directory / "places")
    create_runs(ROOT, directory / "places")
    runner = Runner(ROOT, directory / "places", directory / "cases")
    yield runner
    runner.close()


@pytest.fixture(scope="module", autouse=True)
def compose_once():
    with composed_once():
        yield


@pytest.mark.parametrize("case", QUICK, ids=str)
def test_mistake_before_hydra_is_one_line(case, files, tmp_path, monkeypatch, capsys):
    enter_places(files, tmp_path / "é", case.typed)
    monkeypatch.chdir(tmp_path / "é")
    monkeypatch.setenv("CNNZOO_COMMAND", "python {job}.py")
    monkeypatch.setattr(sys, "argv", [f"{case.job}.py", *case.argv])
    monkeypatch.setattr(cli.hydra, "main", lambda **_: lambda task: lambda: None)  # an accepted command does nothing
    code = 0
    try:
        import_module(f"cnnzoo.jobs.{case.job}").run()
    except SystemExit as exit_:
        code = exit_.code
    output = "".join(capsys.readouterr())
    assert not classify(Result(case, code, output, seconds=0)), output


@pytest.mark.long
@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_mistake_is_one_line(case, runner):
    result = runner.run(case)
    if result.code == SKIPPED:
        pytest.skip("this machine does not allow it")
    assert not set(result.faults) & set(FAULTS), f"{result.faults}: {result.output}"


def test_cases_are_many_and_distinct():
    names = [str(case) for case in CASES]
    assert len(set(names)) == len(names) > 300
