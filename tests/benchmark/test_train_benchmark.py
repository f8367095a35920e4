"""`benchmark.py job=train`: its lines, operations per image, timm, and images that are generated or the user's."""

import re
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from cnnzoo.benchmark import Training, peak, train_benchmark
from cnnzoo.benchmark.gpu_images import write_photographs
from cnnzoo.benchmark.peak import measured_peak, training_flops
from cnnzoo.benchmark.train_benchmark import HAND, TIMM, TRAINER, Speed
from cnnzoo.errors import UserError
from cnnzoo.models import create_model

QUICK = (
    "job=train",
    "model=lenet",
    "trainer=cpu",
    "data.batch_size=2",
    "seconds=0.001",
    "rounds=2",
    "loader.workers=0",
)


@pytest.fixture
def fake_timm(monkeypatch):
    """A package timm with one network, `lenet5`."""
    module = ModuleType("timm")
    module.__spec__ = ModuleSpec("timm", None)
    module.is_model = lambda name: name == "lenet5"
    module.create_model = lambda name, num_classes, in_chans: create_model(
        name, num_classes=num_classes, in_channels=in_chans
    )
    monkeypatch.setitem(sys.modules, "timm", module)


def test_operations_of_a_linear_layer_are_counted_exactly():
    def build():
        return nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 3))

    forward = 2 * (8 * 4 + 4 * 3)
    weights, inputs = forward, 2 * 4 * 3  # the gradient of the images is not needed
    assert training_flops(build, (2, 2, 2)) == forward + weights + inputs


def test_operations_include_auxiliary_heads_if_trained():
    class WithHead(nn.Sequential):
        def forward_with_aux(self, images):
            return self(images), [self(images)]

    def build():
        return WithHead(nn.Flatten(), nn.Linear(8, 4))

    assert training_flops(build, (2, 2, 2)) == 2 * 2 * 8 * 4
    assert training_flops(build, (2, 2, 2), with_aux=True) == 2 * 2 * 2 * 8 * 4


def test_peak_is_the_best_rate_of_all_sizes(monkeypatch):
    monkeypatch.setattr(peak, "MATRIX_SIZES", {"cpu": (10, 20)})
    monkeypatch.setattr(peak, "time_call", lambda call, device: 1.0 if len(call.args[0]) == 10 else 4.0)
    assert measured_peak(torch.device("cpu"), torch.float32, seconds=0) == 2 * 20**3 / 4


def test_share_is_the_median_of_the_rounds():
    fast, slow = Speed("loop", 1.0, [10.0, 20.0, 40.0]), Speed("train.py", 1.0, [9.0, 19.0, 20.0])
    assert slow.share(fast) == 0.9
    assert slow.flops_per_second == 19.0


def test_job_measures_trainer_loop_and_timm(benchmark_job, fake_timm):
    outcome = benchmark_job.run(*QUICK, "images=12")
    results = {result["name"]: result for result in outcome.contents["results"]}
    assert list(results) == [TRAINER, HAND, TIMM]
    assert all(len(result["images_per_second_of_rounds"]) == 2 for result in results.values())
    assert results[HAND]["share_of_loop"] == 1
    assert len({result["flops_per_image"] for result in results.values()}) == 1
    assert results[TRAINER]["data_wait"] is not None
    assert results[HAND]["data_wait"] is None
    assert outcome.contents["settings"]["data"] == "generated JPEGs"
    assert outcome.contents["peak_flops_per_second"] > 0
    assert re.search(r"^data +generated JPEGs: 12 training images", outcome.output, re.MULTILINE)
    assert re.search(r"^train\.py +\d+% of the speed of the hand-written loop, ", outcome.output, re.MULTILINE)
    names = sorted(path.name for path in benchmark_job.directory.iterdir())
    assert names == ["train_benchmark.json", "train_benchmark.png"]


@pytest.mark.long
def test_job_measures_the_images_of_the_user(benchmark_job, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(train_benchmark, "find_spec", lambda name: None)
    root = tmp_path_factory.mktemp("photos")
    write_photographs(root, {"train": 20, "val": 10}, 32, 40)
    outcome = benchmark_job.run(*QUICK, "rounds=1", "data=folder", f"data.root={root}", "json=null")
    assert re.search(r"^data +folder: 20 training images", outcome.output, re.MULTILINE)
    assert "timm is left out: it is not installed; type pip install timm" in outcome.output


@pytest.mark.long
def test_full_memory_halves_the_batch_and_measures_again(benchmark_job, monkeypatch):
    measure = train_benchmark.measure_hand_loop

    def limited(training, data, device, **options):
        if data.batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return measure(training, data, device, **options)

    monkeypatch.setattr(train_benchmark, "measure_hand_loop", limited)
    outcome = benchmark_job.run(*QUICK, "rounds=1", "images=12", "data.batch_size=4")
    assert "lenet5: out of memory with batches of 4; measuring batches of 2" in outcome.output
    assert outcome.contents["settings"]["batch_size"] == 2
    assert all(len(result["images_per_second_of_rounds"]) == 1 for result in outcome.contents["results"])


def test_network_that_timm_lacks_is_left_out(fake_timm, caplog):
    with caplog.at_level("INFO"):
        assert train_benchmark.timm_network("fractalnet20", "native", 10, 3) is None
        assert train_benchmark.timm_network("lenet5", "small", 10, 3) is None
    assert caplog.messages == [
        "timm is left out: it has no network named fractalnet20",
        "timm is left out: it has no network named lenet5 with a small stem",
    ]


@pytest.mark.parametrize(("rate", "text"), [(3.12e14, "312 TFLOP/s"), (9.85e10, "98.5 GFLOP/s")])
def test_operations_per_second_have_a_unit(rate, text):
    assert train_benchmark.format_flops(rate) == text


def test_precision_without_a_loop_is_an_error():
    cfg = OmegaConf.create({"trainer": {"precision": "64-true"}})
    training = Training(cfg, None, None, None)
    with pytest.raises(UserError, match=r"^trainer\.precision=64-true: job=train compares 32-true and bf16-mixed;"):
        train_benchmark.run_train_benchmark(cfg, training)
