"""`benchmark.py job=inference`: which settings are measured, its table, files and batch sizes."""

import re

import pytest
import torch
from omegaconf import OmegaConf

from cnnzoo.benchmark import inference_benchmark
from cnnzoo.benchmark.inference_benchmark import inference_settings
from cnnzoo.benchmark.networks import rebuild_network
from cnnzoo.errors import UserError

CPU = torch.device("cpu")
QUICK = ("job=inference", "model=lenet", "trainer=cpu", "seconds=0.001", "rounds=2")


def settings_of(**typed):
    """The texts of the settings if the user types these values; those of `trainer.precision` as `precision`."""
    values = {"precision": "auto", "compile": False, "channels_last": "auto", **typed}
    cfg = OmegaConf.create({**values, "trainer": {"precision": values["precision"]}})
    keys = ["trainer.precision" if key == "precision" else key for key in typed]
    return [setting.text for setting in inference_settings(cfg, keys, CPU)]


def test_all_settings_are_measured_by_default():
    assert settings_of() == [
        "float32",
        "float32, channels last",
        "float32, channels last, compiled",
        "bfloat16, channels last",
        "bfloat16, channels last, compiled",
    ]


@pytest.mark.parametrize(
    ("typed", "texts"),
    [
        ({"compile": False}, ["float32", "float32, channels last", "bfloat16, channels last"]),
        ({"precision": "bf16-mixed", "compile": False}, ["bfloat16", "bfloat16, channels last"]),
        (
            {"precision": "16-true", "compile": "max-autotune"},
            ["float16, compiled (max-autotune)", "float16, channels last, compiled (max-autotune)"],
        ),
        ({"channels_last": False, "compile": True}, ["float32, compiled", "bfloat16, compiled"]),
        ({"channels_last": True, "precision": 32, "compile": False}, ["float32, channels last"]),
    ],
)
def test_typed_setting_is_the_only_one_measured(typed, texts):
    assert settings_of(**typed) == texts


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(inference_benchmark, "missing_package", lambda *_: "it needs g++")
    assert len(settings_of()) == 3
    with pytest.raises(UserError, match=r"^compile=default: it needs g\+\+; type compile=false"):
        settings_of(compile="default")


def test_unknown_precision_is_an_error():
    with pytest.raises(UserError, match=r"^trainer\.precision=64-true: job=inference measures 32-true"):
        settings_of(precision="64-true")


def test_job_measures_each_batch_size(benchmark_job):
    outcome = benchmark_job.run(*QUICK, "batch_sizes=[4,1]", "compile=false")
    results = outcome.contents["results"]
    assert [result["batch_size"] for result in results] == [1] * 3 + [4] * 3
    assert [(result["precision"], result["channels_last"]) for result in results[:3]] == [
        ("float32", False),
        ("float32", True),
        ("bfloat16", True),
    ]
    assert all(result["compile"] is None and len(result["latency"]["rounds_ms"]) == 2 for result in results)
    for result in results:
        expected = 1000 * result["batch_size"] / result["latency"]["median_ms"]
        assert result["images_per_second"] == pytest.approx(expected)
    assert re.search(r"^ +4 +float32 +\d", outcome.output, re.MULTILINE)
    assert re.search(r"^most images +[\d,]+ images/s: ", outcome.output, re.MULTILINE)
    names = sorted(path.name for path in benchmark_job.directory.iterdir())
    assert names == ["inference_benchmark.json", "inference_benchmark.png"]


def test_network_of_the_user_is_measured(benchmark_job):
    network = ("model=custom", "model.target=torchvision.models.squeezenet1_1", "data.image_size=32")
    settings = ("batch_sizes=2", "compile=false", "trainer.precision=32-true", "channels_last=true")
    outcome = benchmark_job.run(*(text for text in QUICK if text != "model=lenet"), *network, *settings)
    assert outcome.contents["settings"]["model"]["target"] == "torchvision.models.squeezenet1_1"
    assert rebuild_network(outcome.contents["settings"]["model"]).classifier


def test_full_memory_ends_with_the_largest_batch_that_fits(benchmark_job, monkeypatch):
    measure = inference_benchmark.measure_batches
    measured = []

    def limited(cfg, network, settings, batch_size, *rest):
        if batch_size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        measured.append(batch_size)
        return measure(cfg, network, settings, batch_size, *rest)

    monkeypatch.setattr(inference_benchmark, "measure_batches", limited)
    outcome = benchmark_job.run(*QUICK, "batch_sizes=[4,8,16]", "compile=false", "trainer.precision=32-true")
    assert "lenet5: out of memory with batches of 8; measuring batches of 4" in outcome.output
    assert measured == [4]
    assert {result["batch_size"] for result in outcome.contents["results"]} == {4}


@pytest.mark.long
def test_compiled_networks_are_measured_for_each_size(benchmark_job):
    overrides = ("batch_sizes=[1,2]", "compile=default", "trainer.precision=32-true", "channels_last=true")
    outcome = benchmark_job.run(*QUICK, *overrides)
    assert [result["compile"] for result in outcome.contents["results"]] == ["default", "default"]
