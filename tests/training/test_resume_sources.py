"""A run on any form of a set, killed and resumed, ends with the same weights as one on the folder that was not."""

from pathlib import Path

import pytest
import torch

from cnnzoo.cli.overrides import quote
from tests.helpers.images import save_image
from tests.helpers.loaders import needs_dali
from tests.helpers.sources import write_all

OVERRIDES = (
    "model=lenet",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "data.batch_size=4",
    "augment=cifar",
    "callbacks=minimal",
    "callbacks.checkpoint.every_n_seconds=1e-9",  # after every step
    "callbacks.checkpoint.background=false",  # so that it is known which step was saved last
    "+callbacks.killer._target_=tests.helpers.killer.Killer",
    "loader.workers=1",
)


@pytest.fixture(scope="module")
def train(fork, tmp_path_factory):
    """`train(form, loader, kill=None)`: the directory of a run, which is resumed after it has killed itself."""
    directory = tmp_path_factory.mktemp("runs")
    for split, count in (("train", 24), ("val", 6), ("test", 4)):
        for number in range(count):
            save_image(directory / "folder" / split / "ab"[number % 2] / f"{number}.{'jpg' if number % 3 else 'png'}")
    options = write_all(directory / "folder", directory / "forms")

    def run(form: str, loader: str, kill: str | None = None) -> Path:
        name = f"{form}_{loader}"
        keys = [quote(f"data.{key}", value) for key, value in options[form].items()]
        command = [f"data={form}", *keys, f"loader={loader}", *OVERRIDES, f"run_dir={name}"]
        process = fork(*command, cwd=directory, **({"KILL": kill} if kill else {}))
        if kill:
            assert process.returncode == -9, process.stderr
            process = fork(f"resume={name}", cwd=directory)
        assert process.returncode == 0, process.stderr
        return directory / name

    return run


@pytest.fixture(scope="module")
def folder_runs(train):
    """A function that returns the directory of the run on the folder with a loader."""
    runs: dict[str, Path] = {}

    def run(loader: str) -> Path:
        if loader not in runs:
            runs[loader] = train("folder", loader)
        return runs[loader]

    return run


@pytest.mark.long
@pytest.mark.parametrize(
    ("form", "loader"),
    [
        ("csv", "torch"),
        ("hf", "torch"),
        pytest.param("webdataset", "dali", marks=needs_dali),
        pytest.param("parquet", "dali", marks=needs_dali),
    ],
)
def test_killed_run_on_any_form_ends_as_the_folder(train, folder_runs, form, loader):
    run = train(form, loader, kill="SIGKILL on_train_batch_end 9")  # in the second of two epochs of six batches
    states = [
        torch.load(directory / "checkpoints/last.ckpt", weights_only=True) for directory in (run, folder_runs(loader))
    ]
    weights, expected = (state["state_dict"] for state in states)
    assert states[0]["global_step"] == states[1]["global_step"] == 12
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
