"""`benchmark.py job=hardware`: the published times, its table and files, and the settings that it measures."""

import re
import sys
from pathlib import Path

import torch

from cnnzoo.benchmark import hardware_benchmark, published, timing
from cnnzoo.benchmark.hardware_benchmark import PassTimes, ratio_text, ratios_of, times_table
from cnnzoo.benchmark.published import CPU, GPU, GPU_WITHOUT_CUDNN, PUBLISHED_NAMES, PublishedTime, published_time
from cnnzoo.benchmark.result_files import save_chart
from cnnzoo.benchmark.timing import Timing
from cnnzoo.describe.tables import make_console
from cnnzoo.errors import UserError

QUICK = ("job=hardware", "models=[resnet20]", "data.image_size=8", "data.batch_size=2", "seconds=0.001", "rounds=2")


def test_published_times_are_those_of_cnn_benchmarks():
    assert published_time("vgg16", GPU) == PublishedTime(41.59, 87.03, 128.62)
    assert published_time("vgg16", GPU_WITHOUT_CUDNN) == PublishedTime(98.15, 260.38, 358.53)
    assert published_time("vgg16", CPU) == PublishedTime(3101.76, 5393.72, 8495.48)
    assert published_time("googlenet", GPU) == published_time("googlenet_paper", GPU) is not None
    assert published_time("alexnet", CPU) is None
    assert published_time("densenet121", GPU) is None
    assert all(published_time(name, GPU) for name in PUBLISHED_NAMES)


def test_published_ratios_are_those_of_the_lecture():
    cpu_over_gpu = ratios_of((CPU, GPU), list(PUBLISHED_NAMES), {})
    plain_over_cudnn = ratios_of((GPU_WITHOUT_CUDNN, GPU), list(PUBLISHED_NAMES), {})
    assert ratio_text(cpu_over_gpu, "GPU / CPU") == "not measured here; published: 64 to 77 times"
    assert ratio_text(plain_over_cudnn, "cuDNN") == "not measured here; published: 2.4 to 3.7 times"


def test_published_file_has_its_licence_beside_it():
    text = (Path(published.__file__).parent / "published_NOTICE.txt").read_text()
    assert "MIT License" in text
    assert "Copyright (c) 2016 Justin Johnson" in text


def test_table_has_a_row_per_column_and_empty_cells(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    measured = PassTimes("vgg16", CPU, 8, Timing([1.0]), Timing([2.0]), Timing([3.0, 3.0, 3.3]))
    make_console().print(times_table(["vgg16", "alexnet"], {("vgg16", CPU): measured}, 16, has_published=True))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines[2:] if line.strip()]
    assert rows == [
        ["vgg16", "CPU,", "batch", "8", "1,000", "2,000", "3,000", "10%", "3,102", "5,394", "8,495"],
        ["GPU", "41.59", "87.03", "128.6"],
        ["GPU,", "no", "cuDNN", "98.15", "260.4", "358.5"],
        ["alexnet", "CPU"],
        ["GPU", "5.04", "9.52", "14.56"],
        ["GPU,", "no", "cuDNN"],
    ]


def test_job_writes_table_json_and_chart(benchmark_job):
    outcome = benchmark_job.run(*QUICK, "trainer=cpu")
    (result,) = outcome.contents["results"]
    assert (result["network"], result["column"], result["batch_size"]) == ("resnet20", CPU, 2)
    assert result["total"]["median_ms"] > result["forward"]["median_ms"] > 0
    assert len(result["total"]["rounds_ms"]) == 2
    assert result["published_total_ms"] is None
    assert {"processor", "date", "packages", "threads"} <= set(outcome.contents["machine"])
    assert "benchmark" in outcome.contents["command"]
    assert re.search(r"^resnet20 CPU +\d", outcome.output, re.MULTILINE)
    assert "are therefore not shown" in " ".join(outcome.output.split())
    names = ["hardware_benchmark.json", "hardware_benchmark.png"]
    assert sorted(path.name for path in benchmark_job.directory.iterdir()) == names
    assert Path(names[1]).read_bytes().startswith(b"\x89PNG")


def test_cudnn_is_off_only_for_its_column(benchmark_job, monkeypatch):
    device, seen = torch.device("cpu"), []
    monkeypatch.setattr(hardware_benchmark, "find_columns", lambda _: dict.fromkeys(published.COLUMNS, device))
    monkeypatch.setattr(timing, "synchronize", lambda _: seen.append(torch.backends.cudnn.enabled))
    monkeypatch.setattr(hardware_benchmark, "_gpu_text", lambda *_: "a GPU")
    outcome = benchmark_job.run(*QUICK, "json=results.json")
    assert [result["column"] for result in outcome.contents["results"]] == [CPU, GPU, GPU_WITHOUT_CUDNN]
    changes = [value for value, previous in zip(seen, [None, *seen], strict=False) if value != previous]
    assert changes == [True, False]
    assert torch.backends.cudnn.enabled
    assert set(outcome.contents["ratios"]["GPU / CPU"]["measured"]) == {"resnet20"}
    assert "times as fast here; published: none for these networks" in outcome.output


def test_network_that_does_not_fit_leaves_the_others(benchmark_job, monkeypatch):
    def measure(name, column, device, image_size, cfg):
        if name == "vgg16":
            raise UserError("vgg16, CPU: out of memory with one image")
        return PassTimes(name, column, 2, Timing([1.0]), Timing([1.0]), Timing([2.0]))

    monkeypatch.setattr(hardware_benchmark, "measure_passes", measure)
    outcome = benchmark_job.run("job=hardware", "models=[vgg16,resnet18]", "trainer=cpu", "json=null")
    assert "vgg16, CPU: out of memory with one image" in outcome.output
    assert re.search(r"^resnet18 CPU, batch 2 +1,000 +1,000 +2,000", outcome.output, re.MULTILINE)
    assert list(benchmark_job.directory.iterdir()) == []


def test_without_matplotlib_only_the_chart_is_missing(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with caplog.at_level("INFO"):
        assert not save_chart(tmp_path / "x.png", lambda figure: None, height=1)
    assert caplog.messages == [
        f'{tmp_path / "x.png"} is left out: it needs matplotlib; type pip install "cnnzoo[plot]"'
    ]
    assert list(tmp_path.iterdir()) == []
