"""`benchmark.py job=gpu` on the CPU with small sizes: its lines, its JSON file, failing checks and mistakes."""

import json
import re
from dataclasses import replace
from functools import partial

import hydra
import pytest
import torch

from cnnzoo import benchmark, cli
from cnnzoo.benchmark import gpu_benchmark, gpu_checks
from cnnzoo.benchmark.gpu_benchmark import SMALL, SYNC_STEPS, GpuBenchmark
from cnnzoo.benchmark.gpu_report import Report
from cnnzoo.benchmark.gpu_run_checks import check_synchronizations
from cnnzoo.data import TorchLoader
from cnnzoo.data.loaders import gpu_kernel
from cnnzoo.data.loaders.dali_loader import dali_problem
from cnnzoo.errors import UserError
from cnnzoo.jobs import benchmark as job
from tests.helpers.gpu_kernel import needs_interpreter, transform_by_interpolate

QUICK = ("job=gpu", "trainer=cpu", "seconds=0.01", "rounds=1")
VARIANTS = ("random_resized", "padded", "center", "erased", "evaluation")
PATHS = ("set on the GPU", "workers")


@pytest.fixture
def compose():
    def compose(*overrides):
        prepared, _ = cli.prepare([*QUICK, *overrides], job="benchmark", help_text="")
        with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
            return hydra.compose("benchmark", overrides=prepared)

    return compose


@pytest.fixture
def run_job(compose, tmp_path, monkeypatch, caplog):
    """Runs the job in this process; returns its error, or None, and the contents of the JSON file."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(gpu_kernel, "transform", transform_by_interpolate)  # the interpreter takes 0.1 s per image
    monkeypatch.setattr(gpu_benchmark, "SMALL", replace(SMALL, networks=("lenet5",), memory_epochs=4))

    def run(*overrides):
        path, error = tmp_path / "results.json", None
        with caplog.at_level("INFO"):
            try:
                job.main(compose(f"json={path}", *overrides))
            except UserError as raised:
                error = str(raised)
        return error, json.loads(path.read_text())

    return run


def results(contents, status):
    return [result["check"] for result in contents["results"] if result["status"] == status]


def test_all_checks_that_need_no_gpu_pass(run_job, caplog):
    error, contents = run_job()
    figures = {result["check"]: result for result in contents["results"]}
    timed = {f"host, parameters of 128 images, {name}" for name in ("random_resized", "erased")}
    failed = set(results(contents, "fail"))
    assert failed <= timed  # another process may have slowed them down
    assert (error is None) == (not failed)
    dali = [f"DALI on the CPU, {name}: mean difference" for name in VARIANTS]
    dali += ["DALI on the CPU: pipelines built again"]
    dali += [f"DALI, hw_decoder_load=0: {name}" for name in ("wrong batches", "pipelines built again")]
    passed = [
        *(f"kernel, {name}: {kind} difference" for name in VARIANTS for kind in ("largest", "mean")),
        *(f"{name}: {check}" for check in ("wrong batches", "growth of process memory") for name in PATHS),
        *([] if dali_problem() else dali),
    ]
    assert set(passed) <= set(results(contents, "pass"))
    assert {figures[name]["figure"] for name in passed if "wrong batches" in name} == {0}
    assert set(results(contents, "measured")) == {"lenet5: training / hand-written loop", "kernel: time per batch"}
    skipped = [
        "host to device, from pinned memory",
        *(f"{name}: synchronizations" for name in PATHS),
        *(f"{name}: growth of {kind} GPU memory" for kind in ("allocated", "reserved") for name in PATHS),
    ]
    assert set(skipped) <= set(results(contents, "skipped"))
    assert all(figures[name]["reason"] == "no CUDA GPU" for name in skipped)
    assert contents["passed"] is False  # because some were skipped
    assert set(figures["lenet5: training / hand-written loop"]["details"]["shares"]) == set(PATHS)
    assert contents["machine"]["packages"]["torch"]
    lines = [record.getMessage() for record in caplog.records]
    assert [sum(line.startswith(f"{name} ") for line in lines) for name in figures] == [1] * len(figures)
    assert re.fullmatch(rf"result +{len(results(contents, 'pass'))} pass, .*", lines[-4])
    assert re.fullmatch(r"chart +.*results\.png", lines[-1])


def test_failing_check_fails_the_job_and_others_run(run_job, monkeypatch):
    def zeros(source, table, out, erase_fill):
        out.zero_()

    def broken(*_):
        raise RuntimeError("out of memory\nsecond line")

    monkeypatch.setattr(gpu_kernel, "transform", zeros)
    monkeypatch.setattr(gpu_benchmark, "check_memory", broken)
    monkeypatch.setattr(gpu_checks, "dali_problem", lambda cuda: "DALI is not installed: pip install it")
    error, contents = run_job()
    failed = {result["check"]: result for result in contents["results"] if result["status"] == "fail"}
    for name in VARIANTS:
        assert failed[f"kernel, {name}: largest difference"]["figure"] > 100
        assert f"kernel, {name}: mean difference" in failed
    assert failed["workers: growth of memory"]["reason"] == "RuntimeError: out of memory"
    assert "workers: wrong batches" in results(contents, "pass")
    assert "lenet5: training / hand-written loop" in results(contents, "measured")
    reasons = {result["check"]: result["reason"] for result in contents["results"] if result["status"] == "skipped"}
    assert (
        reasons["DALI"] == reasons["DALI, hw_decoder_load=0: wrong batches"] == "DALI is not installed: pip install it"
    )
    assert re.match(rf"job=gpu: {len(failed)} checks failed: .*, and {len(failed) - 1} more$", error)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["job=gqu"], "unknown job 'gqu': did you mean gpu?"),
        (["seconds=0"], "seconds=0: expected a number > 0 and <= 3600"),
        (["rounds=0"], "rounds=0: expected a whole number >= 1"),
        (["small=maybe"], "small=maybe: expected true or false or auto"),
        (["json=/no/such/place.json"], "json=/no/such/place.json cannot be written: there is no directory /no/such"),
        (["json=/"], "json=/ cannot be written: Is a directory"),
    ],
)
def test_invalid_override_is_an_error_before_measuring(overrides, message, compose, monkeypatch):
    monkeypatch.setattr(benchmark, "run_gpu_benchmark", None)
    with pytest.raises(UserError) as error:
        job.main(compose(*overrides))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        ("gpu", "model.name", "model.name: job=gpu does not read it; leave it out"),
        ("gpu", "csv", "csv: only job=data reads it; leave it out"),
        ("data", "small", "small: only job=gpu reads it; leave it out"),
    ],
)
def test_key_of_the_other_job_is_an_error(name, key, message, compose, monkeypatch):
    monkeypatch.setattr(benchmark, "run_gpu_benchmark", None)
    monkeypatch.setattr(cli, "typed_keys", lambda: ["job", key])
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        job.main(compose(f"job={name}"))


def test_synchronization_check_counts_all_steps_but_the_first(compose, monkeypatch, tmp_path):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    checks = GpuBenchmark(compose(), job.build_training, torch.device("cpu"), SMALL, Report(None, {}), tmp_path)
    training = checks._training(max_epochs=1, limit_train_batches=SYNC_STEPS, limit_val_batches=1)
    check_synchronizations(checks.report, "workers", *training, partial(TorchLoader, workers=0))
    results = [(result.figure, result.status, result.details["steps"]) for result in checks.report.results]
    assert results == [(0, "pass", 36), (0, "pass", 4)]
    assert modes == ["warn", "default"]


@pytest.mark.long
@needs_interpreter
def test_script_runs_the_kernel_in_the_interpreter(tmp_path, fork):
    process = fork(*QUICK, job="benchmark", cwd=tmp_path, TRITON_INTERPRET="0")
    contents = json.loads((tmp_path / "gpu_benchmark.json").read_text())
    failed = [name for name in results(contents, "fail") if not name.startswith("host, ")]
    assert failed == []
    assert process.returncode == (1 if contents["counts"]["fail"] else 0)
    assert "kernel, random_resized: largest difference" in results(contents, "pass")
    assert {path.name for path in tmp_path.iterdir()} == {"gpu_benchmark.json", "gpu_benchmark.png"}
