"""The fixture that runs `benchmark.py` in the test's process."""

import pytest

from tests.helpers.benchmark_job import BenchmarkJob


@pytest.fixture
def benchmark_job(tmp_path, capsys, monkeypatch, caplog):
    return BenchmarkJob(tmp_path, capsys, monkeypatch, caplog)
