"""The charts of the report, and that a report shows text as it is."""

import re
from html import escape
from xml.etree import ElementTree

import numpy as np
import pytest

from cnnzoo.evaluate.charts import Axis, line_chart, reliability_chart, scatter_chart
from cnnzoo.evaluate.evaluation import Bin, Evaluation
from cnnzoo.evaluate.members import Group, Member, read_curves
from cnnzoo.evaluate.plots import MAP_SIDE, confusion_picture
from cnnzoo.evaluate.report import write_report


def test_linear_axis_has_round_ticks_that_cover_the_values():
    axis = Axis([0.883, 0.957], 100, 0)
    assert axis.ticks == [0.88, 0.9, 0.92, 0.94, 0.96]
    assert axis(0.88) == 100
    assert axis(0.92) == pytest.approx(50)


@pytest.mark.parametrize(
    ("values", "ticks"), [([1, 3], [1, 2, 3]), ([4], [4]), ([1, 300], [0, 100, 200, 300]), ([7, 8], [7, 8])]
)
def test_whole_axis_has_whole_ticks(values, ticks):
    axis = Axis(values, 0, 100, whole=True)
    assert axis.ticks == ticks
    assert all(0 <= axis(value) <= 100 for value in values)


def test_log_axis_has_powers_of_ten_and_between():
    assert Axis([61_706, 700_000], 0, 1, log=True).ticks == [5e4, 1e5, 2e5, 5e5, 1e6]
    assert Axis([60, 2e6], 0, 1, log=True).ticks == [10, 100, 1e3, 1e4, 1e5, 1e6, 1e7]
    axis = Axis([100, 10_000], 0, 100, log=True)
    assert axis(1000) == pytest.approx(50)


def elements(chart, css_class):
    return [node for node in ElementTree.fromstring(chart).iter() if node.get("class") == css_class]


def test_line_chart_has_a_line_for_each_network():
    chart = line_chart("loss", {1: [(1, 0.5), (2, 0.25)], 12: [(1, 0.4)]}, {1: "1 a", 12: "12 <b>"}, "epoch")
    lines = elements(chart, "line")
    assert [len(line.get("points").split()) for line in lines] == [2, 1]
    (_, first_y), (_, second_y) = (point.split(",") for point in lines[0].get("points").split())
    assert float(first_y) < float(second_y)  # downwards, as the loss
    assert "var(--c1)" in chart
    assert [node.text for node in ElementTree.fromstring(chart).iter("title")] == ["1 a", "12 <b>"]


def test_scatter_chart_numbers_the_networks():
    chart = scatter_chart("accuracy", {1: (50_000, 0.9), 2: (5e6, 0.95)}, {1: "1 a", 2: "2 b"}, "parameters")
    assert [node.text for node in elements(chart, "number")] == ["1", "2"]
    assert {"50k", "100k", "1M", "5M"} <= {node.text for node in elements(chart, "tick")}


def test_reliability_chart_shows_over_and_underconfidence():
    bins = [Bin(0, 0.0, 0.0)] * 13 + [Bin(10, 0.9, 0.7), Bin(5, 0.95, 1.0)]
    chart = reliability_chart("reliability", bins)
    assert (len(elements(chart, "over")), len(elements(chart, "under")), len(elements(chart, "bar"))) == (1, 1, 2)


def test_confusion_of_many_classes_is_a_map_of_colors():
    confusion = np.diag(np.full(100, 5))
    confusion[0, 1] = 5
    picture = confusion_picture(confusion, [str(n) for n in range(100)])
    assert picture.shape == (MAP_SIDE, MAP_SIDE, 3)
    blue, pink, white = (picture[4, 4 + 8 * column].tolist() for column in range(3))
    assert blue[2] > blue[0]
    assert pink[0] > pink[2]
    assert white == [255, 255, 255]


def test_read_curves_counts_epochs_and_leaves_out_gaps(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,val/acc1,val/loss\n0,,\n0,0.5,nan\n1,0.75,0.1\n")
    curves = read_curves(tmp_path)
    expected = {"train/loss_epoch": [], "val/loss": [(2, 0.1)], "val/acc1": [(1, 0.5), (2, 0.75)], "val/map": []}
    assert curves == expected
    assert read_curves(tmp_path / "none") == read_curves(None)


def test_report_escapes_names(tmp_path):
    name = '<script>alert("$x & y")</script>'
    metrics = {"loss": 0.1, "acc1": 0.5, "balanced_acc": 0.5, "f1": 0.5, "calibration_error": 0.1}
    bins = (Bin(2, 0.5, 0.5),)
    evaluation = Evaluation((name, "b"), metrics, 1.0, np.eye(2, dtype=np.int64), bins, (), None)
    texts = {"label": name, "network": name, "data": name, "split": "test", "precision": "32-true", "device": name}
    member = Member(
        **texts,
        parameters=10,
        multiply_accumulates=None,
        batch_size=1,
        test_time_flip=False,
        run={},
        curves={},
        evaluation=evaluation,
    )
    write_report(tmp_path / "report.html", [member], [Group([0])])
    html = (tmp_path / "report.html").read_text()
    assert "<script" not in html
    assert escape(name) in html
    assert not re.search(r"<t[dh][^>]*>(epochs|commit)<", html)
