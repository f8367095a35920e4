"""`trainer=profile`: the trace, the table of operators, and the log."""

import gzip
import json
import re

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cnnzoo.errors import UserError
from cnnzoo.training.profiler import TRACE_NAME, create_profiler

STEPS = 3


@pytest.fixture(scope="module")
def profiled_run(shell, tmp_path_factory):
    """A profiled training of LeNet-5: (stdout, run directory)."""
    run = tmp_path_factory.mktemp("profile") / "run"
    overrides = ("model=lenet", "trainer=profile", "trainer.accelerator=cpu", f"trainer.profiler.steps={STEPS}")
    done = shell(*overrides, f"run_dir={run}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout, run


@pytest.mark.long
def test_trace_has_the_configured_steps(profiled_run):
    _, run = profiled_run
    with gzip.open(run / TRACE_NAME) as file:
        events = json.load(file)["traceEvents"]
    names = [event.get("name", "") for event in events if event.get("ph") == "X"]
    assert len({name for name in names if name.startswith("ProfilerStep#")}) == STEPS
    assert names.count("aten::convolution_backward") == 3 * STEPS  # LeNet-5 has three convolutions


@pytest.mark.long
def test_operator_table_is_sorted_by_time(profiled_run):
    stdout, run = profiled_run
    rows = re.findall(r"^(\S.*?) +([\d.]+) +([\d.]+)% +([\d.,]+)$", stdout, re.MULTILINE)
    assert len(rows) == 10
    times = [float(time) for _, time, _, _ in rows]
    assert times == sorted(times, reverse=True)
    assert sum(float(share) for _, _, share, _ in rows) <= 100.5
    assert {name: calls for name, _, _, calls in rows}["aten::convolution_backward"] == "3.0"
    assert f"{TRACE_NAME}: open it at https://ui.perfetto.dev" in stdout
    assert max(len(line) for line in stdout.splitlines() if "%" in line) <= 80
    events = EventAccumulator(str(run)).Reload()
    (text,) = events.Tensors("profile/text_summary")
    assert b"aten::convolution_backward" in text.tensor_proto.string_val[0]


@pytest.mark.long
def test_profile_with_too_few_steps_is_logged(shell, tmp_path):
    overrides = ("model=lenet", "trainer=profile", "trainer.accelerator=cpu", "trainer.limit_train_batches=3")
    done = shell(*overrides, f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "profile: the epoch ended before step 10: nothing was recorded" in done.stdout
    assert not (tmp_path / "run" / TRACE_NAME).exists()


@pytest.mark.parametrize("name", ["warmup", "steps", "rows"])
def test_profiler_number_below_1_is_an_error(name):
    with pytest.raises(UserError, match=f"trainer.profiler.{name}=0: expected a whole number >= 1"):
        create_profiler("somewhere", **{name: 0})
