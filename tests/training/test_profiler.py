"""`trainer=profile`: the trace, the table, and what is said of them."""

import gzip
import json
import re

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cnnzoo.errors import UserError
from cnnzoo.training.profiler import TRACE_NAME, create_profiler

STEPS = 3


@pytest.fixture(scope="module")
def profiled(shell, tmp_path_factory):
    """A profiled training of LeNet-5: (what it printed, the run directory)."""
    run = tmp_path_factory.mktemp("profile") / "run"
    words = ("model=lenet", "trainer=profile", "trainer.accelerator=cpu", f"trainer.profiler.steps={STEPS}")
    done = shell(*words, f"run_dir={run}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout, run


def test_the_trace_holds_the_steps_that_were_asked_for(profiled):
    _, run = profiled
    with gzip.open(run / TRACE_NAME) as file:
        events = json.load(file)["traceEvents"]
    names = [event.get("name", "") for event in events if event.get("ph") == "X"]
    assert len({name for name in names if name.startswith("ProfilerStep#")}) == STEPS
    assert names.count("aten::convolution_backward") == 3 * STEPS  # LeNet-5 has three convolutions


def test_the_most_expensive_operators_are_told_the_longest_first(profiled):
    said, run = profiled
    rows = re.findall(r"^(\S.*?) +([\d.]+) +([\d.]+)% +([\d.,]+)$", said, re.MULTILINE)
    assert len(rows) == 10
    times = [float(time) for _, time, _, _ in rows]
    assert times == sorted(times, reverse=True)
    assert sum(float(share) for _, _, share, _ in rows) <= 100.5
    assert {name: calls for name, _, _, calls in rows}["aten::convolution_backward"] == "3.0"
    assert f"{TRACE_NAME}: open it at https://ui.perfetto.dev" in said
    assert max(len(line) for line in said.splitlines() if "%" in line) <= 80
    events = EventAccumulator(str(run)).Reload()
    (text,) = events.Tensors("profile/text_summary")
    assert b"aten::convolution_backward" in text.tensor_proto.string_val[0]


@pytest.mark.long
def test_a_run_with_too_few_steps_says_so(shell, tmp_path):
    words = ("model=lenet", "trainer=profile", "trainer.accelerator=cpu", "trainer.limit_train_batches=3")
    done = shell(*words, f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "profile: the epoch ended before step 10: nothing was recorded" in done.stdout
    assert not (tmp_path / "run" / TRACE_NAME).exists()


@pytest.mark.parametrize("name", ["warmup", "steps", "rows"])
def test_numbers_that_cannot_be(name):
    with pytest.raises(UserError, match=f"trainer.profiler.{name}=0"):
        create_profiler("somewhere", **{name: 0})
