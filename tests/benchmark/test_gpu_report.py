"""`Report`: lines with a figure, its bar and the result, checks that raise, and the JSON file."""

import json

import pytest

from cnnzoo.benchmark.gpu_report import CheckError, Report, SkippedError
from cnnzoo.errors import UserError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.json"


@pytest.fixture
def report(path, caplog):
    caplog.set_level("INFO")
    return Report(path, {"device": "test"})


@pytest.mark.parametrize(
    ("figure", "relation", "bar", "status"),
    [
        (0.98, ">=", 0.98, "pass"),
        (0.979, ">=", 0.98, "fail"),
        (1, "<=", 1, "pass"),
        (1, "<", 1, "fail"),
        (float("nan"), "<", 1, "fail"),
        (float("nan"), ">=", 1, "fail"),
    ],
)
def test_figure_passes_if_it_meets_the_bar(report, figure, relation, bar, status):
    report.judge("share", figure, "", relation, bar)
    assert [result.status for result in report.results] == [status]


def test_line_shows_check_figure_bar_and_result(report, caplog):
    report.judge("kernel: time", 1234.5, "us", "<", 150)
    report.judge("share", 0.98765, "", ">=", 0.98, note="3,000 images/s")
    lines = [" ".join(record.getMessage().split()) for record in caplog.records]
    assert lines == ["kernel: time 1,234 us < 150 FAIL", "share 0.988 >= 0.98 pass: 3,000 images/s"]


def test_check_that_raises_fails_and_the_others_run(report, caplog):
    with report.checking("kernel"):
        raise RuntimeError("CUDA error: an illegal memory access\nCompile with TORCH_USE_CUDA_DSA")
    with report.checking("labels"):
        raise CheckError("the labels differ")
    with report.checking("DALI"):
        raise SkippedError("DALI is not installed")
    report.measure("rate", 55, "GB/s")
    assert [(result.check, result.status, result.reason) for result in report.results] == [
        ("kernel", "fail", "RuntimeError: CUDA error: an illegal memory access"),
        ("labels", "fail", "the labels differ"),
        ("DALI", "skipped", "DALI is not installed"),
        ("rate", "measured", ""),
    ]
    assert len(caplog.records) == 4
    assert not any("\n" in record.getMessage() for record in caplog.records)


def test_interrupt_ends_all_checks(report):
    with pytest.raises(KeyboardInterrupt), report.checking("kernel"):
        raise KeyboardInterrupt
    assert report.results == []


def test_json_has_every_result_after_each_line(report, path):
    report.judge("share", 0.99, "", ">=", 0.98, rounds=[0.98, 1.0])
    first = json.loads(path.read_text())
    assert first["passed"] is True
    assert first["machine"] == {"device": "test"}
    assert first["results"] == [
        {
            **{"check": "share", "status": "pass", "figure": 0.99, "unit": "", "relation": ">=", "bar": 0.98},
            **{"reason": "", "details": {"rounds": [0.98, 1.0]}},
        }
    ]
    report.judge("difference", float("nan"), "of 255", "<=", 1)
    report.skip("DALI", "DALI is not installed")
    second = json.loads(path.read_text())
    assert second["counts"] == {"pass": 1, "fail": 1, "skipped": 1, "measured": 0}
    assert [result["figure"] for result in second["results"]] == [0.99, None, None]


def test_skipped_check_is_not_passed_in_json(report):
    report.judge("share", 1, "", ">=", 0.98)
    report.measure("rate", 55, "GB/s")
    assert report.to_dict()["passed"] is True
    report.skip("DALI", "DALI is not installed")
    assert report.to_dict()["passed"] is False
    assert report.failed == []


def test_unwritable_json_is_a_user_error(tmp_path):
    report = Report(tmp_path / "missing" / "results.json", {})
    with pytest.raises(UserError, match=r"^json=.*results\.json cannot be written: No such file"), report.checking("a"):
        report.measure("rate", 55, "GB/s")
