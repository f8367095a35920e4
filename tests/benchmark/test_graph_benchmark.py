"""`benchmark.py job=graph`: the variants, their operators and files, missing packages, and start-up."""

import re

import pytest
import torch
from torch import nn

from cnnzoo.benchmark import graph_benchmark, graph_variants, startup
from cnnzoo.benchmark.graph_variants import count_kernels, count_operators
from cnnzoo.benchmark.startup import measure_startup
from cnnzoo.errors import UserError
from cnnzoo.models import create_model

QUICK = ("job=graph", "model=lenet", "trainer=cpu", "data.batch_size=2", "seconds=0.001", "rounds=2")
CODE = """
cpp_fused_relu_0 = async_compile.cpp_pybinding(['float*'], '''
    cpp_fused_relu_0(in_ptr0)
''')
class Runner:
    def call(self, args):
        buf0 = empty_strided_cpu((4, 3), (3, 1), torch.float32)
        cpp_fused_relu_0(arg0_1, buf0)
        buf1 = extern_kernels.convolution(buf0, arg1_1, stride=(1, 1))
        assert_tensor_metadata(buf1, (4, 16), 'torch.ops.aten.convolution.default')
        extern_kernels.addmm(arg2_1, buf1, out=buf2)
        buf3 = torch.ops.aten.max_pool2d_with_indices.default(buf2, [3, 3])
        triton_poi_fused_relu_1.run(buf3, 64, stream=stream0)
        return (buf3, )
"""


@pytest.fixture
def quick_startup(monkeypatch):
    """Start-up is not measured in new processes, which takes seconds; returns the settings of those that were."""
    started = []
    monkeypatch.setattr(
        graph_benchmark, "measure_startup", lambda settings, **environment: started.append(settings) or 1.5
    )
    return started


def test_operators_before_and_after_fusion_are_counted():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 2)).eval()
    program = torch.export.export(net, (torch.zeros(2, 3),))
    assert count_operators(program.graph) == 4
    assert count_kernels(CODE) == 5


def test_job_compares_eager_with_the_exported_file(benchmark_job, quick_startup):
    outcome = benchmark_job.run(*QUICK, "variants=[eager,exported]")
    eager, exported = outcome.contents["results"]
    assert (eager["variant"], exported["variant"]) == ("eager", "exported")
    assert eager["operators"] == exported["operators"] == 12
    assert eager["difference"] == 0
    assert exported["difference"] < 1e-5
    assert eager["prepare_seconds"] is None
    assert exported["prepare_seconds"] > 0
    assert eager["startup_seconds_of_rounds"] == [1.5, 1.5]
    weights = 4 * sum(p.numel() for p in create_model("lenet5").parameters())
    assert all(weights < result["size_bytes"] < 1.5 * weights for result in (eager, exported))
    assert [settings["variant"] for settings in quick_startup] == ["eager", "exported"] * 2
    assert quick_startup[0]["shape"] == [2, 1, 32, 32]
    assert re.search(r"^exported .* 1\.5 s +12 ", outcome.output, re.MULTILINE)
    assert re.search(r"^fastest +(eager|exported): [\d,]+ images/s", outcome.output, re.MULTILINE)
    names = sorted(path.name for path in benchmark_job.directory.iterdir())
    assert names == ["graph_benchmark.json", "graph_benchmark.png"]


def test_variant_that_fails_is_named_and_others_run(benchmark_job, quick_startup, monkeypatch):
    def broken(self):
        raise ValueError("no such operator\nsecond line")

    monkeypatch.setattr(graph_variants.VariantFactory, "_exported", broken)
    outcome = benchmark_job.run(*QUICK, "variants=[exported,eager]", "json=null")
    assert "exported: failed: ValueError: no such operator" in outcome.output.splitlines()
    assert re.search(r"^eager +\d", outcome.output, re.MULTILINE)


@pytest.mark.long
def test_variant_with_other_logits_is_a_warning(benchmark_job, quick_startup, monkeypatch):
    class Shifted(graph_variants.VariantFactory):
        def _exported(self):
            variant = super()._eager()
            variant.name, variant.run = "exported", lambda images: self.net(images) + 1
            return variant

    monkeypatch.setattr(graph_benchmark, "VariantFactory", Shifted)
    outcome = benchmark_job.run(*QUICK, "variants=[eager,exported]", "json=null")
    assert re.search(r"^exported: its logits differ by \d.* of the largest one$", outcome.output, re.MULTILINE)


@pytest.mark.long
def test_full_memory_halves_the_batch_of_all_variants(benchmark_job, quick_startup, monkeypatch):
    make = graph_variants.VariantFactory.make

    def limited(self, name):
        if name == "exported" and len(self.images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return make(self, name)

    monkeypatch.setattr(graph_variants.VariantFactory, "make", limited)
    outcome = benchmark_job.run(*QUICK, "variants=[eager,exported]")
    assert "lenet5: out of memory with batches of 2; measuring batches of 1" in outcome.output
    assert outcome.contents["settings"]["batch_size"] == 1
    assert len(outcome.contents["results"]) == 2


def test_missing_packages_leave_a_variant_out(monkeypatch, caplog):
    monkeypatch.setattr(graph_variants, "find_spec", lambda name: None if name == "onnxscript" else name)
    monkeypatch.setattr(graph_variants.shutil, "which", lambda name: None)
    cpu = torch.device("cpu")
    with caplog.at_level("INFO"):
        assert graph_benchmark.find_variants(None, cpu) == ["eager", "exported"]
    assert 'onnx is left out: it needs onnxscript; type pip install "cnnzoo[onnx]"' in caplog.messages
    assert "compiled is left out: it needs the C++ compiler g++, which is not installed" in caplog.messages
    with pytest.raises(UserError, match=r"^variants=onnx: it needs onnxscript"):
        graph_benchmark.find_variants(["onnx"], cpu)


def test_startup_runs_the_file_alone_in_a_new_process(tmp_path):
    (tmp_path / "program.py").write_text("print('noise')\nprint('ready', flush=True)\n")
    startup_file, startup.__file__ = startup.__file__, str(tmp_path / "program.py")
    try:
        assert measure_startup({}) > 0
        (tmp_path / "program.py").write_text("raise ValueError('no such file')\n")
        with pytest.raises(RuntimeError, match=r"^ValueError: no such file$"):
            measure_startup({})
    finally:
        startup.__file__ = startup_file


@pytest.mark.long
def test_all_variants_start_in_a_new_process(benchmark_job):
    pytest.importorskip("onnxruntime")
    outcome = benchmark_job.run(*QUICK, "rounds=1")
    results = {result["variant"]: result for result in outcome.contents["results"]}
    assert list(results) == ["eager", "compiled", "exported", "aoti", "onnx"]
    assert all(result["startup_seconds"] > 0 and result["difference"] < 1e-4 for result in results.values())
    assert 0 < results["compiled"]["operators_after_fusion"] < results["compiled"]["operators"]
    assert 0 < results["onnx"]["operators_after_fusion"] <= results["onnx"]["operators"]
    assert results["compiled"]["size_bytes"] > results["eager"]["size_bytes"]
